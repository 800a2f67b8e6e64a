package cpu

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/ref"
	"github.com/troupe-engine/troupe/internal/gguf"
)

var ggufTypes = map[gpu.DType]gguf.Type{gpu.Q8_0: gguf.Q8_0, gpu.Q4_0: gguf.Q4_0, gpu.Q4_1: gguf.Q4_1, gpu.Q4_K: gguf.Q4_K, gpu.Q6_K: gguf.Q6_K}

// randomBlocks returns n*k elements of a quantized type: any codes, scales of about 1/100 of both signs.
func randomBlocks(rng *rand.Rand, dtype gpu.DType, n, k int) []byte {
	elements, size := dtype.Block()
	out := make([]byte, n*k/elements*size)
	for i := range out {
		out[i] = byte(rng.Uint32())
	}
	scales := []int{0}
	switch dtype {
	case gpu.Q4_1, gpu.Q4_K:
		scales = []int{0, 2}
	case gpu.Q6_K:
		scales = []int{208}
	}
	for block := 0; block < len(out); block += size {
		for _, at := range scales {
			binary.LittleEndian.PutUint16(out[block+at:], uint16(rng.Uint32()&0x83ff|0x2000)) // ±2^-7 to 2^-6
		}
	}
	return out
}

func dequantized(dtype gpu.DType, blocks []byte) []float32 {
	t := ggufTypes[dtype]
	out := make([]float32, len(blocks)/t.BlockBytes()*t.BlockLen())
	gguf.Dequantize(t, out, blocks)
	return out
}

// roundActivations is what a product sees of x: every 32 elements in 255 steps, or finer ones. A value half-way between two
// steps goes where float32 arithmetic puts it.
func roundActivations(dtype gpu.DType, x []float32) []float32 {
	steps := float32(127)
	if quantFormats[dtype].fine {
		steps = fineMax
	}
	out := make([]float32, len(x))
	for at := 0; at < len(x); at += quantLen {
		largest := float32(0)
		for _, v := range x[at:][:quantLen] {
			largest = max(largest, v, -v)
		}
		for i, v := range x[at:][:quantLen] {
			if largest > 0 {
				code := math.RoundToEven(float64(v * (steps / largest)))
				out[at+i] = float32(code * float64(largest) / float64(steps))
			}
		}
	}
	return out
}

// quantProduct multiplies on a device of the tier, and also embeds row 3 of the weights.
func quantProduct(t *testing.T, tr *tier, threads int, dtype gpu.DType, blocks []byte, x []float32, tokens, n, k int) (out, row []float32) {
	t.Helper()
	d := open(t, Options{Threads: threads, Tier: tr.name})
	cut := rand.IntN(n+1) * (len(blocks) / n)
	w, err := d.PackMatrix("w", dtype, n, k, blocks[:cut], blocks[cut:])
	if err != nil {
		t.Fatal(err)
	}
	alloc := func(dtype gpu.DType, dims ...int) gpu.Tensor {
		x, err := d.Alloc(dtype, dims...)
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	in, result, bias, ids, embedded := alloc(gpu.F32, tokens, k), alloc(gpu.F32, tokens, n), alloc(gpu.F32, n), alloc(gpu.I32, 1), alloc(gpu.F32, 1, k)
	copy(d.Float32s(in), x)
	d.Int32s(ids)[0] = int32(min(3, n-1))
	for i := range d.Float32s(bias) {
		d.Float32s(bias)[i] = float32(i)
	}
	for _, launch := range []struct {
		op   gpu.Op
		args any
	}{{gpu.OpMatMul, &gpu.MatMul{Out: result, X: in, W: w}}, {gpu.OpMatMul, &gpu.MatMul{Out: result, X: in, W: w, Bias: bias, Accumulate: true}},
		{gpu.OpEmbed, &gpu.Embed{Out: embedded, Table: w, IDs: ids, Scale: 1}}} {
		if err := d.Launch(launch.op, launch.args); err != nil {
			t.Fatal(err)
		}
	}
	out, row = slices.Clone(d.Float32s(result)), slices.Clone(d.Float32s(embedded))
	for _, x := range []gpu.Tensor{w, in, result, bias, ids, embedded} {
		d.Free(x)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	return out, row
}

var quantShapes = [][3]int{{1, 1, 256}, {1, 16, 512}, {1, 200, 4608}, {2, 65, 256}, {3, 40, 512}, {5, 33, 256}, {7, 130, 256},
	{12, 64, 768}, {13, 17, 256}, {16, 70, 512}, {29, 48, 256}}

// TestQuantizedProducts: every type on every tier gives what arithmetic says, and exactly what the portable
// tier gives, with any number of threads, and for a token alone.
func TestQuantizedProducts(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 10))
	for _, dtype := range slices.Sorted(maps.Keys(quantFormats)) {
		for _, shape := range quantShapes {
			tokens, n, k := shape[0], shape[1], shape[2]
			what := fmt.Sprintf("%v T=%d N=%d K=%d", dtype, tokens, n, k)
			blocks, x := randomBlocks(rng, dtype, n, k), random(rng, tokens*k, 1)
			weights := dequantized(dtype, blocks)
			want, row := quantProduct(t, &goTier, 1, dtype, blocks, x, tokens, n, k)
			if !slices.Equal(row, weights[min(3, n-1)*k:][:k]) {
				t.Fatalf("%s: embedded row differs from the format's definition", what)
			}
			exact := ref.MatMul(roundActivations(dtype, x), weights, nil, nil, n, k)
			for i, v := range exact {
				v = 2*v + float32(i%n)
				size := 0.0 // of the sum's terms, which float32 rounds
				for _, w := range weights[i%n*k:][:k] {
					size += math.Abs(float64(w))
				}
				if diff := math.Abs(float64(want[i]) - float64(v)); diff > 1e-5*size+1e-5*math.Abs(float64(v)) {
					t.Fatalf("%s: element %d is %v, want %v", what, i, want[i], v)
				}
			}
			for _, tr := range tiers() {
				for _, threads := range []int{1, 3} {
					got, _ := quantProduct(t, tr, threads, dtype, blocks, x, tokens, n, k)
					for i := range want {
						if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
							t.Fatalf("%s, %s, %d threads: element %d is %v, portable Go has %v", what, tr.name, threads, i, got[i], want[i])
						}
					}
				}
				last := tokens - 1
				alone, _ := quantProduct(t, tr, 1, dtype, blocks, x[last*k:], 1, n, k)
				if !slices.Equal(alone, want[last*n:]) {
					t.Fatalf("%s, %s: the last token differs when it is alone", what, tr.name)
				}
			}
		}
	}
}

