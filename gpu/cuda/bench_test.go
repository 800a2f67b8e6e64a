package cuda

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/troupe-engine/troupe/gpu"
)

// TestTimings prints what operations take at the shapes of an 8B model, beside the copy
// bandwidth of the same run. TROUPE_CUDA_TIMINGS=1 asks for it: it is a measurement, and its
// only check is that everything ran.
func TestTimings(t *testing.T) {
	if os.Getenv("TROUPE_CUDA_TIMINGS") != "1" {
		t.Skip("TROUPE_CUDA_TIMINGS=1 measures")
	}
	needDevice(t)
	d := open(t, Options{})
	defer mustClose(t, d)
	b := &timings{T: t, d: d, rng: rand.New(rand.NewPCG(1, 2))}
	b.note("%s", d.Info().Description)
	copyRate := b.copyRate()
	b.note("copy ceiling %.0f GB/s (bytes read + bytes written)", copyRate)
	for _, shape := range [][2]int{{4096, 4096}, {28672, 4096}, {4096, 14336}, {128256, 4096}} {
		b.matMul(shape[0], shape[1], copyRate)
	}
	b.attention(1, 512, copyRate)
	b.attention(1, 8192, copyRate)
	b.attention(32, 512, copyRate)
	b.attention(512, 0, copyRate)
	b.rest(copyRate)
	b.free()
	t.Log("\n" + b.lines.String())
}

type timings struct {
	*testing.T
	d     *Device
	rng   *rand.Rand
	live  []gpu.Tensor
	lines strings.Builder
}

func (b *timings) note(format string, args ...any) { fmt.Fprintf(&b.lines, format+"\n", args...) }

func (b *timings) free() {
	for _, t := range b.live {
		b.d.Free(t)
	}
	b.live = nil
}

// tensor returns F32 memory with random contents.
func (b *timings) tensor(dims ...int) gpu.Tensor {
	t, err := b.d.Alloc(gpu.F32, dims...)
	if err != nil {
		b.Fatal(err)
	}
	b.live = append(b.live, t)
	if err := b.d.Upload(t, b.random(t.Len())); err != nil {
		b.Fatal(err)
	}
	return t
}

// random is n float32 values; a block of them repeats, as drawing gigabytes takes longer than
// measuring.
func (b *timings) random(n int) []byte {
	const distinct = 1 << 16
	out := make([]byte, 4*n)
	for i := range min(n, distinct) {
		binary.LittleEndian.PutUint32(out[4*i:], math.Float32bits(float32(b.rng.NormFloat64())))
	}
	for at := 4 * distinct; at < len(out); at *= 2 {
		copy(out[at:], out[:at])
	}
	return out
}

func (b *timings) ints(values ...int32) gpu.Tensor {
	t, err := b.d.Alloc(gpu.I32, len(values))
	if err != nil {
		b.Fatal(err)
	}
	b.live = append(b.live, t)
	if err := b.d.Upload(t, unsafe.Slice((*byte)(unsafe.Pointer(&values[0])), 4*len(values))); err != nil {
		b.Fatal(err)
	}
	return t
}

// weights packs enough equal matrices to exceed the second-level cache.
func (b *timings) weights(n, k int) []gpu.Tensor {
	part := b.random(n * k / 2) // the upper halves of floats are fair bfloat16; the lower ones become so
	for i := 1; i < len(part); i += 4 {
		part[i] = part[i+2]
	}
	var list []gpu.Tensor
	for bytes := 0; bytes < 400<<20; bytes += len(part) {
		t, err := b.d.PackMatrix("w", gpu.BF16, n, k, part)
		if err != nil {
			b.Fatal(err)
		}
		b.live = append(b.live, t)
		list = append(list, t)
	}
	return list
}

// median returns the microseconds of one of calls launches, the median of several rounds.
func (b *timings) median(calls int, launch func(i int) error) float64 {
	const rounds = 5
	if err := b.d.enter(); err != nil {
		b.Fatal(err)
	}
	defer b.d.leave()
	drv := b.d.driver
	var events [2]uintptr
	for i := range events {
		if err := b.d.check("cuEventCreate", call(drv.cuEventCreate, uintptr(unsafe.Pointer(&events[i])), 0)); err != nil {
			b.Fatal(err)
		}
		defer call(drv.cuEventDestroy, events[i])
	}
	var times []float64
	for round := range rounds + 1 {
		call(drv.cuEventRecord, events[0], b.d.stream)
		for i := range calls {
			if err := launch(i); err != nil {
				b.Fatal(err)
			}
		}
		call(drv.cuEventRecord, events[1], b.d.stream)
		if err := b.d.wait(); err != nil {
			b.Fatal(err)
		}
		var ms float32
		if err := b.d.check("cuEventElapsedTime", call(drv.cuEventElapsedTime, uintptr(unsafe.Pointer(&ms)), events[0], events[1])); err != nil {
			b.Fatal(err)
		}
		if round > 0 { // the first warms up
			times = append(times, float64(ms)*1e3/float64(calls))
		}
	}
	slices.Sort(times)
	return times[rounds/2]
}

