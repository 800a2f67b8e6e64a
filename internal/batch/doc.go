// Package batch answers a file of requests, in the format of OpenAI's batch API
// (https://platform.openai.com/docs/guides/batch), with an engine that it keeps busy: one line of JSON per
// request in, one per answer out.
//
// A run (run.go) reads its input twice. The first pass (plan.go) finds duplicate ids and compares the input
// with what an earlier run has answered; the second (source.go, task.go) yields the lines to do. They are asked
// through a Transport (http.go, nats.go), at most a window of them at once; a busy or absent engine is waited
// for (ask.go). Answers (result.go) are appended to the output as they come or in order (sink.go), each in one
// write: a process that is killed leaves at most a torn last line, which the next run drops.
//
// The output is the only state. Its ids name the input's line and that line's hash, so that a changed
// input is noticed and nothing is answered twice. Memory holds the window, not the file: what must be
// compared across the whole file is sorted on disk (sorter.go).
//
// Step 1, before the gateway. In: a file. Out: requests for chat, completions and embeddings. Next:
// actors/gateway.
package batch
