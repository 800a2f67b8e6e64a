package cpu

import (
	"encoding/binary"
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
func (d *Device) rope(t *tier, a *gpu.RoPE) error {
	p := &d.work.rope
	*p = d.ropeTask(t, a)
	d.share(p, a.X.Dims[0], p.ns(a.X.Dims[0]))
	*p = ropeTask{}
	return nil
}

func (d *Device) ropeTask(t *tier, a *gpu.RoPE) ropeTask {
	tokens, stride, half := a.X.Dims[0], a.X.Dims[1], a.Cos.Dims[1]
	mustShape(gpu.OpRoPE, "X", a.X, tokens, stride)
	mustShape(gpu.OpRoPE, "Cos", a.Cos, tokens, half)
	mustShape(gpu.OpRoPE, "Sin", a.Sin, tokens, half)
	if 2*half > a.HeadDim || a.Column < 0 || a.Column+a.Heads*a.HeadDim > stride {
		panic(fmt.Sprintf("cpu: rope: %d heads of %d at column %d of %v, rotating %d",
			a.Heads, a.HeadDim, a.Column, a.X, 2*half))
	}
	p := ropeTask{tier: t, x: d.Float32s(a.X), cos: d.Float32s(a.Cos), sin: d.Float32s(a.Sin),
		stride: stride, half: half, column: a.Column, heads: a.Heads, headDim: a.HeadDim}
	if n := a.Norm; n != nil {
		mustLen(gpu.OpRoPE, "Norm.Query", n.Query, a.HeadDim)
		mustLen(gpu.OpRoPE, "Norm.Key", n.Key, a.HeadDim)
		p.norm = headNorm{query: d.Float32s(n.Query), key: d.Float32s(n.Key), queries: n.Queries, eps: n.Eps, offset: n.Offset}
	}
	return p
}

// headNorm is gpu.HeadNorm; without weights it does nothing.
type headNorm struct {
	query, key  []float32
	queries     int
	eps, offset float32
}

func (n *headNorm) run(t *tier, heads []float32, dim int) {
	for h := range len(heads) / dim {
		weight := n.key
		if h < n.queries {
			weight = n.query
		}
		normRow(t, heads[h*dim:][:dim], heads[h*dim:][:dim], weight, n.eps, n.offset)
	}
}

type ropeTask struct {
	tier                                 *tier
	x, cos, sin                          []float32
	stride, half, column, heads, headDim int
	norm                                 headNorm
}

// ns estimates the work of some tokens.
func (p *ropeTask) ns(tokens int) float64 {
	return 4 * float64(tokens*p.heads*(p.half+len(p.norm.query)/2)) / p.tier.macsPerNs
}

func (p *ropeTask) run(_, from, to int) {
	if p.heads == 0 || p.half == 0 && p.norm.query == nil {
		return
	}
	for t := from; t < to; t++ {
		heads := p.x[t*p.stride+p.column:][:p.heads*p.headDim]
		if p.norm.query != nil {
			p.norm.run(p.tier, heads, p.headDim)
		}
		p.tier.rotate(heads, p.cos[t*p.half:][:p.half], p.sin[t*p.half:][:p.half], p.headDim)
	}
}

// kvWrite executes gpu.KVWrite, a work item being a token.
func (d *Device) kvWrite(t *tier, a *gpu.KVWrite) error {
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
	*p = kvWriteTask{tier: t, kv: d.Float32s(a.KV), kPool: d.bytes(a.KPool), vPool: d.bytes(a.VPool), format: kvFormatOf(gpu.OpKVWrite, a.KPool, a.VPool),
		row: a.KPool.DType.RowBytes(dim), slots: slots, stride: stride, kColumn: a.KColumn, vColumn: a.VColumn, heads: heads, blockSize: blockSize, dim: dim}
	// Places of different tokens are far apart: every copy waits for memory.
	const copyNs = 100
	ns := float64(len(slots) * heads * 2 * copyNs)
	if a.RoPE != nil {
		mustLen(gpu.OpKVWrite, "RoPE.X", a.RoPE.X, a.KV.Len())
		p.rope = d.ropeTask(t, a.RoPE)
		ns += p.rope.ns(len(slots))
	}
	d.share(p, len(slots), ns)
	*p = kvWriteTask{}
	return nil
}

type kvWriteTask struct {
	tier                                            *tier
	rope                                            ropeTask // of no heads if there is nothing to rotate
	kv                                              []float32
	kPool, vPool                                    []byte
	format                                          kvFormat
	row                                             int // bytes of a key in the pools
	slots                                           []int32
	stride, kColumn, vColumn, heads, blockSize, dim int
}

func (p *kvWriteTask) run(worker, from, to int) {
	p.rope.run(worker, from, to)
	for t := from; t < to; t++ {
		slot := int(p.slots[t])
		if slot == -1 {
			continue
		}
		kv := p.kv[t*p.stride:][:p.stride]
		block, offset := slot/p.blockSize, slot%p.blockSize
		for h := range p.heads {
			at := ((block*p.heads+h)*p.blockSize + offset) * p.row
			p.store(p.kPool[at:][:p.row], kv[p.kColumn+h*p.dim:][:p.dim])
			p.store(p.vPool[at:][:p.row], kv[p.vColumn+h*p.dim:][:p.dim])
			if next := at + p.row; offset+1 < p.blockSize {
				// Where the sequence's next token goes; by then it will be in cache.
				p.tier.prefetch(p.kPool[next:][:p.row])
				p.tier.prefetch(p.vPool[next:][:p.row])
			}
		}
	}
}

func (p *kvWriteTask) store(to []byte, from []float32) {
	switch p.format {
	case kvF32:
		copy(cast[float32](to), from)
	case kvBF16:
		p.tier.narrow(cast[uint16](to), from)
	case kvI8:
		storeCodes(p.tier, to, from)
	}
}

// storeCodes rounds a key or value to a row of gpu.I8. One whose elements are all tiny becomes zero; one that holds
// what is not finite has a scale that is not a number, so that it stays visible.
func storeCodes(t *tier, row []byte, x []float32) {
	codes := row[:len(x)]
	largest := t.codes(codes, x)
	scale := largest / 127
	switch {
	case largest < tinyActivation:
		clear(codes)
		scale = 0
	case !(largest <= math.MaxFloat32):
		scale = float32(math.NaN())
	}
	binary.LittleEndian.PutUint32(row[len(x):], math.Float32bits(scale))
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
