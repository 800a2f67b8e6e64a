package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"time"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/cpu"
	"github.com/troupe-engine/troupe/internal/gguf"
)

// kernels measures matrix products of every type against the loops they cannot outrun.
func (b *cpuBench) kernels(ctx context.Context) error {
	ceilings, err := b.dev.Ceilings()
	if errors.Is(err, gpu.ErrNotSupported) {
		b.note("no kernels are measured: %v", err)
		return nil
	}
	if err != nil {
		return err
	}
	const n, k = 4096, 4096
	for _, name := range CPUTypes() {
		for _, tokens := range []int{1, 24, 512} {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := b.kernel(ceilings, name, tokens, n, k); err != nil {
				return err
			}
		}
	}
	return nil
}

// kernel measures one product and its ceiling in turn.
func (b *cpuBench) kernel(ceilings *cpu.Ceilings, name string, tokens, n, k int) (err error) {
	var live []gpu.Tensor
	defer func() {
		for _, t := range live {
			b.dev.Free(t)
		}
	}()
	keep := func(t gpu.Tensor, e error) gpu.Tensor {
		if e == nil {
			live = append(live, t)
		}
		err = errors.Join(err, e)
		return t
	}
	kind := cpuTypes[name].matrices
	data, err := drawRows(name, kind, n, k)
	if err != nil {
		return err
	}
	x, out := keep(b.dev.Alloc(gpu.F32, tokens, k)), keep(b.dev.Alloc(gpu.F32, tokens, n))
	if err != nil {
		return err
	}
	values := make([]byte, 0, 4*tokens*k)
	for i := range tokens * k {
		values = binary.LittleEndian.AppendUint32(values, math.Float32bits(float32(i%7)-3))
	}
	if err := b.dev.Upload(x, values); err != nil {
		return err
	}
	weightBytes := kind.Bytes(k) * n
	var products []gpu.MatMul
	for size := 0; size < cpuWeightBytes && err == nil; size += weightBytes {
		products = append(products, gpu.MatMul{Out: out, X: x, W: keep(b.dev.PackMatrix(name, cpuTypes[name].device, n, k, data))})
	}
	if err != nil {
		return err
	}
	r := CPUKernel{Type: name, Tokens: tokens, N: n, K: k, Unit: "GOP/s"}
	work := 2 * float64(tokens) * float64(n) * float64(k)
	if tokens == 1 {
		r.Unit, work = "GB/s", float64(weightBytes)
	}
	var rates, tops, shares []float64
	for i := range 1 + 8*b.cfg.Rounds {
		began := time.Now()
		if err := b.dev.Launch(gpu.OpMatMul, &products[i%len(products)]); err != nil {
			return err
		}
		rate := work / time.Since(began).Seconds() / 1e9
		began = time.Now()
		done := 0.0
		if tokens == 1 {
			done = float64(ceilings.Read(products[(i+len(products)/2)%len(products)].W))
		} else {
			done = ceilings.MultiplyAdd()
		}
		top := done / time.Since(began).Seconds() / 1e9
		if i > 0 { // the first warms up
			rates, tops, shares = append(rates, rate), append(tops, top), append(shares, rate/top)
		}
	}
	r.Rate, r.Ceiling, r.Share = median(rates), median(tops), median(shares)
	b.r.Kernels = append(b.r.Kernels, r)
	b.note("%s by %d: %.0f %s, %.2f of the ceiling", name, tokens, r.Rate, r.Unit, r.Share)
	return nil
}

// drawRows draws n rows of k as a type.
func drawRows(seed string, kind gguf.Type, n, k int) ([]byte, error) {
	out := make([]byte, n*kind.Bytes(k))
	return out, drawInto(out, seed, kind, k, 0)
}
