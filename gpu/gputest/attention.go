package gputest

import (
	"fmt"
	"math"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/ref"
)

func testRoPETable(s *suite) {
	for _, half := range []int{1, 8, 33} {
		positions := append(s.below(5, 4096), 0, 131071)
		freq := make([]float32, half)
		for i := range freq {
			freq[i] = float32(math.Pow(10000, -float64(i)/float64(half)))
		}
		n := len(positions)
		cos, sin := s.poison(gpu.F32, n, half), s.poison(gpu.F32, n, half)
		s.launch(gpu.OpRoPETable, &gpu.RoPETable{Cos: cos, Sin: sin, Positions: s.ints(positions), InvFreq: s.put(gpu.F32, freq, half), Scale: 1.25})
		wantCos, wantSin := ref.RoPETable(positions, freq, 1.25)
		for i := range wantCos {
			for _, pair := range [][2]float32{{s.get(cos)[i], wantCos[i]}, {s.get(sin)[i], wantSin[i]}} {
				if !(math.Abs(float64(pair[0]-pair[1])) < 1e-6) {
					s.Fatalf("half %d, element %d: %v, want %v", half, i, pair[0], pair[1])
				}
			}
		}
		s.free()
	}
}

func testRoPE(s *suite) {
	for _, c := range []struct{ tokens, heads, dim, half, column, extra int }{
		{1, 1, 2, 1, 0, 0}, {5, 3, 16, 8, 0, 7}, {4, 2, 64, 32, 128, 64}, {3, 2, 80, 20, 5, 9},
	} {
		stride := c.column + c.heads*c.dim + c.extra
		x := s.normal(s.compute, c.tokens*stride, 1)
		cos, sin := s.normal(gpu.F32, c.tokens*c.half, 1), s.normal(gpu.F32, c.tokens*c.half, 1)
		in := s.act(x, c.tokens, stride)
		args := gpu.RoPE{X: in, Column: c.column, Heads: c.heads, HeadDim: c.dim,
			Cos: s.put(gpu.F32, cos, c.tokens, c.half), Sin: s.put(gpu.F32, sin, c.tokens, c.half)}
		s.launch(gpu.OpRoPE, &args)
		s.tolerates(fmt.Sprintf("%+v", c), s.get(in), ref.RoPE(x, stride, c.column, c.heads, c.dim, cos, sin), ref.RoPETolerance)

		norm := s.headNorm(true, c.heads/2, c.dim)
		in = s.act(x, c.tokens, stride)
		args.X, args.Norm = in, norm.op
		s.launch(gpu.OpRoPE, &args)
		s.near(fmt.Sprintf("%+v, normalized", c), s.get(in), ref.RoPE(norm.apply(x, stride, c.column, c.heads), stride, c.column, c.heads, c.dim, cos, sin), 4, 4)
		s.free()
	}
}

// headNorm is a norm of heads of which the first are queries, drawn at random, and what it does; without one, if it is not wanted.
type headNorm struct {
	op         *gpu.HeadNorm
	query, key []float32
}

func (s *suite) headNorm(wanted bool, queries, dim int) headNorm {
	if !wanted {
		return headNorm{}
	}
	n := headNorm{query: s.normal(gpu.F32, dim, 1), key: s.normal(gpu.F32, dim, 1)}
	n.op = &gpu.HeadNorm{Query: s.put(gpu.F32, n.query, dim), Key: s.put(gpu.F32, n.key, dim), Queries: queries, Eps: 1e-5, Offset: 1}
	return n
}

// apply returns rows with their heads normalized.
func (n headNorm) apply(x []float32, stride, column, heads int) []float32 {
	out := append([]float32(nil), x...)
	if n.op == nil {
		return out
	}
	dim := len(n.query)
	for row := 0; row < len(x); row += stride {
		for h := range heads {
			weight := n.key
			if h < n.op.Queries {
				weight = n.query
			}
			at := out[row+column+h*dim:][:dim]
			copy(at, ref.RMSNorm(at, weight, n.op.Eps, n.op.Offset))
		}
	}
	return out
}