func (b *timings) copyRate() float64 {
	const bytes = 2 << 30
	from, to := b.tensor(bytes/4), b.tensor(bytes/4)
	us := b.median(5, func(int) error {
		return b.d.check("cuMemcpyDtoDAsync", call(b.d.driver.cuMemcpyDtoDAsync, b.d.address(to), b.d.address(from), bytes, b.d.stream))
	})
	b.free()
	return 2 * bytes / us / 1e3
}

// matMul times bfloat16 weights [n, k] with several numbers of tokens.
func (b *timings) matMul(n, k int, copyRate float64) {
	weights := b.weights(n, k)
	for _, tokens := range []int{1, 2, 4, 8, 16, 32, 128, 512} {
		if n > 1e5 && tokens > 32 {
			break
		}
		x, out := b.tensor(tokens, k), b.tensor(tokens, n)
		us := b.median(max(len(weights), 32/tokens), func(i int) error {
			return b.d.Launch(gpu.OpMatMul, &gpu.MatMul{Out: out, X: x, W: weights[i%len(weights)]})
		})
		rate := float64(2*n*k) / us / 1e3
		b.note("matmul bf16 [%6d, %5d] T=%-3d %9.1f us  %6.0f GB/s of weights (%3.0f%% of copy)  %5.1f TFLOP/s",
			n, k, tokens, us, rate, 100*rate/copyRate, 2*float64(tokens)*float64(n)*float64(k)/us/1e6)
	}
	b.free()
}

// attention times 32 query heads over 8 KV heads of 128: decode of sequences with the given
// context, or one prefill of that many tokens if context is 0.
func (b *timings) attention(tokens, context int, copyRate float64) {
	const heads, kvHeads, dim, block = 32, 8, 128, 16
	sequences, length := tokens, context
	if context == 0 {
		sequences, length = 1, tokens
	}
	width := length / block
	k, v := b.tensor(sequences*width, kvHeads, block, dim), b.tensor(sequences*width, kvHeads, block, dim)
	q, out := b.tensor(tokens, heads*dim), b.tensor(tokens, heads*dim)
	table, slots, starts, positions := make([]int32, sequences*width), make([]int32, sequences), []int32{0}, make([]int32, tokens)
	for i := range table {
		table[i] = int32(i)
	}
	for s := range slots {
		slots[s] = int32(s)
		starts = append(starts, int32((s+1)*tokens/sequences))
	}
	for t := range positions {
		positions[t] = int32(length - 1)
		if context == 0 {
			positions[t] = int32(t)
		}
	}
	args := &gpu.Attention{Out: out, Q: q, Heads: heads, KPool: k, VPool: v, BlockTables: b.ints(table...).Reshape(sequences, width),
		Slots: b.ints(slots...), QueryStart: b.ints(starts...), Positions: b.ints(positions...), Scale: 0.088}
	us := b.median(20, func(int) error { return b.d.Launch(gpu.OpAttention, args) })
	bytes := float64(k.Bytes() + v.Bytes())
	b.note("attention %d tokens, context %d (f32 KV): %9.1f us  %6.0f GB/s of KV (%3.0f%% of copy)", tokens, length, us, bytes/us/1e3, 100*bytes/us/1e3/copyRate)
	b.free()
}

// rest times what stands between the matrices, for one token and for 64.
func (b *timings) rest(copyRate float64) {
	const hidden, vocab = 4096, 128256
	for _, tokens := range []int{1, 64} {
		x, weight, wide := b.tensor(tokens, hidden), b.tensor(hidden), b.tensor(tokens, 28672)
		gated, logits := b.tensor(tokens, 14336), b.tensor(tokens, vocab)
		ids, last := b.ints(make([]int32, tokens)...), b.ints(make([]int32, tokens)...)
		greedy, random, cut := make([]gpu.SampleParams, tokens), make([]gpu.SampleParams, tokens), make([]gpu.SampleParams, tokens)
		for i := range greedy {
			greedy[i] = gpu.SampleParams{TopP: 1, Slot: int32(i)}
			random[i] = gpu.SampleParams{Temperature: 1, TopP: 1, Slot: int32(i)}
			cut[i] = gpu.SampleParams{Temperature: 1, TopP: 0.9, TopK: 50, Slot: int32(i)}
		}
		for _, c := range []struct {
			name string
			op   gpu.Op
			args any
		}{
			{"rmsnorm", gpu.OpRMSNorm, &gpu.RMSNorm{Out: x, X: x, Weight: weight, Eps: 1e-5}},
			{"act_mul", gpu.OpActMul, &gpu.ActMul{Out: gated, X: wide}},
			{"sample greedy", gpu.OpSample, &gpu.Sample{Logits: logits, Params: greedy, Out: ids, LastToken: last}},
			{"sample temperature", gpu.OpSample, &gpu.Sample{Logits: logits, Params: random, Out: ids, LastToken: last}},
			{"sample top-k top-p", gpu.OpSample, &gpu.Sample{Logits: logits, Params: cut, Out: ids, LastToken: last}},
		} {
			us := b.median(50, func(int) error { return b.d.Launch(c.op, c.args) })
			b.note("%-20s T=%-3d %9.1f us", c.name, tokens, us)
		}
		b.free()
	}
}
