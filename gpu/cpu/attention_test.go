package cpu

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/ref"
)

// TestBlockSizeDoesNotChangeBits: how keys and values are divided into blocks is a matter of
// memory, and must not reach the result.
func TestBlockSizeDoesNotChangeBits(t *testing.T) {
	const context, heads, kvHeads = 77, 4, 2
	for _, tr := range tiers() {
		for _, dim := range []int{5, 8, 40, 64} {
			for _, window := range []int{0, 30} {
				want := ""
				for _, block := range []int{80, 1, 3, 4, 16, 32} {
					if got := attendOnce(t, tr.name, context, heads, kvHeads, dim, block, window); want == "" {
						want = got
					} else if got != want {
						t.Errorf("%s, head size %d, window %d: blocks of %d differ from one block", tr.name, dim, window, block)
					}
				}
			}
		}
	}
}

// TestRoundedPools: attention over keys and values that KVWrite rounded has the bits of attention over float32 pools
// that hold the rounded numbers.
func TestRoundedPools(t *testing.T) {
	const tokens, blocks, kvHeads, heads, block = 150, 12, 2, 6, 16
	for _, tr := range tiers() {
		for _, dim := range []int{32, 40} {
			d := open(t, Options{Threads: 2, Tier: tr.name})
			alloc := func(dtype gpu.DType, dims ...int) gpu.Tensor {
				x, err := d.Alloc(dtype, dims...)
				if err != nil {
					t.Fatal(err)
				}
				return x
			}
			stride := (heads + 2*kvHeads) * dim
			kv, slots, out := alloc(gpu.F32, tokens, stride), alloc(gpu.I32, tokens), alloc(gpu.F32, tokens, heads*dim)
			table, starts, positions, slot := alloc(gpu.I32, 1, blocks), alloc(gpu.I32, 2), alloc(gpu.I32, tokens), alloc(gpu.I32, 1)
			copy(d.Float32s(kv), random(rand.New(rand.NewPCG(9, uint64(dim))), tokens*stride, 1))
			for i := range tokens {
				d.Int32s(positions)[i], d.Int32s(slots)[i] = int32(i), int32((blocks-1-i/block)*block+i%block)
			}
			for i := range blocks {
				d.Int32s(table)[i] = int32(blocks - 1 - i)
			}
			d.Int32s(starts)[1] = tokens
			attend := func(dtype gpu.DType) []float32 {
				k, v := alloc(dtype, blocks, kvHeads, block, dim), alloc(dtype, blocks, kvHeads, block, dim)
				for _, launch := range []struct {
					op   gpu.Op
					args any
				}{
					{gpu.OpKVWrite, &gpu.KVWrite{KV: kv, KColumn: heads * dim, VColumn: (heads + kvHeads) * dim, KPool: k, VPool: v, SlotMapping: slots}},
					{gpu.OpAttention, &gpu.Attention{Out: out, Q: kv, Heads: heads, KPool: k, VPool: v, BlockTables: table, Slots: slot,
						QueryStart: starts, Positions: positions, Scale: 0.3}},
				} {
					if err := d.Launch(launch.op, launch.args); err != nil {
						t.Fatal(err)
					}
				}
				return slices.Clone(d.Float32s(out))
			}
			exact, numbers := attend(gpu.F32), slices.Clone(d.Float32s(kv))
			for dtype, round := range map[gpu.DType]func([]float32){gpu.BF16: roundBF16, gpu.I8: roundI8} {
				copy(d.Float32s(kv), numbers)
				got := attend(dtype)
				for row := range tokens * (heads + 2*kvHeads) {
					if row%(heads+2*kvHeads) >= heads {
						round(d.Float32s(kv)[row*dim:][:dim])
					}
				}
				if want := attend(gpu.F32); !slices.Equal(got, want) {
					t.Errorf("%s, head size %d: %v pools differ from float32 pools of the same numbers", tr.name, dim, dtype)
				}
				if slices.Equal(got, exact) {
					t.Errorf("%s, head size %d: %v rounded nothing", tr.name, dim, dtype)
				}
			}
			for x := range d.table.All() {
				d.Free(x)
			}
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

func roundBF16(x []float32) {
	for i, v := range x {
		x[i] = bf16(toBF16(v))
	}
}

// roundI8 rounds a key or a value.
func roundI8(x []float32) {
	row := make([]byte, len(x)+scaleBytes)
	storeCodes(&goTier, row, x)
	copy(x, ref.DequantizeRows("i8", len(x), row))
}

// TestSizesOfRowsWithScales: what cannot be counted is no memory, and sizes count the scales.
func TestSizesOfRowsWithScales(t *testing.T) {
	d := open(t, Options{Threads: 1})
	defer d.Close()
	for _, dims := range [][]int{{math.MaxInt}, {math.MaxInt - 3}, {1 << 40, 1 << 40}, {1 << 32, 1<<31 - 4}} {
		if _, err := d.Alloc(gpu.I8, dims...); !errors.Is(err, gpu.ErrOutOfMemory) {
			t.Errorf("Alloc(i8, %v): %v", dims, err)
		}
	}
	x, err := d.Alloc(gpu.I8, 3, 5, 10)
	if err != nil {
		t.Fatal(err)
	}
	if part := x.Slice(1, 3); x.Bytes() != 3*5*14 || part.ByteOffset() != 5*14 || part.Bytes() != 2*5*14 || d.Memory().Bytes != 3*5*14 {
		t.Errorf("%v has %d bytes, a part of it %d from %d, the device %+v", x, x.Bytes(), part.Bytes(), part.ByteOffset(), d.Memory())
	}
	d.Free(x)
	defer func() {
		if recover() == nil {
			t.Error("a type of packed weights alone was allocated")
		}
	}()
	d.Alloc(gpu.Q8_0, 32)
}

// attendOnce computes the last query of a sequence whose keys and values do not depend on the
// block size, and returns the result as text.
func attendOnce(t *testing.T, tierName string, context, heads, kvHeads, dim, block, window int) string {
	t.Helper()
	d := open(t, Options{Threads: 1, Tier: tierName})
	blocks := (context + block - 1) / block
	alloc := func(dtype gpu.DType, dims ...int) gpu.Tensor {
		x, err := d.Alloc(dtype, dims...)
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	width := (heads + 2*kvHeads) * dim
	kv, slots := alloc(gpu.F32, context, width), alloc(gpu.I32, context)
	rng := rand.New(rand.NewPCG(7, 8))
	copy(d.Float32s(kv), random(rng, context*width, 1))
	a := &gpu.Attention{
		Out: alloc(gpu.F32, 1, heads*dim), Q: kv.Slice(context-1, context), Heads: heads, Scale: 0.2, Window: window,
		KPool: alloc(gpu.F32, blocks, kvHeads, block, dim), VPool: alloc(gpu.F32, blocks, kvHeads, block, dim),
		BlockTables: alloc(gpu.I32, 1, blocks), Slots: alloc(gpu.I32, 1), QueryStart: alloc(gpu.I32, 2), Positions: alloc(gpu.I32, 1),
	}
	for i, b := range rng.Perm(blocks) {
		d.Int32s(a.BlockTables)[i] = int32(b)
	}
	for p := range context {
		d.Int32s(slots)[p] = d.Int32s(a.BlockTables)[p/block]*int32(block) + int32(p%block)
	}
	d.Int32s(a.QueryStart)[1], d.Int32s(a.Positions)[0] = 1, int32(context-1)
	for _, launch := range []struct {
		op   gpu.Op
		args any
	}{
		{gpu.OpKVWrite, &gpu.KVWrite{KV: kv, KColumn: heads * dim, VColumn: (heads + kvHeads) * dim, KPool: a.KPool, VPool: a.VPool, SlotMapping: slots}},
		{gpu.OpAttention, a},
	} {
		if err := d.Launch(launch.op, launch.args); err != nil {
			t.Fatal(err)
		}
	}
	result := fmt.Sprint(d.Float32s(a.Out))
	for x := range d.table.All() {
		d.Free(x)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	return result
}
