package cpu

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/ref"
)

// TestPairProducts: with Options.Compute bf16, products with bfloat16 weights are those of activations rounded to
// bfloat16 on every tier, and a token gets the same alone, in a batch, and with any number of threads.
func TestPairProducts(t *testing.T) {
	rng := rand.New(rand.NewPCG(31, 32))
	for _, shape := range [][3]int{{1, 16, 2}, {1, 200, 9000}, {2, 65, 34}, {3, 40, 128}, {5, 33, 129}, {7, 130, 64}, {13, 70, 576}, {29, 160, 66}} {
		tokens, n, k := shape[0], shape[1], shape[2]
		x, weights, blocks := random(rng, tokens*k, 1), make([]float32, n*k), make([]byte, 0, 2*n*k)
		for i := range weights {
			h := toBF16(float32(rng.NormFloat64()))
			weights[i] = bf16(h)
			blocks = binary.LittleEndian.AppendUint16(blocks, h)
		}
		rounded := slices.Clone(x)
		if k%2 == 0 { // others stay float32
			for i, v := range rounded {
				rounded[i] = bf16(toBF16(v))
			}
		}
		want := ref.MatMul(rounded, weights, nil, nil, n, k)
		for _, tr := range tiers() {
			what := fmt.Sprintf("%s T=%d N=%d K=%d", tr.name, tokens, n, k)
			got := pairProduct(t, tr, 1, blocks, x, tokens, n, k)
			for i, v := range got {
				size := 0.0
				for j, w := range weights[i%n*k:][:k] {
					size += math.Abs(float64(w) * float64(rounded[i/n*k+j]))
				}
				if diff := math.Abs(float64(v) - float64(want[i])); !(diff <= 1e-6*size) {
					t.Fatalf("%s: element %d is %v, want %v", what, i, v, want[i])
				}
			}
			if more := pairProduct(t, tr, 3, blocks, x, tokens, n, k); !slices.Equal(more, got) {
				t.Fatalf("%s: three threads give other bits", what)
			}
			last := tokens - 1
			if alone := pairProduct(t, tr, 1, blocks, x[last*k:], 1, n, k); !slices.Equal(alone, got[last*n:]) {
				t.Fatalf("%s: the last token differs when it is alone", what)
			}
		}
	}
}

// pairProduct multiplies on a device of the tier that computes in bfloat16.
func pairProduct(t *testing.T, tr *tier, threads int, weights []byte, x []float32, tokens, n, k int) []float32 {
	t.Helper()
	d := open(t, Options{Threads: threads, Tier: tr.name, Compute: gpu.BF16})
	w, err := d.PackMatrix("w", gpu.BF16, n, k, weights)
	if err != nil {
		t.Fatal(err)
	}
	in, err := d.Alloc(gpu.F32, tokens, k)
	if err != nil {
		t.Fatal(err)
	}
	result, err := d.Alloc(gpu.F32, tokens, n)
	if err != nil {
		t.Fatal(err)
	}
	copy(d.Float32s(in), x)
	if err := d.Launch(gpu.OpMatMul, &gpu.MatMul{Out: result, X: in, W: w}); err != nil {
		t.Fatal(err)
	}
	out := slices.Clone(d.Float32s(result))
	for _, x := range []gpu.Tensor{w, in, result} {
		d.Free(x)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestOpenRefusesOtherCompute(t *testing.T) {
	if _, err := Open(Options{Compute: gpu.F16}); err == nil {
		t.Error("computing in f16 is accepted")
	}
}
