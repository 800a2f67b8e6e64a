// Package traces reads workloads: when requests came, how long prompts and answers were and which parts of
// prompts are the same. Each format has one streaming reader; what is wrong in a file is an error that names the
// line and the field.
//
//	request.go    what all formats come down to, and the token ids that stand for a prompt
//	open.go       files: which format it is, reading all of it
//	lines.go      lines of bounded length, CSV columns, numbers
//	azure.go      Azure LLM inference traces (CSV: TIMESTAMP, ContextTokens, GeneratedTokens)
//	burstgpt.go   BurstGPT (CSV: Timestamp, Model, Request tokens, Response tokens, …)
//	mooncake.go   Mooncake (JSON lines: timestamp, input_length, output_length, hash_ids)
//	sharegpt.go   ShareGPT-like conversations (JSON)
//	synthetic.go  arrivals drawn from a gamma process, lengths from distributions (lengths.go)
//
// A trace says nothing about text. Prompts are made of segments with identities: the same identity stands for the
// same tokens, so that a prefix cache finds in the made-up prompts what it would have found in the real ones.
package traces
