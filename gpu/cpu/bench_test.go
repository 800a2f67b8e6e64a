package cpu

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/troupe-engine/troupe/gpu"
)

// nothing is a task of no work.
type nothing struct{}

func (nothing) run(_, _, _ int) {}

// BenchmarkDispatch is the price of sharing one launch between two threads, back to back.
func BenchmarkDispatch(b *testing.B) {
	p := newPool(2)
	defer p.close()
	b.ReportAllocs()
	for b.Loop() {
		p.do(nothing{}, 2, 1)
	}
}

// BenchmarkDispatchParked is the same after a pause in which the worker went to sleep; only the
// launch is in "ns/dispatch".
func BenchmarkDispatchParked(b *testing.B) {
	p := newPool(2)
	defer p.close()
	var spent time.Duration
	for b.Loop() {
		for !p.parked[1].asleep.Load() {
			time.Sleep(10 * time.Microsecond)
		}
		start := time.Now()
		p.do(nothing{}, 2, 1)
		spent += time.Since(start)
	}
	b.ReportMetric(float64(spent.Nanoseconds())/float64(b.N), "ns/dispatch")
}

// hotOps are the launches of a decode step, with tensors of a small model.
func hotOps(tb testing.TB, d *Device, tokens int) map[gpu.Op]any {
	const hidden, heads, kvHeads, dim, width, vocab, blocks, block = 256, 8, 4, 32, 704, 4096, 16, 16
	stride := (heads + 2*kvHeads) * dim
	alloc := func(dtype gpu.DType, dims ...int) gpu.Tensor {
		t, err := d.Alloc(dtype, dims...)
		if err != nil {
			tb.Fatal(err)
		}
		return t
	}
	f32 := func(dims ...int) gpu.Tensor { return alloc(gpu.F32, dims...) }
	i32 := func(dims ...int) gpu.Tensor { return alloc(gpu.I32, dims...) }
	w, err := d.PackMatrix("w", gpu.BF16, hidden, hidden, make([]byte, hidden*hidden*2))
	if err != nil {
		tb.Fatal(err)
	}
	kPool, vPool := f32(blocks, kvHeads, block, dim), f32(blocks, kvHeads, block, dim)
	x, qkv, logits, indices := f32(tokens, hidden), f32(tokens, stride), f32(tokens, vocab), i32(tokens)
	cos, sin := f32(tokens, dim/2), f32(tokens, dim/2)
	fillNormal(d.Float32s(logits), 3)
	starts, positions, slots, params := i32(tokens+1), i32(tokens), i32(tokens), make([]gpu.SampleParams, tokens)
	for t := range tokens {
		d.Int32s(slots)[t] = int32(t) // slots of the pools: no two tokens write to the same
		d.Int32s(starts)[t+1] = int32(t + 1)
		d.Int32s(positions)[t] = 100
		params[t] = gpu.SampleParams{Temperature: 0.8, TopP: 0.9, Slot: int32(t)}
	}
	return map[gpu.Op]any{
		gpu.OpFeedTokens: &gpu.FeedTokens{Out: indices, Tokens: indices, Slots: indices, LastToken: i32(tokens)},
		gpu.OpEmbed:      &gpu.Embed{Out: x, Table: f32(8, hidden), IDs: indices, Scale: 1},
		gpu.OpRMSNorm:    &gpu.RMSNorm{Out: x, X: x, Weight: f32(hidden), Eps: 1e-5},
		gpu.OpMatMul:     &gpu.MatMul{Out: f32(tokens, hidden), X: x, W: w},
		gpu.OpRoPETable:  &gpu.RoPETable{Cos: cos, Sin: sin, Positions: positions, InvFreq: f32(dim / 2), Scale: 1},
		gpu.OpRoPE:       &gpu.RoPE{X: qkv, Heads: heads, HeadDim: dim, Cos: cos, Sin: sin},
		gpu.OpKVWrite: &gpu.KVWrite{KV: qkv, KColumn: heads * dim, VColumn: (heads + kvHeads) * dim,
			KPool: kPool, VPool: vPool, SlotMapping: slots},
		gpu.OpAttention: &gpu.Attention{Out: f32(tokens, heads*dim), Q: qkv, Heads: heads, KPool: kPool, VPool: vPool,
			BlockTables: i32(tokens, blocks), Slots: i32(tokens), QueryStart: starts, Positions: positions, Scale: 1},
		gpu.OpActMul: &gpu.ActMul{Out: f32(tokens, width), X: f32(tokens, 2*width)},
		gpu.OpAdd:    &gpu.Add{Out: x, A: x, B: x},
		gpu.OpSample: &gpu.Sample{Logits: logits, Params: params, Out: i32(tokens), LastToken: i32(tokens)},
	}
}

