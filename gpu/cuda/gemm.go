package cuda

import (
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"unsafe"

	"github.com/troupe-engine/troupe/gpu"
)

// gemm computes products of many tokens with cuBLASLt. The library's heuristic proposes algorithms
// for a shape, the fastest of them on this GPU is taken, and a file remembers which it was.
type gemm struct {
	lib         *cublasLt
	handle      uintptr
	desc, fp8   uintptr // of products of bfloat16, and of 8-bit floats or 0
	preference  uintptr
	workspace   block
	dequantized block // of a part of a quantized matrix
	noFP8       bool  // there are no products of 8-bit floats
	plans       map[gemmShape]*gemmPlan
	chosen      choices
	alpha       float32 // 1
	beta        [2]float32
	events      [2]uintptr
}

// gemmShape is a product W[n, k] times tokens activations.
type gemmShape struct {
	n, k, stride, tokens, out int // stride: elements of a row of W; out: from token to token of the result
	f32                       bool
	dtype                     gpu.DType // of W: BF16, or E4M3 for activations of that, too
}

// gemmPlan is how a shape is computed.
type gemmPlan struct {
	desc      uintptr
	w, x, out uintptr // layouts
	algorithm algorithm
}

const (
	gemmWorkspaceBytes = 64 << 20 // what cuBLAS itself takes on Hopper is 32 MiB
	gemmCandidates     = 8
	gemmRounds         = 3
	// Smaller weights are not worth measuring: loading a candidate's code takes longer than it could save.
	gemmMeasuredMin = 1 << 20
	// Up to so many tokens the skinny kernels are used: they read the activations from the caches again for every
	// 16 rows of the weights, which takes longer than reading the weights from 9 to 16 tokens on.
	skinnyTokensMax = 8
)

// openGemm prepares the library; without it the device has no gemm and skinny does all.
func (d *Device) openGemm(s search) error {
	lib, _, err := loadCublasLt(s)
	if err != nil {
		return nil //nolint:nilerr // Probe reports it; the device works, and is slower
	}
	g := &gemm{lib: lib, plans: map[gemmShape]*gemmPlan{}, alpha: 1, beta: [2]float32{0, 1}}
	if err := lib.check("cublasLtCreate", call(lib.cublasLtCreate, uintptr(unsafe.Pointer(&g.handle)))); err != nil {
		return err
	}
	if g.desc, err = lib.description(); err != nil {
		return err
	}
	if g.fp8, err = lib.fp8Description(); err != nil {
		g.noFP8 = true // an older library
	}
	if g.preference, err = lib.preference(gemmWorkspaceBytes); err != nil {
		return err
	}
	if g.workspace, err = d.heap.get(gemmWorkspaceBytes); err != nil {
		return err
	}
	for i := range g.events {
		if err := d.check("cuEventCreate", call(d.driver.cuEventCreate, uintptr(unsafe.Pointer(&g.events[i])), 0)); err != nil {
			return err
		}
	}
	g.chosen.open(fmt.Sprintf("%s, cuBLASLt %d", d.description, lib.version))
	d.gemm = g
	return nil
}

// auto multiplies few tokens with skinny, and many with cuBLASLt.
func (d *Device) auto(a *gpu.MatMul) error {
	m, args := d.product(a)
	if m.quant != nil {
		return d.quantizedAuto(a)
	}
	tokens := a.X.Dims[0]
	if d.gemm == nil || tokens <= skinnyTokensMax || !d.skinnyFits(m, &args) || args.out%16 != 0 || m.n%padElements != 0 {
		return d.skinny(a)
	}
	return d.around(a, func() error { return d.multiply(m, args) })
}

// multiply computes a product with cuBLASLt.
func (d *Device) multiply(m *matrix, args matMulArgs) error {
	if args.bias != 0 { // what the product is then added to
		if err := d.addBias(args); err != nil {
			return err
		}
		args.accumulate = 1
	}
	return d.multiplyShape(gemmShape{n: m.n, k: m.k, stride: m.stride / m.dtype.Size(), tokens: int(args.tokens), out: m.n, f32: args.outF32 == 1, dtype: m.dtype}, args)
}

// addBias makes out the bias of every token, or adds it to what is there.
func (d *Device) addBias(args matMulArgs) error {
	n := int64(args.n) * int64(args.tokens)
	return runEach(d, "add_bias", int(n), addBiasArgs{out: args.out, bias: args.bias, n: n, cols: args.n, accumulate: args.accumulate, outF32: args.outF32})
}

// multiplyShape computes a product of a shape.
func (d *Device) multiplyShape(shape gemmShape, args matMulArgs) error {
	plan, err := d.planned(shape, args)
	if err != nil {
		return err
	}
	return d.gemm.lib.check("cublasLtMatmul", d.gemm.run(d, plan, &plan.algorithm, args, args.out))
}

// planned returns the shape's plan, made at its first product.
func (d *Device) planned(shape gemmShape, args matMulArgs) (*gemmPlan, error) {
	if plan := d.gemm.plans[shape]; plan != nil {
		return plan, nil
	}
	plan, err := d.planGemm(shape, args)
	if err == nil {
		d.gemm.plans[shape] = plan
	}
	return plan, err
}

// run launches a product and returns cuBLAS's status.
func (g *gemm) run(d *Device, p *gemmPlan, algorithm *algorithm, args matMulArgs, out uintptr) int32 {
	return call(g.lib.cublasLtMatmul, g.handle, p.desc, uintptr(unsafe.Pointer(&g.alpha)), args.w, p.w, args.x, p.x,
		uintptr(unsafe.Pointer(&g.beta[args.accumulate])), out, p.out, out, p.out, uintptr(unsafe.Pointer(algorithm)),
		g.workspace.address, gemmWorkspaceBytes, d.stream)
}

