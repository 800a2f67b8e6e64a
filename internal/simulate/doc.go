// Package simulate runs a workload through the engine's own scheduler and memory cores in virtual time. Steps take
// what a profile says that they take; everything else is the code that serves: chunked prefill, the pipeline of
// steps, preemption, prefix reuse, eviction and routing are not modelled but done.
//
//	config.go    what is simulated
//	world.go     the loop over events: arrivals and finished steps
//	engine.go    one replica: scheduler core, memory core and a device that only takes time
//	ask.go       policies in other processes, for which virtual time waits
//	future.go    what Belady's eviction has to know
//	route.go     several replicas: who gets a request
//	metrics.go   what clients would have seen; series.go how it developed
//	report.go    the result; text.go for people, csv.go, html.go and png.go
//	sweep.go     many configurations
//
// There are no goroutines, no clock and no chance but that of the workload: the same configuration and workload give
// the same report, on every run and machine. So do policies in other processes whose answers depend on their questions
// alone, unless they are to take in virtual time what they really take.
package simulate
