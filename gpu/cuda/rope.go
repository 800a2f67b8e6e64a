package cuda

import (
	"fmt"

	"github.com/troupe-engine/troupe/gpu"
)

type ropeTableArgs struct {
	cos, sin, positions, invFreq uintptr
	n                            int64
	half                         int32
	scale                        float32
}

func (d *Device) ropeTable(a *gpu.RoPETable) error {
	half := a.InvFreq.Len()
	n := a.Positions.Len() * half
	mustLen(gpu.OpRoPETable, "Cos", a.Cos, n)
	mustLen(gpu.OpRoPETable, "Sin", a.Sin, n)
	return runEach(d, "rope_table", n, ropeTableArgs{d.f32(a.Cos), d.f32(a.Sin), d.i32(a.Positions), d.f32(a.InvFreq),
		int64(n), int32(half), a.Scale})
}

type ropeArgs struct {
	x, cos, sin                          uintptr
	n                                    int64
	stride, column, heads, headDim, half int32
	_                                    int32
	norm                                 headNormArgs
}

// headNormArgs is laid out as HeadNormArgs in rope.cuh.
type headNormArgs struct {
	query, key  uintptr // query: 0 without a norm
	queries     int32
	eps, offset float32
	_           int32
}

func (d *Device) rope(a *gpu.RoPE) error {
	args := d.ropeArgs(a)
	if a.Norm != nil {
		const warps = 4
		args.n = int64(a.X.Dims[0]) * int64(a.Heads)
		return run(d, d.functions["rope_norm"], grid{ceilDiv(int(args.n), warps), 1, 1}, 32*warps, 0, args)
	}
	return runEach(d, "rope", int(args.n), args)
}

// ropeArgs checks a and returns its arguments, n being the pairs to rotate.
func (d *Device) ropeArgs(a *gpu.RoPE) ropeArgs {
	tokens, stride, half := a.X.Dims[0], a.X.Dims[1], a.Cos.Dims[1]
	mustShape(gpu.OpRoPE, "X", a.X, tokens, stride)
	mustShape(gpu.OpRoPE, "Cos", a.Cos, tokens, half)
	mustShape(gpu.OpRoPE, "Sin", a.Sin, tokens, half)
	if 2*half > a.HeadDim || a.Column < 0 || a.Column+a.Heads*a.HeadDim > stride {
		panic(fmt.Sprintf("cuda: rope: %d heads of %d at column %d of %v, rotating %d", a.Heads, a.HeadDim, a.Column, a.X, 2*half))
	}
	var norm headNormArgs
	if n := a.Norm; n != nil {
		mustLen(gpu.OpRoPE, "Norm.Query", n.Query, a.HeadDim)
		mustLen(gpu.OpRoPE, "Norm.Key", n.Key, a.HeadDim)
		norm = headNormArgs{query: d.f32(n.Query), key: d.f32(n.Key), queries: int32(n.Queries), eps: n.Eps, offset: n.Offset}
	}
	return ropeArgs{norm: norm, x: d.act(a.X), cos: d.f32(a.Cos), sin: d.f32(a.Sin), n: int64(tokens) * int64(a.Heads) * int64(half),
		stride: int32(stride), column: int32(a.Column), heads: int32(a.Heads), headDim: int32(a.HeadDim), half: int32(half)}
}

type kvWriteArgs struct {
	kv, kPool, vPool, slots                                       uintptr
	n                                                             int64
	stride, kColumn, vColumn, heads, blockSize, dim, slotCount, _ int32
}

func (d *Device) kvWrite(a *gpu.KVWrite) error {
	if a.RoPE != nil {
		if both := d.ropeKVArgs(a); d.ownFirst(gpu.OpRoPE) && both.fits() {
			return runEach(d, "rope_kv", int(both.rope.n), both)
		}
		if err := d.launch(gpu.OpRoPE, a.RoPE); err != nil {
			return err
		}
	}
	args := d.kvWriteArgs(a)
	return runEach(d, "kv_write", int(args.n), args)
}

