package cpu

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/troupe-engine/troupe/gpu"
)

// BenchmarkQuantMatVec is BenchmarkMatVec for quantized weights: GB/s are bytes of packed weights.
func BenchmarkQuantMatVec(b *testing.B) {
	const n, k = 4096, 4096
	const total = 96 << 20 // bytes of all matrices: three times a large last-level cache
	for _, tier := range machineTiers() {
		for _, dtype := range []gpu.DType{gpu.Q8_0, gpu.Q4_0, gpu.Q4_1, gpu.Q4_K, gpu.Q6_K} {
			b.Run(fmt.Sprintf("%s/%v", tier.name, dtype), func(b *testing.B) {
				d := open(b, Options{Tier: tier.name})
				defer closeAll(d)
				var ws []gpu.Tensor
				for size := 0; size < total; size += len(d.weight(ws[0]).data) {
					w, err := d.PackMatrix("w", dtype, n, k, randomBlocks(rand.New(rand.NewPCG(1, 2)), dtype, n, k))
					if err != nil {
						b.Fatal(err)
					}
					ws = append(ws, w)
				}
				x, out := benchAlloc(b, d, 1, k), benchAlloc(b, d, 1, n)
				bytes := len(d.weight(ws[0]).data)
				var kernel, ceiling, share samples
				for i := 0; b.Loop(); i++ {
					args := &gpu.MatMul{Out: out, X: x, W: ws[i%len(ws)]}
					tk := seconds(func() { d.Launch(gpu.OpMatMul, args) })
					var read int
					tc := seconds(func() { read = benchCeilings(b, d).Read(ws[(i+len(ws)/2)%len(ws)]) })
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

// BenchmarkQuantGemm reports multiplications and additions of weights by activations.
func BenchmarkQuantGemm(b *testing.B) {
	const n, k = 2048, 2048
	for _, tier := range machineTiers() {
		for _, dtype := range []gpu.DType{gpu.Q8_0, gpu.Q4_0, gpu.Q4_1, gpu.Q4_K, gpu.Q6_K} {
			for _, tokens := range []int{2, 4, 8, 12, 96, 512} {
				b.Run(fmt.Sprintf("%s/%v/M=%d", tier.name, dtype, tokens), func(b *testing.B) {
					d := open(b, Options{Tier: tier.name})
					defer closeAll(d)
					w, err := d.PackMatrix("w", dtype, n, k, randomBlocks(rand.New(rand.NewPCG(1, 2)), dtype, n, k))
					if err != nil {
						b.Fatal(err)
					}
					args := &gpu.MatMul{Out: benchAlloc(b, d, tokens, n), X: benchAlloc(b, d, tokens, k), W: w}
					var rate samples
					for b.Loop() {
						t := seconds(func() { d.Launch(gpu.OpMatMul, args) })
						rate = append(rate, 2*float64(tokens)*n*k/t/1e9)
					}
					b.ReportMetric(rate.median(), "GOP/s")
				})
			}
		}
	}
}
