package cpu

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/troupe-engine/troupe/gpu"
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
