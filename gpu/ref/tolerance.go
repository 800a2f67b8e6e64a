package ref

import (
	"math"

	"github.com/troupe-engine/troupe/gpu"
)

// Tolerance is by how much an implementation may miss a reference: Steps times the Epsilon of the compute type
// times the larger of the value and Scale.
type Tolerance struct{ Scale, Steps float64 }

// Tolerances of the ops, for whoever holds an implementation to its reference.
var (
	RMSNormTolerance = Tolerance{0, 8}
	ActMulTolerance  = Tolerance{1, 16}
	RoPETolerance    = Tolerance{1, 4}
)

// SumTolerance is that of a sum of so many terms of about one, whose rounding grows with the root of their number.
func SumTolerance(compute gpu.DType, terms int) Tolerance {
	size := math.Sqrt(float64(terms)) + 1
	return Tolerance{size, SumSteps(compute, size)}
}

// SumSteps is the rounding of a sum of about the given size of many terms of about one: in float32 it grows with the
// sum, in narrower types the last rounding is the largest.
func SumSteps(compute gpu.DType, size float64) float64 {
	if compute == gpu.F32 {
		return 4 + size
	}
	return 2
}

// Relative returns the difference of got from want relative to the larger of want and the scale. It is not a
// number if one of the two is none.
func (t Tolerance) Relative(got, want float32) float64 {
	return math.Abs(float64(got)-float64(want)) / max(math.Abs(float64(want)), t.Scale, math.SmallestNonzeroFloat32)
}
