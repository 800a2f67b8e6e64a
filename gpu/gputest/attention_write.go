package gputest

import (
	"fmt"
	"math"

	"github.com/troupe-engine/troupe/gpu"
)

// testAttentionWrites: attention that writes the keys and values of a decode itself gives the bits of the two ops one after
// the other, in the result and in the pools, and of each sequence alone.
func testAttentionWrites(s *suite) {
	long := []int{1, 256, 257, 530, 1000, 37}
	for _, c := range []struct {
		kvHeads, group, dim, half int
		softCap                   float32
		window                    int
		lengths                   []int
		norm                      bool
	}{
		{2, 4, 128, 64, 0, 0, long, false}, {2, 4, 128, 64, 0, 0, long, true}, {2, 4, 64, 32, 0, 0, long, true}, {1, 12, 128, 64, 0, 0, long, false},
		{1, 1, 256, 128, 0, 0, []int{1000, 128, 129}, false}, {1, 2, 256, 128, 0, 0, []int{500, 128, 129}, true},
		{1, 2, 96, 48, 0, 0, long, false}, {1, 2, 32, 16, 5, 0, long, true}, {2, 2, 128, 64, 0, 200, long, false}, {1, 3, 64, 32, 30, 257, []int{900, 1, 511, 512, 513}, false},
		// Not as fused kernels would have it.
		{2, 2, 80, 40, 0, 0, long, false}, {2, 2, 96, 48, 0, 0, long, true}, {2, 2, 64, 16, 0, 0, long, true}, {1, 3, 10, 3, 0, 0, []int{33, 1}, true},
		{2, 4, 128, 64, 0, 0, []int{2048, 1500, 1}, true}, {1, 2, 128, 64, 0, 0, []int{2049, 300}, true},
		{4, 4, 64, 32, 0, 0, []int{500, 400, 300, 200, 100, 90, 80, 70, 60, 50, 40, 30, 20, 10, 511, 512, 256, 255, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 18}, true},
	} {
		what := fmt.Sprintf("%v: %+v", s.kv, c)
		w := s.world(c.kvHeads, c.group, 16, c.dim, c.lengths...)
		n := len(c.lengths)
		stride := (w.heads+2*c.kvHeads)*c.dim + 8
		contextMax := 512
		var slots, positions, mapping []int32
		starts := []int32{0}
		for i, length := range c.lengths {
			for contextMax < length {
				contextMax *= 2
			}
			at := length - 1
			slots, positions, starts = append(slots, int32(i)), append(positions, int32(at)), append(starts, int32(i+1))
			mapping = append(mapping, w.tables[i*w.tableWidth+at/16]*16+int32(at%16))
		}
		// A sequence without a token, and one whose token is nobody's: it is written nowhere.
		slots, positions, mapping = append(slots, 0, 0), append(positions, 0), append(mapping, -1)
		starts = append(starts, int32(n), int32(n+1))
		rows := n + 1
		x := s.normal(s.compute, rows*stride, 1)
		cos, sin := s.normal(gpu.F32, rows*c.half, 1), s.normal(gpu.F32, rows*c.half, 1)
		norm := s.headNorm(c.norm, w.heads, c.dim)
		blocks := w.deviceK.Dims[0]
		width := w.heads * c.dim

		run := func(from, to int, fused bool) (out []float32, k, v []byte) {
			defer s.freeFrom(len(s.live))
			kPool, _ := s.pool(w.k, blocks, c.kvHeads, 16, c.dim)
			vPool, _ := s.pool(w.v, blocks, c.kvHeads, 16, c.dim)
			tokens := to - from
			in := s.act(x[from*stride:to*stride], tokens, stride)
			write := &gpu.KVWrite{KV: in, KColumn: width, VColumn: width + c.kvHeads*c.dim, KPool: kPool, VPool: vPool, SlotMapping: s.ints(mapping[from:to]),
				RoPE: &gpu.RoPE{X: in, Heads: w.heads + c.kvHeads, HeadDim: c.dim, Norm: norm.op,
					Cos: s.put(gpu.F32, cos[from*c.half:to*c.half], tokens, c.half), Sin: s.put(gpu.F32, sin[from*c.half:to*c.half], tokens, c.half)}}
			of, start := slots[from:to], []int32{0}
			if tokens == rows {
				of, start = slots, starts
			} else {
				for i := range tokens {
					start = append(start, int32(i+1))
				}
			}
			result := s.poison(s.compute, tokens, width)
			attention := &gpu.Attention{Out: result, Q: in, Heads: w.heads, KPool: kPool, VPool: vPool, BlockTables: w.deviceTables, Slots: s.ints(of),
				QueryStart: s.ints(start), Positions: s.ints(positions[from:to]), Scale: float32(1 / math.Sqrt(float64(c.dim))), SoftCap: c.softCap, Window: c.window}
			if fused {
				attention.Write, attention.ContextMax, attention.QueryMax = write, contextMax, 1
			} else {
				s.launch(gpu.OpKVWrite, write)
			}
			s.launch(gpu.OpAttention, attention)
			return s.get(result), s.getPool(kPool), s.getPool(vPool)
		}
		apart, apartK, apartV := run(0, rows, false)
		fused, fusedK, fusedV := run(0, rows, true)
		s.same(what+": written by attention", fused[:n*width], apart[:n*width])
		if string(fusedK) != string(apartK) || string(fusedV) != string(apartV) {
			s.Errorf("%s: the pools differ from those written before attention", what)
		}
		for i := 0; i < n; i += 3 {
			alone, _, _ := run(i, i+1, true)
			s.same(fmt.Sprintf("%s: sequence %d alone", what, i), alone, fused[i*width:(i+1)*width])
		}
		s.free()
	}
}
