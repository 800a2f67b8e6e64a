package gputest

import (
	"fmt"
	"math"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/ref"
)

// testProducts covers products, alone and with what a device may take into them.
func testProducts(s *suite) {
	testMatMul(s)
	for _, tokens := range []int{1, 3, 8, 9, 16, 17, 32, 33, 100} {
		for _, shape := range [][2]int{{64, 64}, {48, 256}, {24, 1032}, {40, 100}} {
			s.fusedMatMul(tokens, shape[0], shape[1])
		}
	}
	s.wideOutput()
	testQuantizedProducts(s)
}

// fusedMatMul: a norm before, a gate behind, both, and a norm before a residual add.
func (s *suite) fusedMatMul(tokens, n, k int) {
	s.Helper()
	what := fmt.Sprintf("T=%d N=%d K=%d", tokens, n, k)
	x, weight := s.normal(s.compute, tokens*k, 3), s.normal(gpu.F32, k, 1)
	w, bias := s.normal(gpu.BF16, n*k, 1), s.normal(gpu.F32, n, 1)
	old := s.normal(s.compute, tokens*n, 1)
	normed := ref.RMSNorm(x, weight, 1e-5, 1)
	matrix, in, normWeight := s.pack(gpu.BF16, w, n, k), s.act(x, tokens, k), s.put(gpu.F32, weight, k)
	biases := s.put(gpu.F32, bias, n)
	// Each term's activation is rounded once more on the way, by half a step of its size.
	size := math.Sqrt(float64(k)) + 1
	steps := s.sumSteps(size)
	norm := func() *gpu.RMSNorm {
		return &gpu.RMSNorm{Out: s.poison(s.compute, tokens, k), X: in, Weight: normWeight, Eps: 1e-5, Offset: 1}
	}
	gate := func(x gpu.Tensor) *gpu.ActMul {
		return &gpu.ActMul{Out: s.poison(s.compute, tokens, n/2), X: x, Act: gpu.SiLU}
	}
	product := ref.MatMul(normed, w, bias, nil, n, k)

	plain, before := s.poison(s.compute, tokens, n), norm()
	s.launch(gpu.OpMatMul, &gpu.MatMul{Out: plain, X: before.Out, W: matrix, Bias: biases, Norm: before})
	s.near(what+" norm", s.get(plain), product, size, steps)

	sum, before := s.act(old, tokens, n), norm()
	s.launch(gpu.OpMatMul, &gpu.MatMul{Out: sum, X: before.Out, W: matrix, Accumulate: true, Norm: before})
	s.near(what+" norm, accumulate", s.get(sum), ref.MatMul(normed, w, nil, old, n, k), size, steps)

	both, before := s.poison(s.compute, tokens, n), norm()
	gated := gate(both)
	s.launch(gpu.OpMatMul, &gpu.MatMul{Out: both, X: before.Out, W: matrix, Bias: biases, Norm: before, Gate: gated})
	want := ref.ActMul(product, n/2, ref.SiLU)
	s.near(what+" norm, gate", s.get(gated.Out), want, size*size, 2*steps)

	alone := *before
	alone.X, alone.Out = in.Slice(tokens-1, tokens), s.poison(s.compute, 1, k)
	row := s.poison(s.compute, 1, n)
	last := gate(row)
	last.Out = last.Out.Slice(0, 1)
	s.launch(gpu.OpMatMul, &gpu.MatMul{Out: row, X: alone.Out, W: matrix, Bias: biases, Norm: &alone, Gate: last})
	s.sameRows(what+" norm, gate: last token alone", s.get(last.Out), s.get(gated.Out.Slice(tokens-1, tokens)), size*size)
	s.free()
}

