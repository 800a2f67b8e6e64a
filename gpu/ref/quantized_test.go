package ref_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/ref"
	"github.com/troupe-engine/troupe/internal/gguf"
)

// TestDequantize: another implementation of the formats, which has vectors of the format's own, agrees on random
// bytes but for the rounding of its products.
func TestDequantize(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for dtype, stored := range map[gpu.DType]gguf.Type{gpu.Q8_0: gguf.Q8_0, gpu.Q4_0: gguf.Q4_0, gpu.Q4_1: gguf.Q4_1, gpu.Q4_K: gguf.Q4_K, gpu.Q6_K: gguf.Q6_K} {
		elements, size := dtype.Block()
		blocks := make([]byte, 200*size)
		for i := range blocks {
			blocks[i] = byte(rng.Uint32())
		}
		got, want := ref.Dequantize(dtype.String(), blocks), make([]float32, 200*elements)
		gguf.Dequantize(stored, want, blocks)
		if len(got) != len(want) {
			t.Fatalf("%v: %d elements, want %d", dtype, len(got), len(want))
		}
		for i, w := range want {
			largest := 0.0 // of its block: a minimum may cancel most of an element
			for _, v := range want[i/elements*elements:][:elements] {
				largest = max(largest, math.Abs(float64(v)))
			}
			if g := got[i]; g != w && !(math.Abs(float64(g)-float64(w)) <= 1e-6*largest) && !(g != g && w != w) {
				t.Fatalf("%v: element %d is %v, want %v", dtype, i, g, w)
			}
		}
	}
}