// planGemm lays out the matrices of a shape, which cuBLAS sees transposed (column-major), and
// chooses an algorithm.
func (d *Device) planGemm(shape gemmShape, args matMulArgs) (*gemmPlan, error) {
	lib, p := d.gemm.lib, &gemmPlan{desc: d.gemm.desc}
	inType, outType := int32(cudaR16BF), int32(cudaR16BF)
	if shape.dtype == gpu.E4M3 {
		p.desc, inType = d.gemm.fp8, cudaR8E4M3
	}
	if shape.f32 {
		outType = cudaR32F
	}
	var err error
	if p.w, err = lib.layout(inType, shape.k, shape.n, shape.stride); err != nil {
		return nil, err
	}
	if p.x, err = lib.layout(inType, shape.k, shape.tokens, shape.k); err != nil {
		return nil, err
	}
	if p.out, err = lib.layout(outType, shape.n, shape.tokens, shape.out); err != nil {
		return nil, err
	}
	return p, d.chooseAlgorithm(shape, p, args)
}

// tokenBucket rounds a number of tokens up to one of four per power of two: an algorithm is chosen
// for all that round to the same.
func tokenBucket(tokens int) int {
	step := max(8, 1<<bits.Len(uint(tokens-1))/8)
	return ceilDiv(tokens, step) * step
}

// chooseAlgorithm takes the remembered algorithm of the shape's bucket, or measures.
func (d *Device) chooseAlgorithm(shape gemmShape, p *gemmPlan, args matMulArgs) error {
	g := d.gemm
	bucket := shape
	bucket.tokens = tokenBucket(shape.tokens)
	if known, ok := g.chosen.get(bucket); ok && g.fits(p, &known) {
		p.algorithm = known
		return nil
	}
	candidates, err := g.heuristic(p)
	if err != nil {
		return err
	}
	p.algorithm = candidates[0].algorithm
	if d.recording || shape.n*shape.k < gemmMeasuredMin {
		return nil // nothing can be measured while recording; the next plan of the bucket will be
	}
	if p.algorithm, err = d.fastest(shape, p, candidates, args); err != nil {
		return err
	}
	g.chosen.put(bucket, p.algorithm)
	return nil
}

// errNoAlgorithm: the library cannot compute a shape.
var errNoAlgorithm = errors.New("cuda: cuBLASLt proposes no algorithm")

// heuristic returns cuBLASLt's proposals, the one that it thinks best first.
func (g *gemm) heuristic(p *gemmPlan) ([]heuristicResult, error) {
	list := make([]heuristicResult, gemmCandidates)
	var count int32
	status := call(g.lib.cublasLtMatmulAlgoGetHeuristic, g.handle, p.desc, p.w, p.x, p.out, p.out, g.preference,
		gemmCandidates, uintptr(unsafe.Pointer(&list[0])), uintptr(unsafe.Pointer(&count)))
	const notSupported = 15
	if err := g.lib.check("cublasLtMatmulAlgoGetHeuristic", status); err != nil && status != notSupported {
		return nil, err
	}
	list = slices.DeleteFunc(list[:count], func(r heuristicResult) bool { return r.status != 0 })
	if len(list) == 0 {
		return nil, errNoAlgorithm
	}
	return list, nil
}

// fits reports whether an algorithm that was chosen for the bucket can compute this shape.
func (g *gemm) fits(p *gemmPlan, a *algorithm) bool {
	var r heuristicResult
	status := call(g.lib.cublasLtMatmulAlgoCheck, g.handle, p.desc, p.w, p.x, p.out, p.out, uintptr(unsafe.Pointer(a)), uintptr(unsafe.Pointer(&r)))
	return status == 0 && r.workspaceBytes <= gemmWorkspaceBytes
}

// fastest times the candidates on the product at hand, into work space.
func (d *Device) fastest(shape gemmShape, p *gemmPlan, candidates []heuristicResult, args matMulArgs) (best algorithm, err error) {
	out, err := d.scratch(int64(shape.out) * int64(shape.tokens) * 4)
	if errors.Is(err, gpu.ErrOutOfMemory) {
		return candidates[0].algorithm, nil // the product itself needs none of it
	}
	if err != nil {
		return best, err
	}
	args.accumulate = 0
	least := float32(-1)
	for i := range candidates {
		us, ok, err := d.timeGemm(p, &candidates[i].algorithm, args, out)
		if err != nil {
			return best, err
		}
		if ok && (least < 0 || us < least) {
			least, best = us, candidates[i].algorithm
		}
	}
	if least < 0 {
		return best, fmt.Errorf("%w that runs", errNoAlgorithm)
	}
	return best, nil
}

// timeGemm returns the least milliseconds of a few runs; ok is false if the algorithm does not run.
func (d *Device) timeGemm(p *gemmPlan, a *algorithm, args matMulArgs, out uintptr) (least float32, ok bool, err error) {
	g := d.gemm
	for round := range gemmRounds + 1 {
		if err := d.check("cuEventRecord", call(d.driver.cuEventRecord, g.events[0], d.stream)); err != nil {
			return 0, false, err
		}
		if g.run(d, p, a, args, out) != 0 {
			return 0, false, nil
		}
		if err := d.check("cuEventRecord", call(d.driver.cuEventRecord, g.events[1], d.stream)); err != nil {
			return 0, false, err
		}
		if err := d.wait(); err != nil {
			return 0, false, err
		}
		var ms float32
		if err := d.check("cuEventElapsedTime", call(d.driver.cuEventElapsedTime, uintptr(unsafe.Pointer(&ms)), g.events[0], g.events[1])); err != nil {
			return 0, false, err
		}
		if round == 1 || round > 1 && ms < least { // the first warms up
			least = ms
		}
	}
	return least, true, nil
}