// wideOutput: logits are float32 whatever the compute type, also when they are added to.
func (s *suite) wideOutput() {
	for _, tokens := range []int{1, 20, 40} {
		const n, k = 72, 128
		x, w, old := s.normal(s.compute, tokens*k, 1), s.normal(gpu.BF16, n*k, 1), s.normal(gpu.F32, tokens*n, 1)
		out := s.put(gpu.F32, old, tokens, n)
		s.launch(gpu.OpMatMul, &gpu.MatMul{Out: out, X: s.act(x, tokens, k), W: s.pack(gpu.BF16, w, n, k), Accumulate: true})
		got, want := s.get(out), ref.MatMul(x, w, nil, old, n, k)
		for i := range want {
			if diff := math.Abs(float64(got[i] - want[i])); !(diff < 1e-4) {
				s.Fatalf("float32 output of %d tokens: element %d is %v, want %v", tokens, i, got[i], want[i])
			}
		}
		s.free()
	}
}

// testKVWrites covers writes of keys and values, alone and with the rotation before.
func testKVWrites(s *suite) {
	testKVWrite(s)
	s.eachRounding(func() { testRoundingKVWrite(s) })
	for _, c := range []struct {
		heads, kvHeads, dim, half, extra int
		norm                             bool
	}{
		{4, 2, 64, 32, 0, false}, {8, 8, 16, 8, 0, false}, {4, 2, 32, 16, 8, false}, {3, 1, 10, 3, 5, false}, {2, 2, 64, 16, 0, false},
		{4, 2, 64, 32, 0, true}, {2, 1, 128, 64, 8, true}, {2, 1, 256, 128, 0, true}, {8, 8, 16, 8, 0, true}, {2, 1, 96, 48, 0, true}, {3, 1, 10, 3, 5, true}, {2, 2, 64, 16, 0, true},
	} {
		const blocks, tokens = 5, 6
		p := ref.Pool{KVHeads: c.kvHeads, BlockSize: 4, HeadDim: c.dim}
		qWidth, kvWidth := c.heads*c.dim, c.kvHeads*c.dim
		stride := qWidth + 2*kvWidth + c.extra
		x := s.normal(s.compute, tokens*stride, 1)
		cos, sin := s.normal(gpu.F32, tokens*c.half, 1), s.normal(gpu.F32, tokens*c.half, 1)
		k, v := s.normal(s.compute, p.At(blocks, 0, 0), 1), s.normal(s.compute, p.At(blocks, 0, 0), 1)
		slots := []int32{0, 19, 5, -1, 6, 7}
		in, norm := s.act(x, tokens, stride), s.headNorm(c.norm, c.heads, c.dim)
		kPool, vPool := s.act(k, blocks, c.kvHeads, 4, c.dim), s.act(v, blocks, c.kvHeads, 4, c.dim)
		s.launch(gpu.OpKVWrite, &gpu.KVWrite{KV: in, KColumn: qWidth, VColumn: qWidth + kvWidth, KPool: kPool, VPool: vPool, SlotMapping: s.ints(slots),
			RoPE: &gpu.RoPE{X: in, Heads: c.heads + c.kvHeads, HeadDim: c.dim, Cos: s.put(gpu.F32, cos, tokens, c.half), Sin: s.put(gpu.F32, sin, tokens, c.half), Norm: norm.op}})
		rotated := ref.RoPE(norm.apply(x, stride, 0, c.heads+c.kvHeads), stride, 0, c.heads+c.kvHeads, c.dim, cos, sin)
		ref.KVWrite(k, p, rotated, stride, qWidth, slots)
		ref.KVWrite(v, p, x, stride, qWidth+kvWidth, slots)
		what := fmt.Sprintf("rotated %+v", c)
		size := 1.0
		if c.norm {
			size = 4
		}
		s.near(what+": keys", s.get(kPool), k, size, 4)
		s.same(what+": values", s.get(vPool), v)
		for t := range tokens {
			s.near(what+": queries", s.get(in)[t*stride:t*stride+qWidth], rotated[t*stride:t*stride+qWidth], size, 4)
		}
		s.free()
	}
}
