package cuda

import (
	"fmt"
	"math"

	"github.com/troupe-engine/troupe/gpu"
)

// expertsArgs is laid out as ExpertsArgs in moe.cuh.
type expertsArgs struct {
	out, x, w, experts, plan                uintptr
	stride                                  int64
	pairs, expertCount, n, k, divisor, mode int32
	meta                                    int64
}

// planArgs is PlanArgs in moe_tile.cu.
type planArgs struct {
	experts, plan            uintptr
	pairs, expertCount, rows int32
	_                        int32
}

// Sizes shared with moe.cuh, moe_few.cuh, moe_tile.cuh and the files that include them.
const (
	fewWarps      = 8
	fewDepth      = 3
	fewDepth8     = 6  // of 8-bit codes
	fewDepth4     = 10 // of 4-bit codes
	fewPieceBytes = 4096
	fewBlocksPer  = 2 // of a multiprocessor
	fewRows       = 16
	tileWarps     = 4
	tileRows      = 128 // moe_wgmma's too
	tileStages    = 3
	tileSlabBytes = 128
	tileInBytes   = 256 // of a pair's slab beside quantized weights
	unitBytes     = 20

	expertsWgmmaWarps = 8
	expertsWgmmaBytes = 209 << 10 // a ring and what aligns it
)

// moeKernel computes experts' products for up to so many pairs of an expert at once. Which one does it changes no bit of the result.
type moeKernel struct {
	name  string
	file  string
	pairs int
	most  int // pairs of an expert, if tokens spread evenly, up to which it is chosen
}

// Files of kernels.
const (
	fewFile      = "moe_few.cu"
	tileFile     = "moe_tile.cu"
	moeWgmmaFile = "moe_wgmma.cu"
)

// moeKernels in the order in which they are tried. Weights are read once for an expert's up to 8 or 16 pairs at the speed of
// memory; for more, activations would be read from the caches too often. moe_wgmma is for Hopper.
var moeKernels = []moeKernel{
	{"moe_few_8", fewFile, 8, 2}, {"moe_few_16", fewFile, 16, 8},
	{"moe_tile_32", tileFile, 32, 24}, {"moe_wgmma", moeWgmmaFile, 256, math.MaxInt},
	{"moe_tile_64", tileFile, 64, 96}, {"moe_tile_128", tileFile, 128, math.MaxInt},
}

// quantMoEKernels are those that there are for quantized weights, too: one for each of quantFormats. Weights of another type
// that go with them are multiplied by the same.
var quantMoEKernels = []moeKernel{{"moe_few_8", fewFile, 8, 2}, {"moe_few_16", fewFile, 16, 8}, {"moe_tile_32", tileFile, 32, 24}, {"moe_tile_64", tileFile, 64, math.MaxInt}}

// quantMoEFiles hold them.
var quantMoEFiles = map[string]string{fewFile: "moe_few_q.cu", tileFile: "moe_tile_q.cu"}

// wgmmaPairsMin are the pairs of an expert from which on moe_wgmma is faster than the tiles: with 128, as in a prefill of 2,048
// tokens of Qwen3-30B-A3B, it takes 3 % longer, with 512 a quarter less.
const wgmmaPairsMin = 192

// fewPairsMax are the pairs up to which each block may sort them for itself.
const fewPairsMax = 1024

func moeTensorModules() []module {
	names := map[string][]string{tileFile: {"moe_plan"}}
	for _, k := range moeKernels {
		names[k.file] = append(names[k.file], k.name)
	}
	include := map[string]string{fewFile: "tiles.cuh moe.cuh pieces.cuh moe_few.cuh", tileFile: "tiles.cuh moe.cuh moe_tile.cuh", moeWgmmaFile: "tiles.cuh moe.cuh wgmma.cuh"}
	var list []module
	for _, file := range []string{fewFile, tileFile, moeWgmmaFile} {
		list = append(list, module{file: file, include: include[file], only: gpu.BF16, overlap: true, kernels: names[file]})
	}
	formats := map[string]*quantFormat{}
	for _, f := range quantFormats {
		formats[f.kernels] = f
	}
	for _, name := range quantKernels() {
		for _, file := range []string{fewFile, tileFile} {
			var kernels []string
			for _, k := range quantMoEKernels {
				if k.file == file {
					kernels = append(kernels, k.quantNames(formats[name])...)
				}
			}
			list = append(list, module{file: quantMoEFiles[file], include: include[file] + " quantized.cuh quantized_take.cuh moe_quantized.cuh", define: "QUANT_" + name,
				only: gpu.BF16, overlap: true, kernels: kernels})
		}
	}
	return list
}

