// Package scheduler decides what runs in the next step: continuous batching of prefill chunks and
// decode tokens under a token budget, ordered by a [Policy], with preemption by recompute when KV
// blocks run out.
//
// [Core] is a pure state machine: [Core.Step] takes an [Event] with the time it happened and returns
// [Effects]. It has no clock, goroutine, randomness or I/O, so the same events always give the same
// decisions: on a live engine, in a replay and in a simulation. The shell around it (actor.go) talks to
// memory, compute and the tokenizers.
//
// One step, in the order of the files:
//
//	core.go     sequences, queues, events and effects
//	submit.go   requests come in, are refused or queued; cancellation
//	policy.go   who goes first; observe.go: what policies hear of
//	plan.go     propose rows to memory, turn what it grants into a step plan
//	results.go  tokens come back; sequences end; recovery from a lost step
//	check.go    what must always hold
//
// The policies beside those of policy.go: shortest.go and deadline.go, which predict lengths (predict.go), fair.go,
// prefix.go, and external.go, whose orders come from another process (rank.go asks, asker.go is its shell). shadow.go
// runs a second policy beside the one in charge. journal.go and checkpoint.go let all be run again; clone.go
// tries messages on a copy. ledger.go follows where the time of requests goes that ask for it.
//
// The pipeline: while step N runs, step N+1 is planned and queued on the device. A decode row of N+1
// takes its token from the device, where N sampled it, so the host learns of it later. A sequence that
// turns out to have ended in N has then computed one token too many, which is discarded.
//
// Step 4. In: schemas.SubmitRequest, schemas.StepResult. Out: schemas.StepPlan, schemas.TokenBatch.
// Next: actors/memory, then actors/compute.
package scheduler
