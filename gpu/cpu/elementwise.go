package cpu

import (
	"fmt"

	"github.com/troupe-engine/troupe/gpu"
)

// feedTokens executes gpu.FeedTokens.
func (d *Device) feedTokens(a *gpu.FeedTokens) error {
	out, tokens, slots, last := d.Int32s(a.Out), d.Int32s(a.Tokens), d.Int32s(a.Slots), d.Int32s(a.LastToken)
	mustLen(gpu.OpFeedTokens, "Tokens", a.Tokens, len(out))
	mustLen(gpu.OpFeedTokens, "Slots", a.Slots, len(out))
	for t, id := range tokens {
		if id < 0 {
			mustIndex(gpu.OpFeedTokens, "Slots", int(slots[t]), len(last))
			id = last[slots[t]]
		}
		out[t] = id
	}
	return nil
}

// embed executes gpu.Embed.
func (d *Device) embed(a *gpu.Embed) error {
	ids, out := d.Int32s(a.IDs), d.Float32s(a.Out)
	vocab, hidden := a.Table.Dims[0], a.Table.Dims[1]
	mustShape(gpu.OpEmbed, "Out", a.Out, len(ids), hidden)
	if a.Table.Packed {
		m := d.weight(a.Table)
		if !m.dtype.Quantized() {
			panic(fmt.Sprintf("cpu: embed: %v is packed, which only quantized tables may be", a.Table))
		}
		for t, id := range ids {
			mustIndex(gpu.OpEmbed, "IDs", int(id), vocab)
			m.row(out[t*hidden:][:hidden], int(id), a.Scale)
		}
		return nil
	}
	table := d.bytes(a.Table)
	size := a.Table.DType.Size()
	for t, id := range ids {
		mustIndex(gpu.OpEmbed, "IDs", int(id), vocab)
		widen(out[t*hidden:][:hidden], table[int(id)*hidden*size:][:hidden*size], a.Table.DType, a.Scale)
	}
	return nil
}

// widen: dst = src * scale, from any weight type.
func widen(dst []float32, src []byte, dtype gpu.DType, scale float32) {
	switch dtype {
	case gpu.F32:
		for i, v := range cast[float32](src) {
			dst[i] = v * scale
		}
	case gpu.BF16:
		for i, v := range cast[uint16](src) {
			dst[i] = bf16(v) * scale
		}
	case gpu.F16:
		for i, v := range cast[uint16](src) {
			dst[i] = f16(v) * scale
		}
	default:
		panic(fmt.Sprintf("cpu: embed: table of %v, want f32, f16 or bf16", dtype))
	}
}

// add executes gpu.Add.
func (d *Device) add(a *gpu.Add) error {
	out, x, y := d.Float32s(a.Out), d.Float32s(a.A), d.Float32s(a.B)
	mustLen(gpu.OpAdd, "A", a.A, len(out))
	mustLen(gpu.OpAdd, "B", a.B, len(out))
	for i := range out {
		out[i] = x[i] + y[i]
	}
	return nil
}

// gatherRows executes gpu.GatherRows.
func (d *Device) gatherRows(a *gpu.GatherRows) error {
	rows, out, x := d.Int32s(a.Rows), d.Float32s(a.Out), d.Float32s(a.X)
	cols := a.X.Dims[1]
	mustShape(gpu.OpGatherRows, "Out", a.Out, len(rows), cols)
	for r, row := range rows {
		mustIndex(gpu.OpGatherRows, "Rows", int(row), a.X.Dims[0])
		copy(out[r*cols:][:cols], x[int(row)*cols:][:cols])
	}
	return nil
}

// softCap executes gpu.SoftCap.
func (d *Device) softCap(a *gpu.SoftCap) error {
	p := &d.work.softCap
	*p = softCapTask{d.Float32s(a.X), a.Cap}
	d.share(p, (len(p.x)+softCapChunk-1)/softCapChunk, 5*float64(len(p.x)))
	*p = softCapTask{}
	return nil
}

// softCapChunk is the elements of one work item.
const softCapChunk = 1024

type softCapTask struct {
	x     []float32
	limit float32
}

func (p *softCapTask) run(_, from, to int) {
	softCapAll(p.x[from*softCapChunk:min(to*softCapChunk, len(p.x))], p.limit)
}

// softCapAll: x = limit * tanh(x / limit).
func softCapAll(x []float32, limit float32) {
	inverse := 1 / limit
	for i, v := range x {
		x[i] = limit * tanh32(v*inverse)
	}
}

// actMul executes gpu.ActMul.
func (d *Device) actMul(t *tier, a *gpu.ActMul) error {
	tokens, width := a.X.Dims[0], a.X.Dims[1]/2
	mustShape(gpu.OpActMul, "X", a.X, tokens, 2*width)
	mustShape(gpu.OpActMul, "Out", a.Out, tokens, width)
	d.activate(t, d.Float32s(a.Out), d.Float32s(a.X), tokens, width, a.Act)
	return nil
}

// activate: out[tokens, width] = act(gate) * up for rows [gate | up] of x[tokens, 2*width].
func (d *Device) activate(t *tier, out, x []float32, tokens, width int, act gpu.Activation) {
	if int(act) >= len(t.gates) {
		panic(fmt.Sprintf("cpu: unknown gate activation %d", act))
	}
	chunks := (width + gateChunk - 1) / gateChunk
	p := &d.work.actMul
	*p = actMulTask{out: out, x: x, width: width, chunks: chunks, gate: t.gates[act]}
	d.share(p, tokens*chunks, float64(tokens*width)/t.gatesPerNs)
	*p = actMulTask{}
}

// gateChunk is the elements of one work item: a multiple of 16.
const gateChunk = 512

type actMulTask struct {
	out, x        []float32
	width, chunks int
	gate          func(out, gate, up []float32)
}

func (p *actMulTask) run(_, from, to int) {
	for item := from; item < to; item++ {
		token, at := item/p.chunks, item%p.chunks*gateChunk
		n := min(gateChunk, p.width-at)
		out := p.out[token*p.width+at:][:n]
		gate := p.x[token*2*p.width+at:][:n]
		up := p.x[(token*2+1)*p.width+at:][:n]
		whole := n &^ 15
		if whole > 0 {
			p.gate(out[:whole], gate[:whole], up[:whole])
		}
		if whole < n {
			p.tail(out[whole:], gate[whole:], up[whole:])
		}
	}
}

// tail runs the same loop on a padded copy, so that the last elements get the same arithmetic.
func (p *actMulTask) tail(out, gate, up []float32) {
	var buffer [3][16]float32
	copy(buffer[1][:], gate)
	copy(buffer[2][:], up)
	p.gate(buffer[0][:], buffer[1][:], buffer[2][:])
	copy(out, buffer[0][:])
}
