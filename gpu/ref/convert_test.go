package ref

import (
	"math"
	"testing"

	"github.com/troupe-engine/troupe/gpu"
)

// TestHalvesRoundTrip: every half survives widening and rounding.
func TestHalvesRoundTrip(t *testing.T) {
	for h := range 1 << 16 {
		v := fromF16(uint16(h))
		if v != v {
			continue
		}
		if back := toF16(v); back != uint16(h) {
			t.Fatalf("%#04x is %v, which rounds to %#04x", h, v, back)
		}
	}
}

func TestRoundingIsToNearestEven(t *testing.T) {
	for _, c := range []struct {
		dtype    gpu.DType
		in, want float32
	}{
		{gpu.F16, 1 + 1.0/2048, 1}, {gpu.F16, 1 + 3.0/2048, 1 + 4.0/2048}, {gpu.F16, 65519, 65504},
		{gpu.F16, 65520, float32(math.Inf(1))}, {gpu.F16, 2047.5, 2048}, {gpu.F16, -1e-9, 0},
		{gpu.BF16, 1 + 1.0/256, 1}, {gpu.BF16, 1 + 3.0/256, 1 + 4.0/256}, {gpu.BF16, -3.4e38, float32(math.Inf(-1))},
	} {
		if got := Decode(c.dtype, Encode(c.dtype, []float32{c.in}))[0]; got != c.want {
			t.Errorf("%v(%v) = %v, want %v", c.dtype, c.in, got, c.want)
		}
	}
}
