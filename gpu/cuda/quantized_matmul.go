package cuda

import (
	"fmt"

	"github.com/troupe-engine/troupe/gpu"
)

// quantArgs is laid out as QuantArgs in quantized.cu.
type quantArgs struct {
	out, x, codes, meta, rowScale, bias  uintptr
	stride                               int64
	tokens, n, k, accumulate, mode, half int32
	early, _                             int32
}

// prepareQuantized lets the kernels have the shared memory that they need.
func (d *Device) prepareQuantized() error {
	if d.compute != gpu.BF16 {
		return nil
	}
	for _, f := range quantFormats {
		teams, _ := d.cut(f)
		for _, tokens := range quantTiles {
			for _, gated := range []bool{false, true} {
				if err := d.allowShared(quantName(f.kernels, tokens, gated), f.sharedBytes(tokens, teams)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// meta and row scales of a quantized matrix at address: one of them is 0.
func (l *quantLayout) shares(address uintptr) (meta, rowScales uintptr) {
	if l.format.shared == rowScale {
		return 0, address + uintptr(l.meta)
	}
	return address + uintptr(l.meta), 0
}

// quantized multiplies quantized weights on the tensor cores, reading them once for every 16 tokens, with the gate in
// the same kernel.
func (d *Device) quantized(a *gpu.MatMul) error {
	m, p := d.product(a)
	l := m.quant
	tile := quantTiles[len(quantTiles)-1]
	if int(p.tokens) <= quantTiles[0] {
		tile = quantTiles[0]
	}
	args := quantArgs{out: p.out, x: p.x, codes: p.w, bias: p.bias, stride: int64(l.stride), tokens: p.tokens, n: p.n, k: p.k, accumulate: p.accumulate}
	args.meta, args.rowScale = l.shares(p.w)
	if p.outF32 == 1 {
		args.mode = storeF32
	}
	if err := d.norm(a); err != nil {
		return err
	}
	if args.x%16 != 0 {
		return fmt.Errorf("%w: matmul: activations at %#x, want a multiple of 16 for %v", gpu.ErrNotSupported, args.x, m.dtype)
	}
	f := l.format
	if f.early && (a.Gate != nil || a.Accumulate) { // in a model, a product follows, if need be behind its norm
		args.early = 1
	}
	units, gated := ceilDiv(m.n, quantRows), false
	if g := a.Gate; g != nil {
		mustShape(gpu.OpActMul, "Out", g.Out, a.X.Dims[0], m.n/2)
		if gated = m.n%(2*quantRows) == 0 && !a.Accumulate; gated {
			args.mode = gateModes[g.Act]
			args.out, args.half, units = d.act(g.Out), int32(m.n/2), units/2
		}
	}
	teams, perSM := d.cut(f)
	blocks := grid{min(ceilDiv(units, teams), perSM*d.properties.multiprocessors), ceilDiv(int(p.tokens), tile), 1}
	err := run(d, d.functions[quantName(f.kernels, tile, gated)], blocks, 32*quantWarps*teams, f.sharedBytes(tile, teams), args)
	if err != nil || a.Gate == nil || gated {
		return err
	}
	return d.launch(gpu.OpActMul, a.Gate)
}

// embedQuantArgs is EmbedQuantArgs in dequantize.cuh.
type embedQuantArgs struct {
	out, codes, meta, rowScale, ids uintptr
	stride, units                   int64
	vocab, k, pieces                int32
	scale                           float32
}

// embedQuantized gathers rows of a packed table.
func (d *Device) embedQuantized(a *gpu.Embed) error {
	b := d.weight(a.Table)
	l := b.weight.quant
	if l == nil {
		panic(fmt.Sprintf("cuda: embed: %v is packed and not quantized", a.Table))
	}
	mustShape(gpu.OpEmbed, "Out", a.Out, a.IDs.Len(), l.k)
	units := a.Out.Len() / padElements
	args := embedQuantArgs{out: d.act(a.Out), codes: b.block.address, ids: d.i32(a.IDs), stride: int64(l.stride), units: int64(units),
		vocab: int32(l.n), k: int32(l.k), pieces: int32(l.pieces), scale: a.Scale}
	args.meta, args.rowScale = l.shares(b.block.address)
	return runEach(d, "embed_"+l.format.kernels, units, args)
}
