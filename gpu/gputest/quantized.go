package gputest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/ref"
)

// quantizedTypes are the types that a device may execute or refuse with gpu.ErrNotSupported.
var quantizedTypes = []gpu.DType{gpu.Q8_0, gpu.Q4_0, gpu.Q4_1, gpu.Q4_K, gpu.Q6_K, gpu.E4M3, gpu.I8, gpu.I4_32, gpu.I4_64, gpu.I4_128, gpu.E4M3_128}

// blocks returns n rows of k elements of a quantized type, any codes with scales of about 1/100 of both signs, and what
// they mean.
func (s *suite) blocks(dtype gpu.DType, n, k int) (raw []byte, values []float32) {
	raw = make([]byte, n*dtype.RowBytes(k))
	for i := range raw {
		raw[i] = byte(s.rng.Uint32())
	}
	elements, size := dtype.Block()
	switch dtype {
	case gpu.E4M3, gpu.I8:
		s.scaledRows(dtype, raw, k)
	case gpu.E4M3_128:
		for at := 0; at < len(raw); at += size {
			makeNumbers(raw[at+4:][:elements])
			binary.LittleEndian.PutUint32(raw[at:], math.Float32bits(float32(s.rng.NormFloat64()/100)))
		}
	case gpu.I4_32, gpu.I4_64, gpu.I4_128:
		for at := 0; at < len(raw); at += size {
			raw[at+2], raw[at+3] = byte(s.rng.IntN(17)), 0
		}
		fallthrough
	default:
		scales := map[gpu.DType][]int{gpu.Q4_1: {0, 2}, gpu.Q4_K: {0, 2}, gpu.Q6_K: {208}}[dtype]
		if scales == nil {
			scales = []int{0}
		}
		for at := 0; at < len(raw); at += size {
			for _, scale := range scales {
				binary.LittleEndian.PutUint16(raw[at+scale:], uint16(s.rng.Uint32()&0x83ff|0x2000)) // ±2^-7 to 2^-6
			}
		}
	}
	if k%elements != 0 {
		s.Fatalf("%d elements are no blocks of %v", k, dtype)
	}
	return raw, ref.DequantizeRows(dtype.String(), k, raw)
}

// scaledRows gives rows of codes a scale each, and makes all codes numbers.
func (s *suite) scaledRows(dtype gpu.DType, raw []byte, k int) {
	for ; len(raw) > 0; raw = raw[dtype.RowBytes(k):] {
		if dtype == gpu.E4M3 {
			makeNumbers(raw[:k])
		}
		binary.LittleEndian.PutUint32(raw[k:], math.Float32bits(float32(s.rng.NormFloat64()/100)))
	}
}

// makeNumbers changes the 8-bit floats that are NaN.
func makeNumbers(codes []byte) {
	for i, q := range codes {
		if q&0x7f == 0x7f {
			codes[i] ^= 1
		}
	}
}

// packBlocks packs rows in two parts. ok is false if the device does not execute the type.
func (s *suite) packBlocks(dtype gpu.DType, raw []byte, n, k int) (t gpu.Tensor, ok bool) {
	s.Helper()
	cut := s.rng.IntN(n+1) * (len(raw) / n)
	t, err := s.d.PackMatrix("weight", dtype, n, k, raw[:cut], raw[cut:])
	if errors.Is(err, gpu.ErrNotSupported) {
		return t, false
	}
	if err != nil {
		s.Fatal(err)
	}
	s.live = append(s.live, t)
	return t, true
}

// testQuantizedProducts covers awkward shapes of every type that the device executes.
func testQuantizedProducts(s *suite) {
	for _, dtype := range quantizedTypes {
		s.Run(dtype.String(), func(t *testing.T) {
			one := *s
			one.T, one.live = t, nil
			defer one.free()
			one.quantizedProducts(dtype)
		})
	}
}

func (s *suite) quantizedProducts(dtype gpu.DType) {
	raw, _ := s.blocks(dtype, 1, 256)
	if _, ok := s.packBlocks(dtype, raw, 1, 256); !ok {
		s.Logf("%v is not executed", dtype)
		return
	}
	s.free()
	for _, shape := range [][3]int{{1, 1, 256}, {1, 16, 512}, {1, 300, 4608}, {2, 65, 256}, {3, 40, 512}, {7, 130, 256}, {12, 64, 768},
		{13, 17, 256}, {29, 48, 256}, {70, 33, 512}} {
		s.quantizedMatMul(dtype, shape[0], shape[1], shape[2])
	}
	if elements, _ := dtype.Block(); elements <= 32 { // rows that are no super-blocks
		s.quantizedMatMul(dtype, 5, 35, 32)
		s.quantizedMatMul(dtype, 18, 16, 96)
	}
	for _, tokens := range []int{1, 2, 9, 16, 17, 40} {
		s.quantizedFused(dtype, tokens, 64, 1024)
		s.quantizedFused(dtype, tokens, 48, 256)
	}
}

