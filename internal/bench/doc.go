// Package bench measures the engine the way its users argue about it: what the split into actors costs
// against plain function calls ([RunBus]), and what a server gives its clients under load ([RunServe]).
//
//	stats.go     quantiles, medians over rounds, the machine's load
//	device.go    a device that takes exactly as long as it is told
//	sink.go      where its tokens go, and the check that none is lost
//	bare.go      scheduler and memory cores in a loop of function calls: the baseline
//	company.go   the same cores as actors on the bus
//	tap.go       an outside subscriber that must see every message
//	bus.go       rounds of both, alternating; bus_micro.go single hops; bus_text.go the report
//	workload.go  prompts, lengths and arrival times of a load
//	client.go    who sends them: over HTTP (client_http.go) or NATS (client_nats.go)
//	serve.go     one run under load; metrics.go what it means; serve_text.go the report
//	compare.go   several concurrencies, alternating in one run
//	cpushare.go  how much of the processor's time the load generator itself took; cpu_*.go how much all did
//
// Both report quantities under the names that others use, with medians of alternating rounds, because a
// machine is rarely quiet.
package bench
