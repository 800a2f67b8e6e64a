package gputest

import (
	"fmt"
	"math"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/ref"
)

func testFeedTokens(s *suite) {
	tokens := []int32{5, -1, 0, -1, 9}
	slots := []int32{0, 2, 1, 0, 3}
	last := []int32{100, 101, 102, 103}
	out := s.ints(make([]int32, 5))
	s.launch(gpu.OpFeedTokens, &gpu.FeedTokens{Out: out, Tokens: s.ints(tokens), Slots: s.ints(slots), LastToken: s.ints(last)})
	s.sameInts("feed", s.getInts(out), ref.FeedTokens(tokens, slots, last))
}

func testEmbed(s *suite) {
	const vocab, hidden, tokens = 37, 19, 11
	for _, dtype := range []gpu.DType{gpu.F32, gpu.F16, gpu.BF16} {
		for _, scale := range []float32{1, 4.375} {
			table := s.normal(dtype, vocab*hidden, 1)
			if dtype == gpu.F16 {
				table[vocab*hidden-1] = 0x1p-20 // subnormal
			}
			ids := append(s.below(tokens-1, vocab), vocab-1)
			out := s.poison(s.compute, tokens, hidden)
			s.launch(gpu.OpEmbed, &gpu.Embed{Out: out, Table: s.put(dtype, table, vocab, hidden), IDs: s.ints(ids), Scale: scale})
			s.near(fmt.Sprintf("%v table, scale %v", dtype, scale), s.get(out), ref.Embed(table, hidden, ids, scale), 0, 1)
			s.free()
		}
	}
	testQuantizedEmbed(s)
}

func testRMSNorm(s *suite) {
	for _, cols := range []int{1, 3, 16, 64, 65, 257, 1024} {
		for _, rows := range []int{1, 2, 7} {
			x := s.normal(s.compute, rows*cols, 2)
			weight := s.normal(gpu.F32, cols, 1)
			in, w := s.act(x, rows, cols), s.put(gpu.F32, weight, cols)
			for _, offset := range []float32{0, 1} {
				what := fmt.Sprintf("%d rows of %d, offset %v", rows, cols, offset)
				out := s.poison(s.compute, rows, cols)
				s.launch(gpu.OpRMSNorm, &gpu.RMSNorm{Out: out, X: in, Weight: w, Eps: 1e-5, Offset: offset})
				s.tolerates(what, s.get(out), ref.RMSNorm(x, weight, 1e-5, offset), ref.RMSNormTolerance)
			}
			alone := s.poison(s.compute, 1, cols)
			s.launch(gpu.OpRMSNorm, &gpu.RMSNorm{Out: alone, X: in.Slice(rows-1, rows), Weight: w, Eps: 1e-5})
			s.launch(gpu.OpRMSNorm, &gpu.RMSNorm{Out: in, X: in, Weight: w, Eps: 1e-5})
			s.tolerates("in place", s.get(in), ref.RMSNorm(x, weight, 1e-5, 0), ref.RMSNormTolerance)
			s.same("a row alone", s.get(alone), s.get(in.Slice(rows-1, rows)))
			s.free()
		}
	}
}

// testMatMul covers every number of tokens up to 70 on small matrices, and awkward n and k.
func testMatMul(s *suite) {
	for tokens := 1; tokens <= 70; tokens++ {
		n, k := 1+s.rng.IntN(130), 1+s.rng.IntN(60)
		dtype := []gpu.DType{gpu.F32, gpu.F16, gpu.BF16}[tokens%3]
		s.matMul(dtype, tokens, n, k)
	}
	for _, dtype := range []gpu.DType{gpu.F32, gpu.F16, gpu.BF16} {
		for _, shape := range [][3]int{{1, 1, 1}, {1, 16, 16}, {1, 300, 257}, {2, 17, 4500}, {12, 128, 64}, {13, 129, 64},
			{24, 256, 100}, {1, 1024, 200}, {33, 257, 130}} {
			s.matMul(dtype, shape[0], shape[1], shape[2])
		}
	}
}

