// Package soak loads a running engine with every kind of request, good and bad, over HTTP and NATS, and
// watches that nothing is lost and nothing is left behind.
//
//	client.go  one request over HTTP or NATS, and how it ended
//	mix.go     random requests: what is asked, and which endings are right
//	run.go     many clients at once, bursts, people who hang up
//	state.go   what the actors say of themselves; what must hold when all is quiet
//
// It only uses what any client can: the HTTP API, the NATS subjects and the actors' state endpoints.
package soak
