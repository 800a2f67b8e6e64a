// Package examine holds a kernel to the reference of its op on example data, and times it against another:
// what must be known of a kernel that is submitted to a running engine before it may run there. The conformance
// suite (package gpu/gputest) does as much for the kernels that the engine ships, in tests; both take their
// tolerances from package gpu/ref.
package examine
