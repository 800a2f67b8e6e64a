// Package bus connects actors. In one process a message is a typed pointer handed from caller to
// handler, at the cost of a function call; between processes the same message travels as msgpack over
// NATS. Callers cannot tell the difference: they hold a [Ref] and call it.
//
// The parts, in reading order:
//
//	node.go     a process on the bus: embedded NATS server, connections, routes
//	server.go   its configuration and login
//	auth.go     what each role may do between machines; auth_listen.go: TLS, credentials, and nothing that listens
//	            to everybody; auth_keys.go makes keys
//	mailbox.go  who runs a handler, and when: Loop (goroutine), Pool (concurrent)
//	group.go    … and Group (inline); turn.go knows who waits for whom
//	actor.go    an actor: start, stop
//	port.go     one of its endpoints, reachable in process and as a NATS micro endpoint
//	inbox.go    the requests that came over NATS, bounded
//	outbox.go   batches to a receiver that may be slow
//	ref.go      calling an endpoint, wherever it is; retries
//	pipeline.go calling one in order, without waiting for the answers before
//	tap.go      mirrors every delivery to tap.> and peek.>, if somebody listens
//	stream.go   many answers to one request: sequence numbers, end marker, credit, cancel
//	errors.go   errors as replies and headers
//	codec.go    msgpack and JSON; prescan.go guards the decoder against hostile payloads
//	try.go      messages tried on copies of an actor's state, and whether it is well
//	topic.go    announcements to whoever listens
//	faults.go   messages lost, late, doubled, out of order or refused on demand, reproducible from a seed
//
// Step 1. In: a message for a subject. Out: a handler's reply. Next: actors/gateway.
package bus