// paired reports whether a tile of the gate and one of the up projection are multiplied together; otherwise tiles have rows of both.
func (f *quantFormat) paired() bool { return f.bits == 4 }

// quantNames are its kernels for a format.
func (k *moeKernel) quantNames(f *quantFormat) []string {
	if f.paired() {
		return []string{k.name + "_" + f.kernels, k.name + "_gate_" + f.kernels}
	}
	return []string{k.name + "_" + f.kernels}
}

// nameFor is the kernel for a matrix.
func (k *moeKernel) nameFor(m *matrix, gated bool) string {
	if m.quant == nil {
		return k.name
	}
	names := k.quantNames(m.quant.format)
	if gated {
		return names[len(names)-1]
	}
	return names[0]
}

// registerExperts registers the products of experts.
func (d *Device) registerExperts() error {
	if d.compute == gpu.BF16 {
		hopper := d.properties.major == wgmmaMajor
		register := func(name, doc string, wgmma bool) {
			register(d, gpu.OpMoEExperts, name, doc, func(d *Device, a *gpu.MoEExperts) error { return d.moeTensor(a, wgmma) })
		}
		if hopper {
			register("tensor", "tensor cores in one order of sums whatever the batch; few tokens of an expert stream its weights, many are multiplied by wgmma", true)
		}
		register("tensor-mma", "as tensor with mma.sync alone", false)
		for _, k := range moeKernels {
			if k.file == moeWgmmaFile && !hopper {
				continue
			}
			if err := d.allowShared(k.name, d.moeShared(&k, nil)); err != nil {
				return err
			}
		}
		for _, k := range quantMoEKernels {
			for _, f := range quantFormats {
				for _, name := range k.quantNames(f) {
					if err := d.allowShared(name, d.moeShared(&k, f)); err != nil {
						return err
					}
				}
			}
		}
	}
	register(d, gpu.OpMoEExperts, "grouped", "float32 fused multiply-adds; the tokens of each expert through the loop of matmul's rows", (*Device).moeGrouped)
	return nil
}

// moeShared is the shared memory that a kernel may have, for bfloat16 or a format: of few, what sorting needs comes on top of the rings.
func (d *Device) moeShared(k *moeKernel, f *quantFormat) int {
	switch {
	case k.file == fewFile:
		return d.properties.sharedBytesBlock
	case k.file == moeWgmmaFile:
		return expertsWgmmaBytes
	case f != nil:
		return tileStages * (tileRows/quantRows*f.pieceBytes() + k.pairs*tileInBytes)
	}
	return tileStages * (tileRows + k.pairs) * tileSlabBytes
}

// planBytes are those of a Plan.
func (k *moeKernel) planBytes(e *experts) int { return 4*(1+e.pairs) + unitBytes*k.units(e) }

// units are the most that there can be: all of an expert but the last are full.
func (k *moeKernel) units(e *experts) int { return min(e.pairs, min(e.pairs, e.count)+e.pairs/k.pairs) }

// fewRing is the ring of a warp that multiplies few pairs by weights in bfloat16 or a format.
func fewRing(f *quantFormat) int {
	switch {
	case f == nil:
		return fewDepth * fewPieceBytes
	case f.bits == 4:
		return fewDepth4 * f.pieceBytes()
	}
	return fewDepth8 * f.pieceBytes()
}

// fewShared is the shared memory of a kernel for few pairs: rings, an address and a number per expert, and the plan.
func (k *moeKernel) fewShared(e *experts, f *quantFormat) int {
	return fewWarps*fewRing(f) + (8+4)*e.count + k.planBytes(e)
}

// moeKernelFor chooses by the pairs of an expert, as if they were spread evenly.
func (d *Device) moeKernelFor(e *experts, wgmma bool) *moeKernel {
	rows, kernels := ceilDiv(e.pairs, min(e.pairs, e.count)), moeKernels
	gateUp, down := e.gateUp.format(), e.down.format()
	if gateUp != nil || down != nil {
		kernels = quantMoEKernels
	}
	for i := range kernels {
		k := &kernels[i]
		switch {
		case rows > k.most, k.file == moeWgmmaFile && (!wgmma || rows < wgmmaPairsMin):
		case k.file == fewFile && (e.pairs > fewPairsMax || max(k.fewShared(e, gateUp), k.fewShared(e, down)) > d.properties.sharedBytesBlock):
		default:
			return k
		}
	}
	panic("cuda: moe_experts: no kernel takes any number of pairs")
}

