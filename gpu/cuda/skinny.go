package cuda

import (
	"fmt"

	"github.com/troupe-engine/troupe/gpu"
)

// skinnyArgs is laid out as SkinnyArgs in skinny.cu.
type skinnyArgs struct {
	out, x, w, bias, norm          uintptr
	stride                         int64
	tokens, n, k, accumulate, mode int32
	eps, offset                    float32
	_                              int32
}

// SkinnyArgs.mode in skinny.cu.
const (
	skinnyStoreAct = iota
	skinnyStoreF32
	skinnySiLU
	skinnyGELUTanh
)

// Sizes shared with skinny.cu.
const (
	skinnyRows = 16 // of W, per block
	// A matrix with so few blocks per multiprocessor gets blocks of more warps.
	skinnyFewBlocks  = 2
	skinnyWarps      = 4
	skinnyWarpsOfFew = 8
)

// skinnyTiles are the compiled kernels: the tokens of a block.
var skinnyTiles = []int{8, 16, 32}

func skinnyName(warps, tokens int, norm bool) string {
	name := fmt.Sprintf("skinny_%d_%d", warps, tokens/8)
	if norm {
		name += "_norm"
	}
	return name
}

func skinnyNames() (names []string) {
	for _, warps := range []int{skinnyWarps, skinnyWarpsOfFew} {
		for _, tokens := range skinnyTiles {
			names = append(names, skinnyName(warps, tokens, false), skinnyName(warps, tokens, true))
		}
	}
	return names
}

// skinnyFits reports whether the skinny kernels can compute a product: weights in bfloat16, and
// activations that can be read 8 at a time.
func (d *Device) skinnyFits(m *matrix, args *matMulArgs) bool {
	return d.compute == gpu.BF16 && m.dtype == gpu.BF16 && alignedRows(args.x, m.k)
}

// skinny multiplies on the tensor cores, reading W once for every 32 tokens, with norm and gate in
// the same kernel. What it cannot do is left to rows.
func (d *Device) skinny(a *gpu.MatMul) error {
	m, p := d.product(a)
	if !d.skinnyFits(m, &p) || !d.skinnyAround(a, m) {
		return d.rows(a)
	}
	args := skinnyArgs{out: p.out, x: p.x, w: p.w, bias: p.bias, stride: p.stride, tokens: p.tokens, n: p.n, k: p.k, accumulate: p.accumulate}
	if p.outF32 == 1 {
		args.mode = skinnyStoreF32
	}
	if a.Norm != nil {
		args.x, args.norm, args.eps, args.offset = d.act(a.Norm.X), d.f32(a.Norm.Weight), a.Norm.Eps, a.Norm.Offset
	}
	rows := skinnyRows
	if a.Gate != nil {
		args.mode = map[gpu.Activation]int32{gpu.SiLU: skinnySiLU, gpu.GELUTanh: skinnyGELUTanh}[a.Gate.Act]
		args.out, args.n, rows = d.act(a.Gate.Out), args.n/2, skinnyRows/2
	}
	tile := skinnyTiles[len(skinnyTiles)-1]
	for _, t := range skinnyTiles {
		if a.X.Dims[0] <= t {
			tile = t
			break
		}
	}
	blocks, warps := ceilDiv(int(args.n), rows), skinnyWarps
	if blocks <= skinnyFewBlocks*d.properties.multiprocessors {
		warps = skinnyWarpsOfFew
	}
	f := d.functions[skinnyName(warps, tile, a.Norm != nil)]
	return run(d, f, grid{blocks, ceilDiv(a.X.Dims[0], tile), 1}, 32*warps, 0, args)
}

// skinnyAround checks a's norm and gate and reports whether the kernels can take them in.
func (d *Device) skinnyAround(a *gpu.MatMul, m *matrix) bool {
	tokens := a.X.Dims[0]
	if n := a.Norm; n != nil {
		mustLen(gpu.OpRMSNorm, "X", n.X, tokens*m.k)
		mustLen(gpu.OpRMSNorm, "Weight", n.Weight, m.k)
		if (d.act(n.X)|d.f32(n.Weight))%16 != 0 {
			return false
		}
	}
	if g := a.Gate; g != nil {
		mustShape(gpu.OpActMul, "Out", g.Out, tokens, m.n/2)
		return m.n%2 == 0 && !a.Accumulate
	}
	return true
}
