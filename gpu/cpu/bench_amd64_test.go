package cpu

import (
	"fmt"
	"testing"

	"github.com/troupe-engine/troupe/gpu"
)

// The benchmarks below run a kernel and its ceiling in turn, in the same process, and report
// medians, so that other load on the machine hits both:
//
//	go test -run xxx -bench 'MatVec|Gemm' ./gpu/cpu
//
// GB/s is weight bytes read; "of-ceiling" is the share of a loop that only reads them (MatVec)
// or only multiplies and adds (Gemm), on as many threads.

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

func benchCeilings(b *testing.B, d *Device) *Ceilings {
	b.Helper()
	c, err := d.Ceilings()
	if err != nil {
		b.Fatal(err)
	}
	return c
}

func BenchmarkMatVec(b *testing.B) {
	const n, k, count = 4096, 4096, 4
	for _, tier := range machineTiers() {
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
					var read int
					tc := seconds(func() { read = benchCeilings(b, d).Read(ws[(i+2)%count]) })
					tc *= float64(bytes) / float64(read)
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
	for _, tier := range machineTiers() {
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
					var fmaFlops float64
					var kernel, ceiling, share samples
					for b.Loop() {
						tk := seconds(func() { d.Launch(gpu.OpMatMul, args) })
						tc := seconds(func() { fmaFlops = benchCeilings(b, d).MultiplyAdd() })
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