// moeTensor multiplies on the tensor cores, many tokens with wgmma if that may be. What it cannot do is left to moeGrouped.
func (d *Device) moeTensor(a *gpu.MoEExperts, wgmma bool) error {
	e, err := d.expertsOf(a)
	if err != nil || e.pairs == 0 {
		return err
	}
	if fits := e.fitsTensor(); !fits && e.gateUp.quant == nil && e.down.quant == nil {
		return d.moeGrouped(a)
	} else if !fits {
		return fmt.Errorf("%w: moe_experts: the cuda device does not multiply experts of %v and %v [%d, %d]", gpu.ErrNotSupported, e.gateUp.dtype, e.down.dtype, e.hidden, e.width)
	}
	k := d.moeKernelFor(&e, wgmma)
	products, err := d.scratch(e.productBytes() + int64(k.planBytes(&e)))
	if err != nil {
		return err
	}
	args := expertsArgs{experts: e.chosen, plan: products + uintptr(e.productBytes()), pairs: int32(e.pairs), expertCount: int32(e.count)}
	if k.file != fewFile {
		plan := planArgs{experts: e.chosen, plan: args.plan, pairs: args.pairs, expertCount: args.expertCount, rows: int32(k.pairs)}
		if err := run(d, d.functions["moe_plan"], grid{1, 1, 1}, 1024, 4*e.count, plan); err != nil {
			return err
		}
	}
	up, down := args, args
	up.out, up.x, up.w, up.divisor, up.mode = e.gated, e.x, e.table, int32(e.topK), gateModes[a.Act]
	if err := d.expertProducts(k, &e, e.gateUp, e.width, up); err != nil {
		return err
	}
	down.out, down.x, down.w, down.divisor, down.mode = products, e.gated, e.table+uintptr(8*e.count), 1, storeF32
	if err := d.expertProducts(k, &e, e.down, e.hidden, down); err != nil {
		return err
	}
	return d.combine(&e, products)
}

// fitsTensor reports whether the tensor kernels take the experts: weights in bfloat16 or quantized, activations that can be
// read 8 at a time, and whole tiles where a gate's and an up projection's are multiplied together.
func (e *experts) fitsTensor() bool {
	for _, m := range []*matrix{e.gateUp, e.down} {
		if m.dtype != gpu.BF16 && m.quant == nil {
			return false
		}
	}
	if f := e.gateUp.format(); f != nil && f.paired() && e.width%quantRows != 0 {
		return false
	}
	return alignedRows(e.x, e.hidden) && alignedRows(e.gated, e.width)
}

// expertProducts launches a product with n rows of experts' weights, or of their gates.
func (d *Device) expertProducts(k *moeKernel, e *experts, m *matrix, n int, args expertsArgs) error {
	args.stride, args.n, args.k = int64(m.stride), int32(n), int32(m.k)
	if m.quant != nil {
		args.stride, args.meta = int64(m.quant.stride), m.quant.meta
	}
	gated, rows := args.mode != storeF32, tileRows
	f := d.functions[k.nameFor(m, gated)]
	if k.file == fewFile {
		rows = fewRows
	}
	if gated && (k.file != fewFile || m.quant == nil || !m.quant.format.paired()) {
		rows /= 2
	}
	parts, warps := k.units(e)*ceilDiv(n, rows), tileWarps
	switch k.file {
	case fewFile:
		perSM := fewBlocksPer
		if m.quant != nil && parts <= fewWarps*d.properties.multiprocessors { // leaves room for the next kernel's blocks, which begin with their weights
			perSM = 1
		}
		blocks := min(parts, perSM*d.properties.multiprocessors) // few parts are spread over all multiprocessors
		return run(d, f, grid{blocks, 1, 1}, 32*fewWarps, k.fewShared(e, m.format()), args)
	case moeWgmmaFile:
		warps = expertsWgmmaWarps
	}
	return run(d, f, grid{parts, 1, 1}, 32*warps, d.moeShared(k, m.format()), args)
}
