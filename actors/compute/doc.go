// Package compute executes step plans: it feeds a model on a device with what a plan says, samples, and
// reports the tokens.
//
//	batch.go     a plan and the slots' block tables become the model's step input; pure
//	executor.go  the one goroutine that drives the device, step after step
//	actor.go     the shell: plans in, results out, kernels and state on request; try.go tries plans without the device
//	model/       the decoder: configuration, weights and forward pass of all architectures
//
// The device always has the next step at hand: a plan is acknowledged when it is queued, and its result
// travels from another goroutine while the device already runs the next one.
//
// Step 5. In: schemas.StepPlan. Out: schemas.StepResult. Next: gpu.
package compute