func testKVWrite(s *suite) {
	const blocks, tokens = 6, 7
	p := ref.Pool{KVHeads: 3, BlockSize: 4, HeadDim: 10}
	width := p.KVHeads * p.HeadDim
	stride := 2*width + 11
	k, v := s.normal(s.compute, p.At(blocks, 0, 0), 1), s.normal(s.compute, p.At(blocks, 0, 0), 1)
	kv := s.normal(s.compute, tokens*stride, 1)
	slots := []int32{0, 23, 5, -1, 6, 7, 16}
	kPool, vPool := s.act(k, blocks, p.KVHeads, p.BlockSize, p.HeadDim), s.act(v, blocks, p.KVHeads, p.BlockSize, p.HeadDim)
	s.launch(gpu.OpKVWrite, &gpu.KVWrite{KV: s.act(kv, tokens, stride), KColumn: 5, VColumn: 5 + width, KPool: kPool, VPool: vPool, SlotMapping: s.ints(slots)})
	ref.KVWrite(k, p, kv, stride, 5, slots)
	ref.KVWrite(v, p, kv, stride, 5+width, slots)
	s.same("keys", s.get(kPool), k)
	s.same("values", s.get(vPool), v)
}

func testKVCopy(s *suite) {
	const blocks = 5
	p := ref.Pool{KVHeads: 2, BlockSize: 4, HeadDim: 6}
	pairs := []int32{0, 3, 2, 4}
	var pools []gpu.Tensor
	var want [][]float32
	for range 3 {
		values := s.normal(s.compute, p.At(blocks, 0, 0), 1)
		pools = append(pools, s.act(values, blocks, p.KVHeads, p.BlockSize, p.HeadDim))
		ref.KVCopy(values, p, pairs)
		want = append(want, values)
	}
	s.launch(gpu.OpKVCopy, &gpu.KVCopy{Pools: pools, Pairs: pairs})
	for i := range pools {
		s.same("pool", s.get(pools[i]), want[i])
	}
}

// world is a paged KV pool holding a few sequences, and the queries of all their positions.
type world struct {
	pool                  ref.Pool
	heads, stride, column int
	k, v, q               []float32
	tables                []int32
	tableWidth            int
	length                []int // tokens of each sequence
	first                 []int // row of q of each sequence's position 0
	softCap               float32
	window                int
	deviceK, deviceV      gpu.Tensor
	deviceTables          gpu.Tensor
}

func (s *suite) world(kvHeads, group, blockSize, dim int, length ...int) *world {
	w := &world{pool: ref.Pool{KVHeads: kvHeads, BlockSize: blockSize, HeadDim: dim}, heads: kvHeads * group, length: length, column: 3}
	w.stride = w.column + w.heads*dim + 5
	blocks, tokens := 1, 0
	for _, n := range length {
		w.first = append(w.first, tokens)
		tokens += n
		need := (n + blockSize - 1) / blockSize
		blocks += need
		w.tableWidth = max(w.tableWidth, need+1)
	}
	order := s.rng.Perm(blocks)
	for _, n := range length {
		row := make([]int32, w.tableWidth)
		for i := range row {
			row[i] = -1 // never read past the sequence's end
		}
		for i := range (n + blockSize - 1) / blockSize {
			row[i] = int32(order[0])
			order = order[1:]
		}
		w.tables = append(w.tables, row...)
	}
	size := w.pool.At(blocks, 0, 0)
	w.q = s.normal(s.compute, tokens*w.stride, 1)
	w.deviceK, w.k = s.pool(s.normal(gpu.F32, size, 1), blocks, kvHeads, blockSize, dim)
	w.deviceV, w.v = s.pool(s.normal(gpu.F32, size, 1), blocks, kvHeads, blockSize, dim)
	w.deviceTables = s.ints(w.tables, len(length), w.tableWidth)
	return w
}

// span is positions [from, to) of a sequence, in one step.
type span struct{ sequence, from, to int }

// attend runs one step over the spans on the device, and on the reference.
func (s *suite) attend(w *world, spans ...span) (got, want []float32) {
	s.Helper()
	r := ref.Attention{Stride: w.stride, QColumn: w.column, Heads: w.heads, K: w.k, V: w.v, Pool: w.pool,
		BlockTables: w.tables, TableWidth: w.tableWidth, QueryStart: []int32{0},
		Scale: float32(1 / math.Sqrt(float64(w.pool.HeadDim))), SoftCap: w.softCap, Window: w.window}
	for _, p := range spans {
		r.Slots = append(r.Slots, int32(p.sequence))
		for at := p.from; at < p.to; at++ {
			row := (w.first[p.sequence] + at) * w.stride
			r.Q = append(r.Q, w.q[row:row+w.stride]...)
			r.Positions = append(r.Positions, int32(at))
		}
		r.QueryStart = append(r.QueryStart, int32(len(r.Positions)))
	}
	tokens, width := len(r.Positions), w.heads*w.pool.HeadDim
	out := s.poison(s.compute, tokens, width)
	s.launch(gpu.OpAttention, &gpu.Attention{Out: out, Q: s.act(r.Q, tokens, w.stride), QColumn: w.column, Heads: w.heads,
		KPool: w.deviceK, VPool: w.deviceV, BlockTables: w.deviceTables, Slots: s.ints(r.Slots), QueryStart: s.ints(r.QueryStart),
		Positions: s.ints(r.Positions), Scale: r.Scale, SoftCap: r.SoftCap, Window: r.Window})
	return s.get(out), r.Run()
}