// TestQuantizedProductsOfOddActivations: zeros, tiny and huge values, and values that are no numbers.
func TestQuantizedProductsOfOddActivations(t *testing.T) {
	const tokens, n, k = 6, 20, 256
	rng := rand.New(rand.NewPCG(11, 12))
	x := random(rng, tokens*k, 1)
	clear(x[:k])
	for i := range k {
		x[k+i] = 1e-42   // subnormal: counts as zero
		x[2*k+i] *= 1e30 // large: stays finite
	}
	x[3*k+7] = float32(math.NaN())
	x[4*k+40] = float32(math.Inf(-1))
	for _, dtype := range slices.Sorted(maps.Keys(quantFormats)) {
		blocks := randomBlocks(rng, dtype, n, k)
		for _, tr := range tiers() {
			out, _ := quantProduct(t, tr, 1, dtype, blocks, x, tokens, n, k)
			for i, v := range out {
				bias := float32(i % n)
				switch token := i / n; {
				case token < 2 && v != bias:
					t.Fatalf("%v, %s: output %d of zeros is %v, want the bias %v", dtype, tr.name, i, v, bias)
				case (token == 3 || token == 4) && v == v:
					t.Fatalf("%v, %s: output %d of NaN or infinity is %v; it must stay visible", dtype, tr.name, i, v)
				case (token == 2 || token == 5) && (v != v || math.IsInf(float64(v), 0)):
					t.Fatalf("%v, %s: output %d is %v", dtype, tr.name, i, v)
				}
			}
		}
	}
}

// TestQuantizeTwins holds the assembly that rounds activations to its twin.
func TestQuantizeTwins(t *testing.T) {
	rng := rand.New(rand.NewPCG(13, 14))
	for _, tr := range tiers() {
		for blocks := 1; blocks < 20; blocks++ {
			x := random(rng, blocks*quantLen, math.Pow(10, float64(rng.IntN(20)-10)))
			run := func(q *quantTier) string {
				codes, low, largest, sums := make([]byte, len(x)), make([]byte, len(x)), make([]float32, blocks), make([]int32, 2*blocks)
				q.quantize(codes, largest, sums, x)
				coarse := fmt.Sprint(codes, largest, sums)
				q.quantizeFine(codes, low, largest, sums, x)
				return coarse + fmt.Sprint(codes, low, largest, sums)
			}
			if got, want := run(tr.quant), run(&goQuant); got != want {
				t.Fatalf("%s, %d blocks: %s, want %s", tr.name, blocks, got, want)
			}
		}
	}
}

func TestQuantizedPackRefuses(t *testing.T) {
	d := open(t, Options{Threads: 1})
	defer d.Close()
	for name, c := range map[string]struct {
		dtype gpu.DType
		n, k  int
		bytes int
	}{
		"half a block": {gpu.Q8_0, 1, 16, 17}, "not a super-block": {gpu.Q4_K, 1, 32, 18}, "too few bytes": {gpu.Q4_0, 2, 32, 18}, "half a row": {gpu.Q4_0, 1, 64, 27},
	} {
		if _, err := d.PackMatrix(name, c.dtype, c.n, c.k, make([]byte, c.bytes)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