// coarse reports whether a product may round its activations to 8-bit floats, as its weights are.
func (s *suite) coarse(dtype gpu.DType) bool { return s.variant && dtype == gpu.E4M3 }

// quantizedFused: a norm before and a gate behind, and a norm before a residual add in float32.
func (s *suite) quantizedFused(dtype gpu.DType, tokens, n, k int) {
	s.Helper()
	what := fmt.Sprintf("%v: T=%d N=%d K=%d", dtype, tokens, n, k)
	raw, w := s.blocks(dtype, n, k)
	matrix, _ := s.packBlocks(dtype, raw, n, k)
	x, weight, bias, old := s.normal(s.compute, tokens*k, 3), s.normal(gpu.F32, k, 1), s.normal(gpu.F32, n, 1), s.normal(gpu.F32, tokens*n, 1)
	in, normWeight, biases := s.act(x, tokens, k), s.put(gpu.F32, weight, k), s.put(gpu.F32, bias, n)
	normed := ref.RMSNorm(x, weight, 1e-5, 1)
	norm := func(rows int) *gpu.RMSNorm {
		return &gpu.RMSNorm{Out: s.poison(s.compute, rows, k), X: in.Slice(tokens-rows, tokens), Weight: normWeight, Eps: 1e-5, Offset: 1}
	}
	gated := func(rows int) gpu.Tensor {
		before, both := norm(rows), s.poison(s.compute, rows, n)
		gate := &gpu.ActMul{Out: s.poison(s.compute, rows, n/2), X: both, Act: gpu.SiLU}
		s.launch(gpu.OpMatMul, &gpu.MatMul{Out: both, X: before.Out, W: matrix, Bias: biases, Norm: before, Gate: gate})
		return gate.Out
	}
	product := ref.MatMul(normed, w, bias, nil, n, k)
	limit, largest := s.productLimit(dtype, normed, w, n, k), 0.0
	for _, v := range product {
		largest = max(largest, math.Abs(float64(v)))
	}
	all := s.get(gated(tokens))
	limitGated := 2.2 * limit * largest // the activation's slope is at most 1.1
	s.within(what+" norm, gate", all, ref.ActMul(product, n/2, ref.SiLU), limitGated)
	s.sameRows(what+" norm, gate: last token alone", s.get(gated(1)), all[(tokens-1)*n/2:], limitGated/ref.Epsilon(s.compute))
	before, sum := norm(tokens), s.put(gpu.F32, old, tokens, n)
	s.launch(gpu.OpMatMul, &gpu.MatMul{Out: sum, X: before.Out, W: matrix, Accumulate: true, Norm: before})
	s.within(what+" norm, accumulate", s.get(sum), ref.MatMul(normed, w, nil, old, n, k), limit)
	s.free()
}

// within fails unless every element is that near, or as near as rounding it allows.
func (s *suite) within(what string, got, want []float32, limit float64) {
	s.Helper()
	s.near(what, got, want, limit/ref.Epsilon(s.compute), 1)
}

// productLimit is how far the elements of x * W^T may be off; see nearProduct.
func (s *suite) productLimit(dtype gpu.DType, x, w []float32, n, k int) float64 {
	largest, square := 0.0, 0.0
	for _, v := range x {
		largest = max(largest, math.Abs(float64(v)))
	}
	for row := range n {
		sum := 0.0
		for _, v := range w[row*k:][:k] {
			sum += float64(v) * float64(v)
		}
		square = max(square, sum)
	}
	step := largest/127 + 2*ref.Epsilon(s.compute)*largest
	if s.coarse(dtype) {
		step += largest / 8
	}
	return 6*math.Sqrt(square/12)*step + ref.Epsilon(s.compute)*math.Sqrt(square)*largest
}

// activationLen is how many activations may share a scale where a device rounds them to 8 bits.
const activationLen = 32

