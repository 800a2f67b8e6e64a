package gputest

import (
	"encoding/binary"
	"math"
	"slices"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/ref"
)

// Pools of keys and values may have types that round what is written: see gpu.Info.KV.

// eachRounding runs test with every such type.
func (s *suite) eachRounding(test func()) {
	for _, s.kv = range s.d.Info().KV {
		if s.kv != s.compute {
			test()
		}
	}
	s.kv = s.compute
}

// pool uploads a pool that holds values as s.kv has them, which it returns too.
func (s *suite) pool(values []float32, dims ...int) (gpu.Tensor, []float32) {
	s.Helper()
	dim := dims[len(dims)-1]
	var raw []byte
	if s.kv == gpu.I8 {
		for row := range slices.Chunk(values, dim) {
			raw = append(raw, encodeI8(row)...)
		}
	} else {
		raw = ref.Encode(s.kv, values)
	}
	t := s.alloc(s.kv, dims...)
	if err := s.d.Upload(t, raw); err != nil {
		s.Fatal(err)
	}
	return t, s.values(raw, dim)
}

// encodeI8 returns a row of gpu.I8 whose scale is the largest absolute value over 127.
func encodeI8(row []float32) []byte {
	largest := 0.0
	for _, v := range row {
		largest = max(largest, math.Abs(float64(v)))
	}
	scale := float32(largest / 127)
	var raw []byte
	for _, v := range row {
		raw = append(raw, byte(int8(math.RoundToEven(float64(v)/max(float64(scale), math.SmallestNonzeroFloat32)))))
	}
	return binary.LittleEndian.AppendUint32(raw, math.Float32bits(scale))
}

// values are those of a pool with rows of dim.
func (s *suite) values(raw []byte, dim int) []float32 {
	if s.kv == gpu.I8 {
		return ref.DequantizeRows("i8", dim, raw)
	}
	return ref.Decode(s.kv, raw)
}

// getPool downloads a pool.
func (s *suite) getPool(t gpu.Tensor) []byte {
	s.Helper()
	raw := make([]byte, t.Bytes())
	if err := s.d.Download(raw, t); err != nil {
		s.Fatal(err)
	}
	return raw
}

// testRoundingKVWrite: what is written is as near as the type allows, the rest stays, and what is no number does not
// become one.
func testRoundingKVWrite(s *suite) {
	for _, dim := range []int{10, 64, 80, 128} {
		const blocks, tokens = 6, 7
		p := ref.Pool{KVHeads: 3, BlockSize: 4, HeadDim: dim}
		width := p.KVHeads * dim
		stride := 2*width + 11
		kv := s.normal(s.compute, tokens*stride, 3)
		clear(kv[stride+5:][:dim])                 // token 1, head 0: a key of zeros
		kv[2*stride+5+1] = float32(math.NaN())     // token 2, head 0
		kv[2*stride+5+dim] = float32(math.Inf(-1)) // head 1
		slots := []int32{0, 23, 5, -1, 6, 7, 16}
		before := s.normal(gpu.F32, p.At(blocks, 0, 0), 1)
		kPool, k := s.pool(before, blocks, p.KVHeads, p.BlockSize, dim)
		vPool, v := s.pool(before, blocks, p.KVHeads, p.BlockSize, dim)
		s.launch(gpu.OpKVWrite, &gpu.KVWrite{KV: s.act(kv, tokens, stride), KColumn: 5, VColumn: 5 + width, KPool: kPool, VPool: vPool, SlotMapping: s.ints(slots)})
		ref.KVWrite(k, p, kv, stride, 5, slots)
		ref.KVWrite(v, p, kv, stride, 5+width, slots)
		s.rounded("keys", s.values(s.getPool(kPool), dim), k, dim)
		s.rounded("values", s.values(s.getPool(vPool), dim), v, dim)
		s.free()
	}
}

// rounded fails unless rows of got are those of want, rounded to s.kv.
func (s *suite) rounded(what string, got, want []float32, dim int) {
	s.Helper()
	for at := 0; at < len(want); at += dim {
		row, exact := got[at:][:dim], want[at:][:dim]
		largest, finite := 0.0, true
		for _, v := range exact {
			finite = finite && v-v == 0
			largest = max(largest, math.Abs(float64(v)))
		}
		if !finite {
			if !slices.ContainsFunc(row, func(v float32) bool { return v-v != 0 }) {
				s.Fatalf("%v %s of %d: row %d became %v, and was %v", s.kv, what, dim, at/dim, row, exact)
			}
			continue
		}
		for i, v := range exact {
			limit := math.Abs(float64(v)) / 256 // bfloat16
			if s.kv == gpu.I8 {
				limit = largest / 254
			}
			if diff := math.Abs(float64(row[i] - v)); !(diff <= 1.001*limit) {
				s.Fatalf("%v %s of %d: element %d of row %d is %v, want %v within %v", s.kv, what, dim, i, at/dim, row[i], v, limit)
			}
		}
	}
}

// testKVCopies: copies are of all bytes, whatever the type.
func testKVCopies(s *suite) {
	testKVCopy(s)
	s.eachRounding(func() {
		const blocks = 5
		pairs := []int32{0, 3, 2, 4}
		pool, _ := s.pool(s.normal(gpu.F32, blocks*2*4*6, 1), blocks, 2, 4, 6)
		want := s.getPool(pool)
		size := len(want) / blocks
		for i := 0; i < len(pairs); i += 2 {
			copy(want[int(pairs[i+1])*size:][:size], want[int(pairs[i])*size:][:size])
		}
		s.launch(gpu.OpKVCopy, &gpu.KVCopy{Pools: []gpu.Tensor{pool}, Pairs: pairs})
		if !slices.Equal(s.getPool(pool), want) {
			s.Fatalf("%v: blocks were not copied", s.kv)
		}
		s.free()
	})
}
