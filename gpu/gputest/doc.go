// Package gputest is the conformance suite of gpu.Device: Run holds every registered
// implementation of every operation to package gpu/ref, on random inputs of many shapes, and
// checks what no reference can state: that a row has the same bits alone and in a batch, that
// prefill in chunks equals prefill at once, and that misuse is reported as the contract says.
//
// A backend's test is one line:
//
//	func TestConformance(t *testing.T) { gputest.Run(t, open) }
package gputest