func (s *suite) matMul(dtype gpu.DType, tokens, n, k int) {
	s.Helper()
	what := fmt.Sprintf("%v: T=%d N=%d K=%d", dtype, tokens, n, k)
	x := s.normal(s.compute, tokens*k, 1)
	w := s.normal(dtype, n*k, 1)
	bias := s.normal(gpu.F32, n, 1)
	old := s.normal(s.compute, tokens*n, 1)
	weight, in := s.pack(dtype, w, n, k), s.act(x, tokens, k)
	// Rounding grows with the root of the terms; each is about one.
	size := math.Sqrt(float64(k)) + 1
	plain := s.poison(s.compute, tokens, n)
	s.launch(gpu.OpMatMul, &gpu.MatMul{Out: plain, X: in, W: weight})
	s.near(what, s.get(plain), ref.MatMul(x, w, nil, nil, n, k), size, s.sumSteps(size))
	full := s.act(old, tokens, n)
	s.launch(gpu.OpMatMul, &gpu.MatMul{Out: full, X: in, W: weight, Bias: s.put(gpu.F32, bias, n), Accumulate: true})
	s.near(what+" bias, accumulate", s.get(full), ref.MatMul(x, w, bias, old, n, k), size, s.sumSteps(size))
	batched := s.get(plain)
	for _, t := range []int{0, tokens / 2, tokens - 1} {
		alone := s.poison(s.compute, 1, n)
		s.launch(gpu.OpMatMul, &gpu.MatMul{Out: alone, X: in.Slice(t, t+1), W: weight})
		s.sameRows(fmt.Sprintf("%s: token %d alone", what, t), s.get(alone), batched[t*n:(t+1)*n], size)
	}
	if tokens > 3 {
		part := s.poison(s.compute, tokens-2, n)
		s.launch(gpu.OpMatMul, &gpu.MatMul{Out: part, X: in.Slice(1, tokens-1), W: weight})
		s.sameRows(what+": all but two tokens", s.get(part), batched[n:(tokens-1)*n], size)
	}
	s.free()
}

func testActMul(s *suite) {
	acts := map[gpu.Activation]func(float64) float64{gpu.SiLU: ref.SiLU, gpu.GELUTanh: ref.GELUTanh}
	for act, f := range acts {
		for _, width := range []int{1, 15, 16, 33, 513, 1600} {
			for _, tokens := range []int{1, 5} {
				x := s.normal(s.compute, tokens*2*width, 4)
				x[0], x[len(x)/2] = -100, 100
				in, out := s.act(x, tokens, 2*width), s.poison(s.compute, tokens, width)
				s.launch(gpu.OpActMul, &gpu.ActMul{Out: out, X: in, Act: act})
				what := fmt.Sprintf("activation %d, %d rows of %d", act, tokens, width)
				s.tolerates(what, s.get(out), ref.ActMul(x, width, f), ref.ActMulTolerance)
				alone := s.poison(s.compute, 1, width)
				s.launch(gpu.OpActMul, &gpu.ActMul{Out: alone, X: in.Slice(tokens-1, tokens), Act: act})
				s.same(what+": last row alone", s.get(alone), s.get(out.Slice(tokens-1, tokens)))
				s.free()
			}
		}
	}
	nan := s.act([]float32{float32(math.NaN()), 1}, 1, 2)
	out := s.act([]float32{0}, 1, 1)
	s.launch(gpu.OpActMul, &gpu.ActMul{Out: out, X: nan})
	if got := s.get(out)[0]; got == got {
		s.Errorf("the activation of NaN is %v; NaN must stay visible", got)
	}
}

func testAdd(s *suite) {
	for _, n := range []int{1, 17, 1000} {
		a, b := s.normal(s.compute, n, 1), s.normal(s.compute, n, 1)
		x, y, out := s.act(a, n), s.act(b, n), s.poison(s.compute, n)
		s.launch(gpu.OpAdd, &gpu.Add{Out: out, A: x, B: y})
		s.near("add", s.get(out), ref.Add(a, b), 0, 1)
		s.launch(gpu.OpAdd, &gpu.Add{Out: x, A: x, B: y})
		s.same("in place of A", s.get(x), s.get(out))
		x = s.act(a, n)
		s.launch(gpu.OpAdd, &gpu.Add{Out: y, A: x, B: y})
		s.same("in place of B", s.get(y), s.get(out))
		s.free()
	}
}

func testGatherRows(s *suite) {
	const rows, cols = 9, 21
	x := s.normal(s.compute, rows*cols, 1)
	for _, pick := range [][]int32{{8}, {0, 8, 4, 4}} {
		out := s.poison(s.compute, len(pick), cols)
		s.launch(gpu.OpGatherRows, &gpu.GatherRows{Out: out, X: s.act(x, rows, cols), Rows: s.ints(pick)})
		s.same("gather", s.get(out), ref.GatherRows(x, cols, pick))
		s.free()
	}
}

func testSoftCap(s *suite) {
	for _, limit := range []float32{30, 1.5} {
		x := s.normal(s.compute, 1001, 20)
		x[0], x[1] = 1e-3, -1000
		in := s.act(x, 7, 143)
		s.launch(gpu.OpSoftCap, &gpu.SoftCap{X: in, Cap: limit})
		s.near(fmt.Sprintf("cap %v", limit), s.get(in), ref.SoftCap(x, limit), 1e-3, 8)
		s.free()
	}
}