type attentionCase struct {
	kvHeads, group, block, dim int
	softCap                    float32
	window, length             int
}

func testAttention(s *suite) {
	testAttentionOf(s, []attentionCase{
		{1, 1, 4, 8, 0, 0, 70}, {2, 4, 16, 64, 0, 0, 70}, {2, 2, 16, 80, 0, 16, 70}, {1, 3, 8, 33, 5, 0, 70}, {2, 1, 16, 128, 30, 20, 70},
		{1, 7, 32, 16, 0, 1, 70}, {1, 2, 16, 256, 0, 0, 70}, {1, 20, 16, 32, 0, 0, 70},
		// Long enough for implementations that divide the keys.
		{1, 4, 16, 64, 0, 0, 530}, {1, 2, 16, 128, 0, 200, 520}, {1, 1, 16, 256, 0, 0, 270},
	})
	testManyParts(s)
	testAttentionWrites(s)
	s.eachRounding(func() {
		testAttentionOf(s, []attentionCase{{2, 4, 16, 64, 0, 0, 70}, {1, 3, 8, 33, 5, 0, 70}, {2, 1, 16, 128, 30, 20, 70}, {2, 2, 16, 80, 0, 16, 70}, {1, 4, 16, 64, 0, 0, 530}})
	})
}

func testAttentionOf(s *suite, cases []attentionCase) {
	for _, c := range cases {
		what := fmt.Sprintf("%v: %+v", s.kv, c)
		n := c.length
		w := s.world(c.kvHeads, c.group, c.block, c.dim, n, 1, 37)
		w.softCap, w.window = c.softCap, c.window
		width := w.heads * c.dim
		whole, want := s.attend(w, span{0, 0, n})
		s.near(what, whole, want, 1, 32)

		var chunked []float32
		for _, cut := range [][2]int{{0, 1}, {1, 18}, {18, n / 2}, {n / 2, n - 1}, {n - 1, n}} {
			part, _ := s.attend(w, span{0, cut[0], cut[1]})
			chunked = append(chunked, part...)
		}
		s.same(what+": prefill in chunks", chunked, whole)

		mixed, want := s.attend(w, span{2, 30, 37}, span{0, n - 1, n}, span{1, 0, 1})
		s.near(what+": mixed step", mixed, want, 1, 32)
		s.same(what+": decode beside a prefill", mixed[7*width:8*width], whole[(n-1)*width:])

		mixed, want = s.attend(w, span{0, n / 3, n}, span{2, 0, 37}, span{1, 0, 1})
		s.near(what+": prefills beside a decode", mixed, want, 1, 32)
		s.same(what+": a prefill beside others", mixed[:(n-n/3)*width], whole[n/3*width:])
		decode, want := s.attend(w, span{1, 0, 1}, span{0, n - 1, n})
		s.near(what+": decodes", decode, want, 1, 32)
		s.same(what+": decode beside a decode", decode[width:], whole[(n-1)*width:])
		s.free()
	}
}

// testManyParts: a step with more divided sequences than an implementation may have at work at once, and among them one
// of whose tokens only the last see its last part.
func testManyParts(s *suite) {
	const kvHeads, dim, decodes, few, length = 4, 16, 40, 15, 600
	lengths := []int{259}
	spans := []span{{0, 259 - few, 259}}
	for i := range decodes {
		lengths = append(lengths, length+i)
		spans = append(spans, span{i + 1, length + i - 1, length + i})
	}
	w := s.world(kvHeads, 1, 16, dim, lengths...)
	width := w.heads * dim
	all, want := s.attend(w, spans...)
	s.near("many parts", all, want, 1, 32)
	alone, _ := s.attend(w, spans[0])
	s.same("many parts: a few tokens beside decodes", all[:few*width], alone)
	for i := 1; i < len(spans); i += 13 {
		alone, _ := s.attend(w, spans[i])
		s.same("many parts: a decode beside others", all[(few+i-1)*width:(few+i)*width], alone)
	}
	s.free()
}
