package cpu

import (
	"fmt"

	"github.com/troupe-engine/troupe/gpu"
)

// A Kernel executes one operation: args points to the operation's argument struct in package
// gpu. It runs on the device's executor and must be done when it returns.
type Kernel func(d *Device, args any) error

// Register adds an implementation of op, or replaces the one of that name; Select makes it the
// one that runs. Call it before launching work.
func (d *Device) Register(op gpu.Op, name, doc string, kernel Kernel) {
	if op == gpu.OpAttention {
		kernel = afterWrite(kernel)
	}
	d.ops.Register(op, name, doc, kernel)
}

// afterWrite is an attention whose keys and values are written by another kernel before.
func afterWrite(attention Kernel) Kernel {
	return func(d *Device, args any) error {
		if w := args.(*gpu.Attention).Write; w != nil {
			if err := d.Launch(gpu.OpKVWrite, w); err != nil {
				return err
			}
		}
		return attention(d, args)
	}
}

// Launch implements gpu.Device.
func (d *Device) Launch(op gpu.Op, args any) error {
	if d.closed.Load() {
		return errClosed
	}
	kernel, err := d.ops.Active(op)
	if err != nil {
		return err
	}
	return kernel(d, args)
}

// Implementations implements gpu.Device.
func (d *Device) Implementations(op gpu.Op) []gpu.Implementation { return d.ops.Implementations(op) }

// Select implements gpu.Device.
func (d *Device) Select(op gpu.Op, name string) error { return d.ops.Select(op, name) }

// registerAll registers every operation, and selects the implementations of the named tier.
func (d *Device) registerAll(tierName string) {
	simple(d, gpu.OpFeedTokens, (*Device).feedTokens)
	simple(d, gpu.OpEmbed, (*Device).embed)
	simple(d, gpu.OpRoPETable, (*Device).ropeTable)
	simple(d, gpu.OpKVCopy, (*Device).kvCopy)
	simple(d, gpu.OpAdd, (*Device).add)
	simple(d, gpu.OpGatherRows, (*Device).gatherRows)
	simple(d, gpu.OpSoftCap, (*Device).softCap)
	simple(d, gpu.OpMoERoute, (*Device).moeRoute)
	simple(d, gpu.OpEditLogits, (*Device).editLogits)
	simple(d, gpu.OpTopTokens, (*Device).topTokens)
	for _, t := range tiers() {
		tiered(d, gpu.OpRMSNorm, t, (*Device).rmsNorm)
		tiered(d, gpu.OpMatMul, t, (*Device).matMul)
		tiered(d, gpu.OpRoPE, t, (*Device).rope)
		tiered(d, gpu.OpKVWrite, t, (*Device).kvWrite)
		tiered(d, gpu.OpAttention, t, (*Device).attention)
		tiered(d, gpu.OpActMul, t, (*Device).actMul)
		tiered(d, gpu.OpMoEExperts, t, (*Device).moeExperts)
		tiered(d, gpu.OpSample, t, (*Device).sample)
		tiered(d, gpu.OpLogSoftmax, t, (*Device).logSoftmax)
	}
	for _, op := range gpu.Ops {
		if len(d.Implementations(op)) > 1 {
			if err := d.Select(op, tierName); err != nil {
				panic(err) // findTier returned a tier that tiers does not list
			}
		}
	}
}

// simple registers the only implementation of an op, in Go.
func simple[A any](d *Device, op gpu.Op, run func(*Device, *A) error) {
	d.Register(op, "go", "portable Go", func(d *Device, args any) error { return run(d, args.(*A)) })
}

// tiered registers the implementation of an op that uses a tier's inner loops.
func tiered[A any](d *Device, op gpu.Op, t *tier, run func(*Device, *tier, *A) error) {
	d.Register(op, t.name, t.doc, func(d *Device, args any) error { return run(d, t, args.(*A)) })
}

// mustShape panics unless t has the given dimensions (trailing ones are implied).
func mustShape(op gpu.Op, field string, t gpu.Tensor, dims ...int) {
	want := [gpu.RankMax]int{1, 1, 1, 1}
	copy(want[:], dims)
	if t.Dims != want {
		panic(fmt.Sprintf("cpu: %s: %s is %v, want %v", op, field, t, append([]int(nil), dims...)))
	}
}

// mustLen panics unless t has n elements.
func mustLen(op gpu.Op, field string, t gpu.Tensor, n int) {
	if t.Len() != n {
		panic(fmt.Sprintf("cpu: %s: %s is %v, want %d elements", op, field, t, n))
	}
}

// mustIndex panics unless 0 <= index < n.
func mustIndex(op gpu.Op, field string, index, n int) {
	if uint(index) >= uint(n) {
		panic(fmt.Sprintf("cpu: %s: %s is %d, outside 0..%d", op, field, index, n-1))
	}
}
