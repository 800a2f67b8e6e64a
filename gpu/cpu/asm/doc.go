// Command asm generates the AVX2 and AVX-512 inner loops of package cpu.
//
// It is a module of its own so that the engine does not depend on the generator. Run it with
// `go generate ./gpu/cpu`; scripts/check_asm.sh verifies that the checked-in files are what it
// produces.
//
// Both instruction sets come from the same description, which speaks of vectors of isa.lanes
// float32: only how a comparison is expressed and how a sum is folded differ.
package main