// kvWriteArgs checks a and returns its arguments, n being the elements of the keys.
func (d *Device) kvWriteArgs(a *gpu.KVWrite) kvWriteArgs {
	tokens, stride := a.SlotMapping.Len(), a.KV.Dims[1]
	blocks, heads, blockSize, dim := a.KPool.Dims[0], a.KPool.Dims[1], a.KPool.Dims[2], a.KPool.Dims[3]
	mustShape(gpu.OpKVWrite, "KV", a.KV, tokens, stride)
	mustShape(gpu.OpKVWrite, "VPool", a.VPool, blocks, heads, blockSize, dim)
	if a.KColumn < 0 || a.VColumn < 0 || max(a.KColumn, a.VColumn)+heads*dim > stride {
		panic(fmt.Sprintf("cuda: kv_write: %d heads of %d at columns %d and %d of %v", heads, dim, a.KColumn, a.VColumn, a.KV))
	}
	return kvWriteArgs{kv: d.act(a.KV), kPool: d.act(a.KPool), vPool: d.act(a.VPool), slots: d.i32(a.SlotMapping),
		n: int64(tokens) * int64(heads) * int64(dim), stride: int32(stride), kColumn: int32(a.KColumn), vColumn: int32(a.VColumn),
		heads: int32(heads), blockSize: int32(blockSize), dim: int32(dim), slotCount: int32(blocks * blockSize)}
}

// ropeKVArgs is RoPE and KVWrite in one, rope.n being the threads.
type ropeKVArgs struct {
	rope ropeArgs
	kv   kvWriteArgs
}

// ropeKVArgs checks a, whose RoPE is not nil, and returns its arguments.
func (d *Device) ropeKVArgs(a *gpu.KVWrite) ropeKVArgs {
	both := ropeKVArgs{rope: d.ropeArgs(a.RoPE), kv: d.kvWriteArgs(a)}
	perHead := int(both.rope.half) / padElements
	both.rope.n = int64(a.SlotMapping.Len()) * int64(a.RoPE.Heads*perHead+int(both.kv.heads)*2*perHead)
	return both
}

// fits reports whether the fused kernels can do it: whole heads are rotated, the keys are the last of them, and
// everything lies in units of 8 elements. Heads that are normalized are so many units that neighbouring threads have one.
func (a *ropeKVArgs) fits() bool {
	r, w := &a.rope, &a.kv
	const unit = padElements
	aligned := (r.x|r.cos|r.sin|w.kPool|w.vPool)%16 == 0 && r.stride%unit == 0 && r.column%unit == 0 && w.vColumn%unit == 0 && r.half%unit == 0
	if pairs := r.half / unit; r.norm.query != 0 && (pairs == 0 || pairs&(pairs-1) != 0 || pairs > 32 || (r.norm.query|r.norm.key)%16 != 0 || int(r.norm.queries) != int(r.heads-w.heads)) {
		return false
	}
	return aligned && r.x == w.kv && r.headDim == w.dim && 2*r.half == r.headDim &&
		w.kColumn >= r.column && (w.kColumn-r.column)%r.headDim == 0 && (w.kColumn-r.column)/r.headDim+w.heads == r.heads
}

func (d *Device) kvCopy(a *gpu.KVCopy) error {
	if len(a.Pairs)%2 != 0 {
		panic(fmt.Sprintf("cuda: kv_copy: Pairs has odd length %d", len(a.Pairs)))
	}
	for _, t := range a.Pools {
		pool, blocks := d.address(t), t.Dims[0]
		size := uintptr(t.Bytes() / max(1, blocks))
		for i := 0; i < len(a.Pairs); i += 2 {
			from, to := int(a.Pairs[i]), int(a.Pairs[i+1])
			mustIndex(gpu.OpKVCopy, "Pairs", from, blocks)
			mustIndex(gpu.OpKVCopy, "Pairs", to, blocks)
			status := call(d.driver.cuMemcpyDtoDAsync, pool+uintptr(to)*size, pool+uintptr(from)*size, size, d.stream)
			if err := d.check("cuMemcpyDtoDAsync", status); err != nil {
				return err
			}
		}
	}
	return nil
}
