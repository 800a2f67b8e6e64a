// Package measure learns what steps cost from a live engine in this process: it sends loads through the whole stack,
// sees every plan and every result on the bus, and fits a profile to them. What other work on the same processors costs
// the steps is in the figures, as it is in those of an engine that serves.
//
//	watch.go    plans and results as they pass
//	load.go     a workload sent to an engine, and what its clients saw
//	live.go     steps of an engine that serves others
//	measure.go  the loads that cover the shapes of steps
package measure
