// Package model executes decoder-only transformers on a gpu.Device.
//
// A checkpoint's config.json becomes one [Spec] that describes every supported architecture
// (Llama, Mistral, Qwen 2 and 3, Qwen 3 MoE, Mixtral, Phi-3, Gemma 2 and 3); [Load] puts its
// weights on the device and writes the forward pass once as a list of launches. A step then
// binds its row counts, uploads its indices in one piece and launches the list, without
// allocating. The host never sees an activation.
//
// A step mixes prefill chunks and decode tokens of many sequences. What a token's logits are
// depends on its own sequence alone: not on the batch, the chunking, or where its KV blocks lie.
//
// Read config.go, weights.go, forward.go in this order.
//
// Step 5. In: StepInput, from a step plan of actors/scheduler. Out: logits and sampled tokens in
// device memory. Next: gpu (the device that executes the launches).
package model
