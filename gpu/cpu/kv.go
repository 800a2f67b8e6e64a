package cpu

import (
	"fmt"
	"math"

	"github.com/troupe-engine/troupe/gpu"
)

// ropeTable executes gpu.RoPETable. The angle is a float32 product, as in Hugging Face.
func (d *Device) ropeTable(a *gpu.RoPETable) error {
	positions, freq := d.Int32s(a.Positions), d.Float32s(a.InvFreq)
	mustLen(gpu.OpRoPETable, "Cos", a.Cos, len(positions)*len(freq))
	mustLen(gpu.OpRoPETable, "Sin", a.Sin, len(positions)*len(freq))
	p := &d.work.ropeTable
	*p = ropeTableTask{cos: d.Float32s(a.Cos), sin: d.Float32s(a.Sin), freq: freq, positions: positions, scale: a.Scale}
	d.share(p, len(positions), 20*float64(len(p.cos)))
	*p = ropeTableTask{}
	return nil
}

type ropeTableTask struct {
	cos, sin, freq []float32
	positions      []int32
	scale          float32
}

func (p *ropeTableTask) run(_, from, to int) {
	for t := from; t < to; t++ {
		cos, sin := p.cos[t*len(p.freq):], p.sin[t*len(p.freq):]
		for i, f := range p.freq {
			s, c := math.Sincos(float64(float32(p.positions[t]) * f))
			cos[i] = float32(c * float64(p.scale))
			sin[i] = float32(s * float64(p.scale))
		}
	}
}

// rope executes gpu.RoPE.
func (d *Device) rope(a *gpu.RoPE) error {
	tokens, stride, half := a.X.Dims[0], a.X.Dims[1], a.Cos.Dims[1]
	mustShape(gpu.OpRoPE, "X", a.X, tokens, stride)
	mustShape(gpu.OpRoPE, "Cos", a.Cos, tokens, half)
	mustShape(gpu.OpRoPE, "Sin", a.Sin, tokens, half)
	if 2*half > a.HeadDim || a.Column < 0 || a.Column+a.Heads*a.HeadDim > stride {
		panic(fmt.Sprintf("cpu: rope: %d heads of %d at column %d of %v, rotating %d",
			a.Heads, a.HeadDim, a.Column, a.X, 2*half))
	}
	p := &d.work.rope
	*p = ropeTask{x: d.Float32s(a.X), cos: d.Float32s(a.Cos), sin: d.Float32s(a.Sin),
		stride: stride, half: half, column: a.Column, heads: a.Heads, headDim: a.HeadDim}
	d.share(p, tokens, float64(tokens*a.Heads*half))
	*p = ropeTask{}
	return nil
}

type ropeTask struct {
	x, cos, sin                          []float32
	stride, half, column, heads, headDim int
}

func (p *ropeTask) run(_, from, to int) {
	for t := from; t < to; t++ {
		cos, sin := p.cos[t*p.half:][:p.half], p.sin[t*p.half:][:p.half]
		for h := range p.heads {
			head := p.x[t*p.stride+p.column+h*p.headDim:][:2*p.half]
			low, high := head[:len(cos)], head[len(cos):][:len(cos)]
			for i, c := range cos {
				u, v, s := low[i], high[i], sin[i]
				low[i] = u*c - v*s
				high[i] = v*c + u*s
			}
		}
	}
}

// kvWrite executes gpu.KVWrite.
func (d *Device) kvWrite(a *gpu.KVWrite) error {
	if a.RoPE != nil {
		if err := d.Launch(gpu.OpRoPE, a.RoPE); err != nil {
			return err
		}
	}
	slots := d.Int32s(a.SlotMapping)
	blocks, heads, blockSize, dim := a.KPool.Dims[0], a.KPool.Dims[1], a.KPool.Dims[2], a.KPool.Dims[3]
	stride := a.KV.Dims[1]
	mustShape(gpu.OpKVWrite, "KV", a.KV, len(slots), stride)
	mustShape(gpu.OpKVWrite, "VPool", a.VPool, blocks, heads, blockSize, dim)
	for _, slot := range slots { // here: a panic must come from the caller's goroutine
		if slot != -1 {
			mustIndex(gpu.OpKVWrite, "SlotMapping", int(slot), blocks*blockSize)
		}
	}
	p := &d.work.kvWrite
	*p = kvWriteTask{kv: d.Float32s(a.KV), kPool: d.Float32s(a.KPool), vPool: d.Float32s(a.VPool), slots: slots,
		stride: stride, kColumn: a.KColumn, vColumn: a.VColumn, heads: heads, blockSize: blockSize, dim: dim}
	// Places of different tokens are far apart: every copy waits for memory.
	const copyNs = 150
	d.share(p, len(slots), float64(len(slots)*heads*2*copyNs))
	*p = kvWriteTask{}
	return nil
}

type kvWriteTask struct {
	kv, kPool, vPool                                []float32
	slots                                           []int32
	stride, kColumn, vColumn, heads, blockSize, dim int
}

func (p *kvWriteTask) run(_, from, to int) {
	for t := from; t < to; t++ {
		slot := int(p.slots[t])
		if slot == -1 {
			continue
		}
		row := p.kv[t*p.stride:][:p.stride]
		block, offset := slot/p.blockSize, slot%p.blockSize
		for h := range p.heads {
			at := ((block*p.heads+h)*p.blockSize + offset) * p.dim
			copy(p.kPool[at:at+p.dim], row[p.kColumn+h*p.dim:][:p.dim])
			copy(p.vPool[at:at+p.dim], row[p.vColumn+h*p.dim:][:p.dim])
		}
	}
}

// kvCopy executes gpu.KVCopy.
func (d *Device) kvCopy(a *gpu.KVCopy) error {
	if len(a.Pairs)%2 != 0 {
		panic(fmt.Sprintf("cpu: kv_copy: Pairs has odd length %d", len(a.Pairs)))
	}
	for _, t := range a.Pools {
		pool, blocks := d.bytes(t), t.Dims[0]
		size := len(pool) / max(1, blocks)
		for i := 0; i < len(a.Pairs); i += 2 {
			from, to := int(a.Pairs[i]), int(a.Pairs[i+1])
			mustIndex(gpu.OpKVCopy, "Pairs", from, blocks)
			mustIndex(gpu.OpKVCopy, "Pairs", to, blocks)
			copy(pool[to*size:][:size], pool[from*size:][:size])
		}
	}
	return nil
}
