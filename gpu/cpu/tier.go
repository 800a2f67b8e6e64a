package cpu

//go:generate go -C asm run . -isa avx2 -out ../avx2_amd64.s -stubs ../avx2_amd64.go -pkg cpu
//go:generate go -C asm run . -isa avx512 -out ../avx512_amd64.s -stubs ../avx512_amd64.go -pkg cpu
//go:generate go -C asm run . -isa avx2 -quant -out ../quant_avx2_amd64.s -stubs ../quant_avx2_amd64.go -pkg cpu
//go:generate go -C asm run . -isa avx512 -quant -out ../quant_avx512_amd64.s -stubs ../quant_avx512_amd64.go -pkg cpu

import (
	"fmt"

	"github.com/troupe-engine/troupe/gpu"
)

// A tier is a set of inner loops written for one instruction set. Everything else, such as
// dividing work, checking shapes or choosing blocks, is shared by all of them.
type tier struct {
	name, doc string

	// What one thread does in a nanosecond, roughly: multiply-adds, bytes of weights, gate
	// activations. They decide whether work is worth sharing, nothing else.
	macsPerNs, bytesPerNs, gatesPerNs float64

	// tiles are the matrix kernels for each weight type, by ascending number of tokens; the
	// first has one token.
	tiles map[gpu.DType][]tile
	// pairs are those for bfloat16 weights in pairs and activations likewise: k and x of a panelKernel count pairs. A
	// tier may add the two products of a pair in any way.
	pairs []tile
	// quant is what quantized weights take.
	quant *quantTier

	// rotate applies rotary positions to consecutive heads of dim elements: of each, the pairs
	// (i, i+len(cos)) turn by the angles.
	rotate func(heads, cos, sin []float32, dim int)
	// narrow rounds to bfloat16, ties to even.
	narrow func(dst []uint16, src []float32)
	// codes rounds a row to 8 bits: x[i] * (127 / largest) to the nearest integer, ties to even, where largest, which it
	// returns, is the largest absolute value. Codes mean nothing if that is tiny, infinite or NaN.
	codes func(codes []byte, x []float32) (largest float32)
	// prefetch hints that x, which is not empty, is used soon.
	prefetch func(x []byte)
	// interleave4 stores element i of four rows, of one length, at dst[i*width:].
	interleave4 func(dst []float32, width int, a, b, c, d []float32)
	// transpose turns a page of keys around: [16][dim] of a format to [dim][16]. dim is a
	// positive multiple of 16, as it is in all kernels of attention. Memory at ahead, as much as
	// at src, is asked for: it is read next.
	transpose [kvFormats]func(dst *float32, src, ahead *byte, dim int)
	// rows are the kernels of attention by ascending number of rows; the first has one.
	rows []rowKernel
	// softmax makes weights e^(score-m) of n scores in each row, where m is the largest score so
	// far: it updates largest[r], adds to sums[r][i%16], and sets correction[r] to what earlier
	// weights have to be multiplied by, which those of sums already are. A row of scores has
	// tileKeys, a row of sums 16; n is a multiple of 16, not 0.
	softmax func(scores *float32, n int, sums, largest, correction *float32, rows int)
	// finish: out[r] = mixed[r] / sum of the 16 sums[r], for rows of dim.
	finish func(out, mixed, sums *float32, dim, rows int)
	// expShift: x = exp(x - shift) in place; returns the sum. len(x) is a multiple of 16.
	expShift func(x []float32, shift float32) float32
	// largest: the maximum, and whether any element is NaN. len(x) is a multiple of 16, not 0.
	largest func(x []float32) (value float32, nan bool)
	// massAbove: the sum, in float64, of the weights whose value is at least floor. Lengths are
	// equal multiples of 16, not 0.
	massAbove func(values, weights []float32, floor float32) float64
	// chances draws the noise of tokens first, first+1, … under key and sets bit i of marks where
	// token first+i may win the race: 1-u, in units of 2^-52, is at most weights[i] * bound.
	// len(weights) is 8 * len(marks), not 0.
	chances func(marks []byte, weights []float32, key uint64, first int32, bound float64)
	// divide: x /= by in place, correctly rounded. len(x) is a multiple of 16, not 0.
	divide func(x []float32, by float32)
	// squares: the sum of squares, in float64.
	squares func(x []float32) float64
	// scaleRow: out = x * scale * (weight + offset).
	scaleRow func(out, x, weight []float32, scale, offset float32)
	// addTo: dst += src, for the elements of dst.
	addTo func(dst, src []float32)
	// gates: out = act(gate) * up, by activation. Lengths are equal multiples of 16.
	gates [2]func(out, gate, up []float32)

	// What measurements compare kernels with (see ceiling.go): read reads n bytes, a multiple of 512, fma runs rounds
	// of fmaChains multiply-adds of lanes float32. Nil where there is no assembly.
	read  func(p *byte, n int)
	fma   func(n int)
	lanes int
}

// panelRows is the number of weight rows that lie side by side in a packed matrix: one AVX-512
// register of float32, or two of AVX2.
const panelRows = 16

// A tile is a matrix kernel for a fixed number of tokens. many multiplies `panels` panels at
// once, which hides latency and reuses activations; one does a single panel. Both compute, for
// every token t and row r,
//
//	out[t][r] = sum over k, in ascending order, of x[k][t] * w[k][r]
//
// with one multiply-add per term, so the choice between tiles does not change a bit.
type tile struct {
	tokens, panels int
	many, one      panelKernel
}

// panelKernel is the signature of an inner matrix loop. Rows of out, one a token, are row bytes
// apart and have panels*16 elements; w points at the first panel and the following ones are
// stride bytes apart; x is [k][tokens]. mode is one of the below.
type panelKernel func(out *float32, row uintptr, w *byte, stride uintptr, x *float32, k, mode int)

const (
	panelSet    = iota // out = sum
	panelResume        // the sum begins with out, which is that of smaller k
	panelAdd           // out += sum
)

// tiers lists what this processor can run, slowest first.
func tiers() []*tier {
	return append([]*tier{&goTier}, machineTiers()...)
}

// findTier returns the tier of that name, or the fastest for "".
func findTier(name string) (*tier, error) {
	all := tiers()
	if name == "" {
		return all[len(all)-1], nil
	}
	var names []string
	for _, t := range all {
		if t.name == name {
			return t, nil
		}
		names = append(names, t.name)
	}
	return nil, fmt.Errorf("%w: cpu tier %q (Options.Tier or TROUPE_CPU_TIER); this processor has %q",
		gpu.ErrNotSupported, name, names)
}
