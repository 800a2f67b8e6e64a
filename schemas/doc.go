// Package schemas holds the nouns of the engine: every message that actors exchange, the
// subject it travels on, the identifiers and handles inside it, and the errors it can end in.
// Nothing here does anything; every other package speaks these types.
//
// A message is a typed pointer inside a process and msgpack between processes. Hot messages are
// encoded as arrays (fields in declaration order, so new fields are appended, never inserted) and
// carry one value per sequence in columns ([I32], [U64], [F32]): little-endian binary fields that cost
// microseconds where nested structures cost hundreds. A message is immutable once it is sent.
//
// Every exchange survives loss, repetition and reordering by its own content: requests carry the
// number that makes them idempotent (a step, a request, an output index), so a retry is a repeat of
// the same question and gets the same answer.
//
// Read the files in the order a request meets them: openai.go, tokenizer.go, scheduler.go,
// memory.go, compute.go; then endpoint.go and topic.go, which tie messages to subjects, and wire.go, which
// turns them into bytes and back.
//
// Step 0. In: nothing. Out: the vocabulary. Next: bus.
package schemas
