//go:build linux && (amd64 || arm64)

package cuda

import "github.com/ebitengine/purego"

// openLibrary loads a shared library for good: CUDA's cannot be unloaded safely.
func openLibrary(path string) (uintptr, error) {
	return purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_LOCAL)
}

// findSymbol returns the address of a function.
func findSymbol(library uintptr, name string) (uintptr, error) { return purego.Dlsym(library, name) }

// call calls a C function of integer and pointer arguments and returns its int result, which
// CUDA's libraries use as status. An argument that is a Go pointer must be converted in the call
// itself, which keeps it alive and in place.
//
//go:uintptrescapes
func call(function uintptr, args ...uintptr) int32 {
	r, _, _ := purego.SyscallN(function, args...)
	return int32(r)
}