// quantizedMatMul checks a product with activations that 8 bits hold exactly, which leaves only the rounding of sums,
// and one with any, which a device may round to 8 bits in blocks of activationLen.
func (s *suite) quantizedMatMul(dtype gpu.DType, tokens, n, k int) {
	s.Helper()
	what := fmt.Sprintf("%v: T=%d N=%d K=%d", dtype, tokens, n, k)
	raw, w := s.blocks(dtype, n, k)
	weight, _ := s.packBlocks(dtype, raw, n, k)
	bias, old := s.normal(gpu.F32, n, 1), s.normal(s.compute, tokens*n, 1)
	exact, steps := s.eightBits(tokens, k)
	for _, x := range [][]float32{exact, s.normal(s.compute, tokens*k, 1)} {
		if &x[0] != &exact[0] {
			steps = eighths(x)
		}
		in := s.act(x, tokens, k)
		plain := s.poison(s.compute, tokens, n)
		s.launch(gpu.OpMatMul, &gpu.MatMul{Out: plain, X: in, W: weight})
		coarse := s.coarse(dtype)
		s.nearProduct(what, s.get(plain), x, w, nil, nil, steps, k, coarse)
		full := s.act(old, tokens, n)
		s.launch(gpu.OpMatMul, &gpu.MatMul{Out: full, X: in, W: weight, Bias: s.put(gpu.F32, bias, n), Accumulate: true})
		s.nearProduct(what+" bias, accumulate", s.get(full), x, w, bias, old, steps, k, coarse)
		batched := s.get(plain)
		for _, t := range []int{0, tokens / 2, tokens - 1} {
			what, alone := fmt.Sprintf("%s: token %d alone", what, t), s.poison(s.compute, 1, n)
			s.launch(gpu.OpMatMul, &gpu.MatMul{Out: alone, X: in.Slice(t, t+1), W: weight})
			if together := batched[t*n:][:n]; coarse {
				s.within(what, s.get(alone), together, s.productLimit(dtype, x[t*k:][:k], w, n, k))
			} else {
				s.sameRows(what, s.get(alone), together, math.Sqrt(float64(k)))
			}
		}
	}
	s.free()
}

// eightBits returns activations that are whole numbers up to 127 times a power of two, 127 among them in every block,
// and the steps of no rounding.
func (s *suite) eightBits(tokens, k int) (x []float32, steps []float64) {
	x = make([]float32, tokens*k)
	for i := range x {
		if i%activationLen == 0 {
			unit := math.Ldexp(1, s.rng.IntN(4)-8)
			for j := range activationLen {
				x[i+j] = float32(unit * float64(s.rng.IntN(255)-127))
			}
			x[i+s.rng.IntN(activationLen)] = float32(127 * unit)
		}
	}
	return x, make([]float64, len(x)/activationLen)
}

// eighths returns the steps that rounding to 8 bits takes in each block.
func eighths(x []float32) (steps []float64) {
	for at := 0; at < len(x); at += activationLen {
		largest := 0.0
		for _, v := range x[at:][:activationLen] {
			largest = max(largest, math.Abs(float64(v)))
		}
		steps = append(steps, largest/127)
	}
	return steps
}

// nearProduct compares with a product in float64. Coarse activations may be rounded to 3 bits of mantissa. Each activation may be off by half its block's step; that many
// independent errors add up to a multiple of their root mean square, and six of it never happen. Sums are rounded by
// the compute type's step of the size of their terms.
func (s *suite) nearProduct(what string, got, x, w, bias, old []float32, steps []float64, k int, coarse bool) {
	s.Helper()
	n := len(w) / k
	want := ref.MatMul(x, w, bias, old, n, k)
	for i := range want {
		token, row := i/n, i%n
		size, square := math.Abs(float64(want[i])), 0.0
		for j, v := range w[row*k:][:k] {
			a, step := float64(x[token*k+j]), steps[(token*k+j)/activationLen]
			if coarse {
				step += math.Abs(a) / 8
			}
			size = max(size, math.Abs(a*float64(v)))
			square += float64(v) * float64(v) * step * step / 12
		}
		limit := 6*math.Sqrt(square) + ref.Epsilon(s.compute)*(2*size*math.Sqrt(float64(k))+math.Abs(float64(want[i])))
		if diff := math.Abs(float64(got[i]) - float64(want[i])); !(diff <= limit) {
			s.Fatalf("%s: token %d, row %d is %v, want %v (off by %.3g, allowed %.3g)", what, token, row, got[i], want[i], diff, limit)
		}
	}
}

// testQuantizedEmbed gathers rows of packed tables.
func testQuantizedEmbed(s *suite) {
	const vocab, tokens = 37, 11
	for _, dtype := range quantizedTypes {
		for _, hidden := range []int{256, 768} {
			raw, table := s.blocks(dtype, vocab, hidden)
			packed, ok := s.packBlocks(dtype, raw, vocab, hidden)
			if !ok {
				s.Logf("%v is not executed", dtype)
				break
			}
			largest := math.Max(float64(slices.Max(table)), -float64(slices.Min(table)))
			for _, scale := range []float32{1, 4.375} {
				ids := append(s.below(tokens-1, vocab), vocab-1)
				out := s.poison(s.compute, tokens, hidden)
				s.launch(gpu.OpEmbed, &gpu.Embed{Out: out, Table: packed, IDs: s.ints(ids), Scale: scale})
				// A minimum may cancel most of an element, so its parts' rounding counts.
				s.near(fmt.Sprintf("%v table, scale %v", dtype, scale), s.get(out), ref.Embed(table, hidden, ids, scale), largest*float64(scale), 4)
			}
			s.free()
		}
	}
}
