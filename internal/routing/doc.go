// Package routing decides which replica gets a request. It is a pure core: no clock, goroutine, I/O or map
// order, and all chance comes from a seed, so the gateway and the simulator make the same decisions from the
// same reports.
//
// The parts, in reading order:
//
//	router.go   what is known of the replicas, and what is on its way to them
//	policy.go   round robin, least loaded, power of two choices, prefix-aware; more can be registered
//	affinity.go sessions stay where they were, within bounds of load
//	index.go    which replica holds which prefix
//	keys.go     names of prefixes, the same on every machine
//
// Step 3 of a request's way, where there is more than one replica. In: a prompt's tokens, the replicas' reports.
// Out: the replica to submit to. Next: actors/scheduler.
package routing
