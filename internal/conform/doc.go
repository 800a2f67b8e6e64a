// Package conform checks whether a process that stands in for a part of the engine keeps the protocol. Scheduler asks a
// scheduling policy on its subject, with queues of every shape and with what nobody should send, and reports each
// check.
package conform
