// Package gpu is the boundary between the engine and its hardware.
//
// A [Device] owns memory and executes named operations ([Op]) in the order they
// are launched. Data lives in device memory and is named by a [Tensor], a small
// value that only the owning process can dereference; other actors see the same
// allocation as a schemas.TensorHandle and never its bytes.
//
// Every operation has a plain reference (package gpu/ref) that defines its result,
// and each backend registers one or more implementations of it that can be listed
// and chosen at run time. One conformance suite (package gpu/gputest) holds every
// implementation of every backend to the reference.
//
// Two rules make results reproducible whatever the batch:
//   - an output row depends only on its own inputs, and is summed in the same order
//     however many rows share the launch (batch invariance);
//   - random numbers are a function of (seed, position, token), never of a stream.
//
// Step 6. In: op launches from actors/compute. Out: sampled tokens in device memory.
// Next: gpu/cpu, gpu/cuda (the backends).
package gpu
