// Package tokenizer turns text into tokens and back: prompts and chat messages on the way in, the
// sequences' tokens on the way out.
//
//	text.go     a model's vocabulary and chat template, loaded from its files
//	session.go  one sequence's way back to text: whole characters only, stop strings
//	core.go     all sessions: a batch of tokens in, rows of text and cancellations out
//	actor.go    the shell: encoding runs concurrently, sessions are stepped in order
//
// A session opens when a prompt is encoded and closes with the sequence's last row. It holds text back
// while it could still become part of a stop string, or of a character whose bytes are not all there.
//
// Step 3. In: schemas.EncodeRequest, schemas.TokenBatch. Out: schemas.EncodeReply, schemas.DeltaBatch.
// Next: actors/scheduler (tokens of the prompt), actors/gateway (text of the answer).
package tokenizer
