package cuda

import (
	"fmt"

	"github.com/troupe-engine/troupe/gpu"
)

// The structs named …Args are laid out as their namesakes in kernels/*.cu.

type feedTokensArgs struct {
	out, tokens, slots, last uintptr
	n, slotCount             int32
}

func (d *Device) feedTokens(a *gpu.FeedTokens) error {
	n := a.Out.Len()
	mustLen(gpu.OpFeedTokens, "Tokens", a.Tokens, n)
	mustLen(gpu.OpFeedTokens, "Slots", a.Slots, n)
	return runEach(d, "feed_tokens", n, feedTokensArgs{d.i32(a.Out), d.i32(a.Tokens), d.i32(a.Slots), d.i32(a.LastToken),
		int32(n), int32(a.LastToken.Len())})
}

type embedArgs struct {
	out, table, ids uintptr
	elements        int64
	vocab, hidden   int32
	scale           float32
	_               int32
}

func (d *Device) embed(a *gpu.Embed) error {
	if a.Table.Packed {
		return d.embedQuantized(a)
	}
	mustShape(gpu.OpEmbed, "Out", a.Out, a.IDs.Len(), a.Table.Dims[1])
	d.act(a.Out) // checks its type
	kernel, ok := map[gpu.DType]string{gpu.F32: "embed_f32", gpu.F16: "embed_f16", gpu.BF16: "embed_bf16"}[a.Table.DType]
	if !ok {
		panic(fmt.Sprintf("cuda: embed: table of %v, want f32, f16 or bf16", a.Table.DType))
	}
	return d.gather(kernel, a.Out, d.address(a.Table), a.Table, a.IDs, a.Scale)
}

func (d *Device) gatherRows(a *gpu.GatherRows) error {
	mustShape(gpu.OpGatherRows, "Out", a.Out, a.Rows.Len(), a.X.Dims[1])
	from, isF32 := d.output(a.X)
	if a.Out.DType != a.X.DType {
		panic(fmt.Sprintf("cuda: gather_rows: Out is %v for X %v", a.Out, a.X))
	}
	return d.gather([]string{"gather_rows_act", "gather_rows_f32"}[isF32], a.Out, from, a.X, a.Rows, 1)
}

func (d *Device) gather(kernel string, out gpu.Tensor, address uintptr, table, ids gpu.Tensor, scale float32) error {
	to, _ := d.output(out)
	return runEach(d, kernel, out.Len(), embedArgs{out: to, table: address, ids: d.i32(ids),
		elements: int64(out.Len()), vocab: int32(table.Dims[0]), hidden: int32(table.Dims[1]), scale: scale})
}

type addArgs struct {
	out, x, y uintptr
	n         int64
}

func (d *Device) add(a *gpu.Add) error {
	n := a.Out.Len()
	mustLen(gpu.OpAdd, "A", a.A, n)
	mustLen(gpu.OpAdd, "B", a.B, n)
	return runEach(d, "add", n, addArgs{d.act(a.Out), d.act(a.A), d.act(a.B), int64(n)})
}

type addBiasArgs struct {
	out, bias                uintptr
	n                        int64
	cols, accumulate, outF32 int32
	_                        int32
}

type softCapArgs struct {
	x     uintptr
	n     int64
	limit float32
	_     int32
}

func (d *Device) softCap(a *gpu.SoftCap) error {
	x, isF32 := d.output(a.X)
	return runEach(d, []string{"softcap_act", "softcap_f32"}[isF32], a.X.Len(), softCapArgs{x: x, n: int64(a.X.Len()), limit: a.Cap})
}

type actMulArgs struct {
	out, x uintptr
	n      int64
	width  int32
	_      int32
}

func (d *Device) actMul(a *gpu.ActMul) error {
	tokens, width := a.X.Dims[0], a.X.Dims[1]/2
	mustShape(gpu.OpActMul, "X", a.X, tokens, 2*width)
	mustShape(gpu.OpActMul, "Out", a.Out, tokens, width)
	return d.activate(d.act(a.Out), d.act(a.X), tokens, width, a.Act)
}

// activate: out[tokens, width] = act(gate) * up for rows [gate | up] of x.
func (d *Device) activate(out, x uintptr, tokens, width int, act gpu.Activation) error {
	kernel, ok := map[gpu.Activation]string{gpu.SiLU: "act_mul_silu", gpu.GELUTanh: "act_mul_gelu_tanh"}[act]
	if !ok {
		panic(fmt.Sprintf("cuda: unknown gate activation %d", act))
	}
	threads := tokens * width
	if alignedRows(out|x, width) {
		kernel, threads = kernel+"_8", threads/padElements
	}
	return runEach(d, kernel, threads, actMulArgs{out: out, x: x, n: int64(tokens * width), width: int32(width)})
}

type rmsNormArgs struct {
	out, x, weight uintptr
	rows, cols     int32
	eps, offset    float32
}

const (
	normWarpColsMax = 256 // the longest row that a warp sums
	normThreads     = 256 // NORM_THREADS in norm.cu
)

func (d *Device) rmsNorm(a *gpu.RMSNorm) error {
	cols := a.Weight.Len()
	if cols == 0 || a.X.Len()%cols != 0 {
		panic(fmt.Sprintf("cuda: rmsnorm: X is %v, not rows of %d", a.X, cols))
	}
	rows := a.X.Len() / cols
	mustLen(gpu.OpRMSNorm, "Out", a.Out, a.X.Len())
	args := rmsNormArgs{d.act(a.Out), d.act(a.X), d.f32(a.Weight), int32(rows), int32(cols), a.Eps, a.Offset}
	if cols <= normWarpColsMax {
		const warps = 4
		return run(d, d.functions["rmsnorm_warp"], grid{ceilDiv(rows, warps), 1, 1}, 32*warps, 0, args)
	}
	if alignedRows(args.out|args.x|args.weight, cols) {
		return run(d, d.functions["rmsnorm_block_8"], grid{rows, 1, 1}, normThreads, 0, args)
	}
	return run(d, d.functions["rmsnorm_block"], grid{rows, 1, 1}, 512, 0, args)
}
