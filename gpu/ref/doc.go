// Package ref defines what every operation of package gpu computes: one plain function per
// operation, on host slices, with float32 inputs and outputs and float64 in between. Backends
// are held to it by package gpu/gputest. It favours being read over being fast.
//
// Matrices are row-major; a parameter named rows, cols, stride or width counts elements.
package ref
