// Package gateway is the front of the engine: it takes requests in the shape of the OpenAI API over HTTP
// and NATS, and answers them with one object or a stream.
//
// A request becomes a job (validate.go, chat.go, completions.go, job.go: strict, every refusal names the
// field), the job a flight (flight.go): its prompts are encoded by the tokenizer, which also opens the
// session that turns the answer into text, and submitted to the scheduler. Text comes back in batches that
// hold rows of many requests (requests.go); each flight joins what its client has not read yet and steps
// the pure core of the answer (answer.go), whose objects go out as server-sent events (sse.go), NATS
// messages (nats.go) or one reply. Whatever ends a flight early, be it a client that left, a cancellation, a
// deadline or a client that does not read, frees its sequences at once.
//
// With several replicas, replicas.go keeps a directory of them from their reports and replicas_move.go places requests by
// package routing, and places them again when a replica is lost: a stream goes on after the tokens it has.
//
// http.go also serves the models, health, and metrics (metrics.go, listed in docs/metrics.md); debug.go shows
// the other actors, try.go tries requests, and ledger.go adds up where a request's time went.
//
// Step 2. In: a client's request. Out: EncodeRequest, SubmitRequest; then DeltaBatches in, answers out.
// Next: actors/tokenizer.
package gateway
