package cpu

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/troupe-engine/troupe/gpu"
)

// The benchmarks below run a kernel and its ceiling in turn, in the same process, and report
// medians, so that other load on the machine hits both:
//
//	go test -run xxx -bench 'MatVec|Gemm' ./gpu/cpu
//
// GB/s is weight bytes read; "of-ceiling" is the share of a loop that only reads them (MatVec)
// or only multiplies and adds (Gemm), on as many threads.

// ceilingTask reads memory, or runs multiply-adds, on every thread.
type ceilingTask struct {
	read   func(p *byte, n int)
	fma    func(n int)
	memory []byte
	chunk  int
}

func (c *ceilingTask) run(_, from, to int) {
	for i := from; i < to; i++ {
		if c.read != nil {
			c.read(&c.memory[i*c.chunk], c.chunk)
		} else {
			c.fma(c.chunk)
		}
	}
}

type benchTier struct {
	name  string
	read  func(p *byte, n int)
	fma   func(n int)
	lanes int
}

func benchTiers() []benchTier {
	var out []benchTier
	for _, t := range machineTiers() {
		switch t.name {
		case "avx2":
			out = append(out, benchTier{"avx2", readLoopAVX2, fmaLoopAVX2, 8})
		case "avx512":
			out = append(out, benchTier{"avx512", readLoopAVX512, fmaLoopAVX512, 16})
		}
	}
	return out
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

// weights packs count random matrices of one type, together larger than the last-level cache.
func benchWeights(b *testing.B, d *Device, dtype gpu.DType, n, k, count int) []gpu.Tensor {
	b.Helper()
	raw := make([]byte, n*k*dtype.Size())
	for i := range raw {
		raw[i] = byte(i * 37 >> 3 & 0x3f) // small finite numbers in every type
	}
	var out []gpu.Tensor
	for range count {
		w, err := d.PackMatrix("w", dtype, n, k, raw)
		if err != nil {
			b.Fatal(err)
		}
		out = append(out, w)
	}
	return out
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

func BenchmarkMatVec(b *testing.B) {
	const n, k, count = 4096, 4096, 4
	for _, tier := range benchTiers() {
		for _, dtype := range []gpu.DType{gpu.BF16, gpu.F16, gpu.F32} {
			b.Run(fmt.Sprintf("%s/%v", tier.name, dtype), func(b *testing.B) {
				d := open(b, Options{Tier: tier.name})
				defer closeAll(d)
				ws := benchWeights(b, d, dtype, n, k, count)
				x, out := benchAlloc(b, d, 1, k), benchAlloc(b, d, 1, n)
				bytes := n * k * dtype.Size()
				var kernel, ceiling, share samples
				for i := 0; b.Loop(); i++ {
					args := &gpu.MatMul{Out: out, X: x, W: ws[i%count]}
					tk := seconds(func() { d.Launch(gpu.OpMatMul, args) })
					const chunk = 1 << 18
					c := &ceilingTask{read: tier.read, memory: d.weight(ws[(i+2)%count]).data, chunk: chunk}
					tc := seconds(func() { d.pool.do(c, bytes/chunk, 1) })
					kernel = append(kernel, float64(bytes)/tk/1e9)
					ceiling = append(ceiling, float64(bytes)/tc/1e9)
					share = append(share, tc/tk)
				}
				b.ReportMetric(kernel.median(), "GB/s")
				b.ReportMetric(ceiling.median(), "ceiling-GB/s")
				b.ReportMetric(share.median(), "of-ceiling")
			})
		}
	}
}

func BenchmarkGemm(b *testing.B) {
	const n, k = 2048, 2048
	for _, tier := range benchTiers() {
		for _, dtype := range []gpu.DType{gpu.BF16, gpu.F16, gpu.F32} {
			for _, tokens := range []int{2, 4, 8, 12, 24, 96, 512} {
				if tokens < 24 && dtype != gpu.BF16 {
					continue
				}
				b.Run(fmt.Sprintf("%s/%v/M=%d", tier.name, dtype, tokens), func(b *testing.B) {
					d := open(b, Options{Tier: tier.name})
					defer closeAll(d)
					args := &gpu.MatMul{Out: benchAlloc(b, d, tokens, n), X: benchAlloc(b, d, tokens, k),
						W: benchWeights(b, d, dtype, n, k, 1)[0]}
					flops := 2 * float64(tokens) * n * k
					const rounds, items = 20000, 32
					fmaFlops := 2 * 12 * float64(tier.lanes) * rounds * items
					c := &ceilingTask{fma: tier.fma, chunk: rounds}
					var kernel, ceiling, share samples
					for b.Loop() {
						tk := seconds(func() { d.Launch(gpu.OpMatMul, args) })
						tc := seconds(func() { d.pool.do(c, items, 1) })
						kernel = append(kernel, flops/tk/1e9)
						ceiling = append(ceiling, fmaFlops/tc/1e9)
						share = append(share, flops/tk/(fmaFlops/tc))
					}
					b.ReportMetric(kernel.median(), "GFLOP/s")
					b.ReportMetric(ceiling.median(), "ceiling-GFLOP/s")
					b.ReportMetric(share.median(), "of-ceiling")
				})
			}
		}
	}
}
