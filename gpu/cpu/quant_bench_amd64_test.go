package cpu

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/troupe-engine/troupe/gpu"
)

// BenchmarkQuantMatVec is BenchmarkMatVec for quantized weights: GB/s are bytes of packed weights.
func BenchmarkQuantMatVec(b *testing.B) {
	const n, k = 4096, 4096
	for _, tier := range machineTiers() {
		for _, dtype := range []gpu.DType{gpu.Q8_0, gpu.Q4_0, gpu.Q4_1, gpu.Q4_K, gpu.Q6_K} {
			b.Run(fmt.Sprintf("%s/%v", tier.name, dtype), func(b *testing.B) {
				d := open(b, Options{Tier: tier.name})
				defer closeAll(d)
				ws := coldWeights(b, d, dtype, n, k)
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

// coldWeights returns matrices that no cache holds together, three times as large as a large last-level one.
func coldWeights(b *testing.B, d *Device, dtype gpu.DType, n, k int) (ws []gpu.Tensor) {
	b.Helper()
	const total = 96 << 20 // bytes
	blocks := make([]byte, 2*n*k)
	if dtype.Quantized() {
		blocks = randomBlocks(rand.New(rand.NewPCG(1, 2)), dtype, n, k)
	}
	for size := 0; size < total; size += len(d.weight(ws[0]).data) {
		w, err := d.PackMatrix("w", dtype, n, k, blocks)
		if err != nil {
			b.Fatal(err)
		}
		ws = append(ws, w)
	}
	return ws
}

// BenchmarkBatchedDecode is a product of some tokens with weights that come from memory, and, as in-cache-µs, the same
// again at once. Both are first deciles.
func BenchmarkBatchedDecode(b *testing.B) {
	const n, k = 4096, 1536
	for _, tier := range machineTiers() {
		for _, dtype := range []gpu.DType{gpu.BF16, gpu.Q8_0, gpu.Q4_0, gpu.Q4_1, gpu.Q4_K, gpu.Q6_K} {
			for _, tokens := range []int{2, 4, 8, 16, 32} {
				b.Run(fmt.Sprintf("%s/%v/M=%d", tier.name, dtype, tokens), func(b *testing.B) {
					d := open(b, Options{Tier: tier.name})
					defer closeAll(d)
					ws := coldWeights(b, d, dtype, n, k)
					x, out := benchAlloc(b, d, tokens, k), benchAlloc(b, d, tokens, n)
					var cold, cached samples
					for i := 0; b.Loop(); i++ {
						args := &gpu.MatMul{Out: out, X: x, W: ws[i%len(ws)]}
						multiply := func() { d.Launch(gpu.OpMatMul, args) }
						cold, cached = append(cold, seconds(multiply)), append(cached, seconds(multiply))
					}
					slices.Sort(cold)
					slices.Sort(cached)
					b.ReportMetric(cold[len(cold)/10]*1e6, "µs")
					b.ReportMetric(cached[len(cached)/10]*1e6, "in-cache-µs")
				})
			}
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
