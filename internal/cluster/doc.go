// Package cluster makes a node a member of a cluster: it tells the others who plays what here, what the replica's
// load is and which prefixes it holds, and lets the node be drained. That a member stops telling is how the others
// notice that it is gone; package actors/gateway listens.
//
//	member.go      the node's reports, and draining
//	replica.go     the reports of a replica whose scheduler is here
//	schedulers.go  schedulers for devices on other nodes
//	state.go       what operators decide for all nodes
//
// Beside the path of a request. In: the states of this node's scheduler and memory. Out: schemas.NodeReport,
// schemas.ReplicaReport. Next: actors/gateway, cmd/troupe.
package cluster