// TestLaunchDoesNotAllocate: a steady state of decode steps makes no garbage.
func TestLaunchDoesNotAllocate(t *testing.T) {
	for _, tokens := range []int{1, 16} {
		d := open(t, Options{Threads: 2})
		for op, args := range hotOps(t, d, tokens) {
			for range 3 { // scratch grows at first
				if err := d.Launch(op, args); err != nil {
					t.Fatal(err)
				}
			}
			if n := testing.AllocsPerRun(20, func() { _ = d.Launch(op, args) }); n != 0 {
				t.Errorf("%s with %d tokens: %v allocations per launch", op, tokens, n)
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

// TestEmptyLaunches: a step may have nothing to embed, attend to or sample.
func TestEmptyLaunches(t *testing.T) {
	for _, tr := range tiers() {
		d := open(t, Options{Threads: 2, Tier: tr.name})
		for op, args := range hotOps(t, d, 0) {
			if err := d.Launch(op, args); err != nil {
				t.Errorf("%s, %s: %v", tr.name, op, err)
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

// BenchmarkLaunch is each launch of a decode step of a small model.
func BenchmarkLaunch(b *testing.B) {
	for _, tokens := range []int{1, 16} {
		d := open(b, Options{})
		ops := hotOps(b, d, tokens)
		for _, op := range gpu.Ops {
			args, ok := ops[op]
			if !ok {
				continue
			}
			b.Run(fmt.Sprintf("%s/T=%d", op, tokens), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if err := d.Launch(op, args); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
		for x := range d.table.All() {
			d.Free(x)
		}
		d.Close()
	}
}

func fillNormal(x []float32, spread float64) {
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range x {
		x[i] = float32(rng.NormFloat64() * spread)
	}
}

// BenchmarkSample draws one row from a large vocabulary.
func BenchmarkSample(b *testing.B) {
	const vocab = 128256
	settings := map[string]gpu.SampleParams{
		"greedy":      {},
		"temperature": {Temperature: 1, TopP: 1},
		"top-p":       {Temperature: 1, TopP: 0.9},
		"top-k":       {Temperature: 1, TopP: 1, TopK: 50},
		"min-p":       {Temperature: 1, TopP: 1, MinP: 0.05},
	}
	for _, shape := range []struct {
		name   string
		spread float64
	}{{"normal", 3}, {"flat", 0}} {
		for name, p := range settings {
			b.Run(shape.name+"/"+name, func(b *testing.B) {
				d := open(b, Options{Threads: 1})
				logits, err := d.Alloc(gpu.F32, 1, vocab)
				if err != nil {
					b.Fatal(err)
				}
				out, err := d.Alloc(gpu.I32, 1)
				if err != nil {
					b.Fatal(err)
				}
				fillNormal(d.Float32s(logits), shape.spread)
				args := &gpu.Sample{Logits: logits, Params: []gpu.SampleParams{p}, Out: out, LastToken: out}
				for b.Loop() {
					args.Params[0].Position++
					if err := d.Launch(gpu.OpSample, args); err != nil {
						b.Fatal(err)
					}
				}
				d.Free(logits)
				d.Free(out)
				d.Close()
			})
		}
	}
}

// BenchmarkAttention reports the rate of multiply-adds as GFLOP/s, and for decode also the KV bytes read, for 32 query
// and 8 KV heads of 128. Pools of several layers take turns, so that no cache holds the keys and values of a decode.
func BenchmarkAttention(b *testing.B) {
	const heads, kvHeads, dim, block = 32, 8, 128, 16
	const total = 96 << 20 // bytes of all layers
	for _, c := range []struct{ tokens, context int }{{1, 512}, {1, 8192}, {128, 128}, {512, 512}, {512, 8192}} {
		for _, kv := range []gpu.DType{gpu.F32, gpu.BF16, gpu.I8} {
			b.Run(fmt.Sprintf("T=%d/context=%d/%v", c.tokens, c.context, kv), func(b *testing.B) {
				d := open(b, Options{})
				defer closeAll(d)
				blocks := c.context / block
				out, q := benchAlloc(b, d, c.tokens, heads*dim), benchAlloc(b, d, c.tokens, heads*dim)
				ints := func(values []int32, dims ...int) gpu.Tensor {
					t, err := d.Alloc(gpu.I32, dims...)
					if err != nil {
						b.Fatal(err)
					}
					copy(d.Int32s(t), values)
					return t
				}
				table, positions, pairs := make([]int32, blocks), make([]int32, c.tokens), 0
				for i := range table {
					table[i] = int32(i)
				}
				for t := range positions {
					positions[t] = int32(c.context - c.tokens + t)
					pairs += c.context - c.tokens + t + 1
				}
				layer := gpu.Attention{Out: out, Q: q, Heads: heads, BlockTables: ints(table, 1, blocks), Slots: ints([]int32{0}, 1),
					QueryStart: ints([]int32{0, int32(c.tokens)}, 2), Positions: ints(positions, c.tokens), Scale: 0.1}
				var layers []gpu.Attention
				bytes := 0
				for size := 0; size < total; size += bytes {
					for _, pool := range []*gpu.Tensor{&layer.KPool, &layer.VPool} {
						var err error
						if *pool, err = d.Alloc(kv, blocks, kvHeads, block, dim); err != nil {
							b.Fatal(err)
						}
						for raw := d.bytes(*pool); len(raw) > 0; raw = raw[1:] {
							raw[0] = 1 // memory that was never written is not read either
						}
					}
					bytes = layer.KPool.Bytes() + layer.VPool.Bytes()
					layers = append(layers, layer)
				}
				var took samples
				for i := 0; b.Loop(); i++ {
					took = append(took, seconds(func() {
						if err := d.Launch(gpu.OpAttention, &layers[i%len(layers)]); err != nil {
							b.Fatal(err)
						}
					}))
				}
				b.ReportMetric(float64(4*pairs*heads*dim)/took.median()/1e9, "GFLOP/s")
				if c.tokens == 1 {
					b.ReportMetric(float64(bytes)/took.median()/1e9, "KV-GB/s")
				}
			})
		}
	}
}

type samples []float64

func (s samples) median() float64 {
	slices.Sort(s)
	return s[len(s)/2]
}

func seconds(f func()) float64 {
	start := time.Now()
	f()
	return time.Since(start).Seconds()
}

func benchAlloc(b *testing.B, d *Device, dims ...int) gpu.Tensor {
	b.Helper()
	t, err := d.Alloc(gpu.F32, dims...)
	if err != nil {
		b.Fatal(err)
	}
	for i := range d.Float32s(t) {
		d.Float32s(t)[i] = float32(i%7) - 3
	}
	return t
}

func closeAll(d *Device) {
	for t := range d.table.All() {
		d.Free(t)
	}
	d.Close()
}
