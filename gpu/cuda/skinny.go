package cuda

import (
	"fmt"

	"github.com/troupe-engine/troupe/gpu"
)

// skinnyArgs is laid out as SkinnyArgs in skinny.cu.
type skinnyArgs struct {
	out, x, w, bias                uintptr
	stride                         int64
	tokens, n, k, accumulate, mode int32
	_                              int32
}

// What a product of few tokens does with its sums, as common.cuh numbers it.
const (
	storeAct int32 = iota
	storeF32
	gateSiLU
	gateGELUTanh
)

var gateModes = map[gpu.Activation]int32{gpu.SiLU: gateSiLU, gpu.GELUTanh: gateGELUTanh}

// Sizes shared with skinny.cu.
const (
	skinnyRows       = 16 // of W, in a tile
	skinnyWarps      = 8  // of a block
	skinnyStages     = 2
	skinnyPieceBytes = 4096
	skinnyBlocksPer  = 2 // of a multiprocessor
)

// skinnyTiles are the compiled kernels: the tokens of a tile.
var skinnyTiles = []int{8, 16, 32}

func skinnyName(tokens int) string { return fmt.Sprintf("skinny_%d", tokens/8) }

func skinnyNames() (names []string) {
	for _, tokens := range skinnyTiles {
		names = append(names, skinnyName(tokens))
	}
	return names
}

// skinnyShared is the shared memory of a block: its warps' rings, and their sums.
func skinnyShared(tokens int) int {
	return skinnyWarps * (skinnyStages*skinnyPieceBytes + skinnyRows*(tokens+1)*4)
}

// registerSkinny registers the products of few tokens.
func (d *Device) registerSkinny() error {
	register(d, gpu.OpMatMul, "skinny", "tensor cores in one order of sums whatever the batch; W is read once for every 32 tokens; takes in the gate", (*Device).skinny)
	for _, tokens := range skinnyTiles {
		if err := d.allowShared(skinnyName(tokens), skinnyShared(tokens)); err != nil {
			return err
		}
	}
	return nil
}

// skinnyFits reports whether the skinny kernels can compute a product: weights in bfloat16, and
// activations that can be read 8 at a time.
func (d *Device) skinnyFits(m *matrix, args *matMulArgs) bool {
	return d.compute == gpu.BF16 && m.dtype == gpu.BF16 && alignedRows(args.x, m.k)
}

// skinny multiplies on the tensor cores, reading W once for every 32 tokens, with the gate in the same kernel.
// What it cannot do is left to rows.
func (d *Device) skinny(a *gpu.MatMul) error {
	m, p := d.product(a)
	gated := a.Gate != nil
	if !d.skinnyFits(m, &p) || gated && (m.n%2 != 0 || a.Accumulate) {
		return d.rows(a)
	}
	args := skinnyArgs{out: p.out, x: p.x, w: p.w, bias: p.bias, stride: p.stride, tokens: p.tokens, n: p.n, k: p.k, accumulate: p.accumulate}
	rows, tokens := skinnyRows, a.X.Dims[0]
	if err := d.norm(a); err != nil {
		return err
	}
	switch {
	case gated:
		mustShape(gpu.OpActMul, "Out", a.Gate.Out, tokens, m.n/2)
		args.mode = gateModes[a.Gate.Act]
		args.out, args.n, rows = d.act(a.Gate.Out), args.n/2, skinnyRows/2
	case p.outF32 == 1:
		args.mode = storeF32
	}
	tile := skinnyTiles[len(skinnyTiles)-1]
	for _, t := range skinnyTiles {
		if tokens <= t {
			tile = t
			break
		}
	}
	tiles := ceilDiv(int(args.n), rows) * ceilDiv(tokens, tile)
	return run(d, d.functions[skinnyName(tile)], grid{min(tiles, skinnyBlocksPer*d.properties.multiprocessors), 1, 1}, 32*skinnyWarps, skinnyShared(tile), args)
}
