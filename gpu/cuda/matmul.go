package cuda

import (
	"fmt"
	"math"
	"slices"

	"github.com/troupe-engine/troupe/gpu"
)

// matrix is a weight W[n, k] in rows of stride bytes: k elements, padded with zeros so that
// every load has 16 bytes.
type matrix struct {
	dtype  gpu.DType
	n, k   int
	stride int
	quant  *quantLayout // of a quantized type, instead of stride
}

// format is that of a quantized type, or nil.
func (m *matrix) format() *quantFormat {
	if m.quant == nil {
		return nil
	}
	return m.quant.format
}

// padElements is what rows are padded to a multiple of.
const padElements = 8

// PackMatrix implements gpu.Device.
func (d *Device) PackMatrix(name string, dtype gpu.DType, n, k int, parts ...[]byte) (gpu.Tensor, error) {
	const bytesMax, pad = 4, 128 // of an element, and what rows and columns may be padded to
	if n <= 0 || k <= 0 || n > math.MaxInt32-pad || k > math.MaxInt32-pad || n+pad > math.MaxInt/bytesMax/(k+pad) {
		return gpu.Tensor{}, fmt.Errorf("cuda: weight %q has impossible shape [%d, %d]", name, n, k)
	}
	if dtype.Quantized() {
		return d.packQuantized(name, dtype, n, k, append([][]byte{}, parts...)) // never nil
	}
	if !slices.Contains(weightTypes, dtype) {
		return gpu.Tensor{}, fmt.Errorf("%w: weight %q has type %v; the cuda device multiplies f32, f16 and bf16, and quantized %s", gpu.ErrNotSupported, name, dtype, quantTypes())
	}
	if err := checkParts(name, dtype, n, k, parts); err != nil {
		return gpu.Tensor{}, err
	}
	return d.packedMatrix(name, dtype, n, k, parts)
}

// checkParts refuses parts that are not n rows of k elements.
func checkParts(name string, dtype gpu.DType, n, k int, parts [][]byte) error {
	row, total := dtype.RowBytes(k), 0
	for i, part := range parts {
		if len(part)%row != 0 {
			return fmt.Errorf("cuda: weight %q: part %d has %d bytes, not whole rows of %d (k=%d, %v)", name, i, len(part), row, k, dtype)
		}
		total += len(part)
	}
	if total != n*row {
		return fmt.Errorf("cuda: weight %q [%d, %d] %v needs %d bytes, got %d", name, n, k, dtype, n*row, total)
	}
	return nil
}

// packedMatrix allocates a matrix that was checked, and fills it with the parts; nil leaves zeros.
func (d *Device) packedMatrix(name string, dtype gpu.DType, n, k int, parts [][]byte) (gpu.Tensor, error) {
	size := dtype.Size()
	if err := d.enter(); err != nil {
		return gpu.Tensor{}, err
	}
	defer d.leave()
	m := &matrix{dtype: dtype, n: n, k: k, stride: ceilDiv(k, padElements) * padElements * size}
	b, err := d.reserve(int64(n) * int64(m.stride))
	if err == nil {
		b.weight = m
		if err = d.sendRows(b.block.address, m.stride, k*size, parts); err != nil {
			d.heap.put(b.block)
		}
	}
	if err != nil {
		return gpu.Tensor{}, fmt.Errorf("weight %q: %w", name, err)
	}
	t := d.table.Put(b, int64(n)*int64(m.stride), name, dtype, n, k)
	t.Packed = true
	return t, nil
}

// sendRows copies the rows of all parts to rows of stride bytes.
func (d *Device) sendRows(address uintptr, stride, row int, parts [][]byte) error {
	for _, part := range parts {
		if stride == row {
			if err := d.send(address, part); err != nil {
				return err
			}
			address += uintptr(len(part))
			continue
		}
		for len(part) > 0 {
			rows := min(len(part)/row, max(1, stagingSlotBytes/stride))
			padded := make([]byte, rows*stride)
			for r := range rows {
				copy(padded[r*stride:], part[r*row:(r+1)*row])
			}
			if err := d.send(address, padded); err != nil {
				return err
			}
			address, part = address+uintptr(len(padded)), part[rows*row:]
		}
	}
	return nil
}

// weight returns the packed weight that t names.
func (d *Device) weight(t gpu.Tensor) *buffer {
	b := d.table.Get(t)
	if b.weight == nil {
		panic(fmt.Sprintf("cuda: %v is not a packed weight; make it with PackMatrix", t))
	}
	return b
}

type matMulArgs struct {
	out, x, w, bias                  uintptr
	stride                           int64
	tokens, n, k, accumulate, outF32 int32
	_                                int32
}

// product checks a matrix product and returns its weight and arguments.
func (d *Device) product(a *gpu.MatMul) (*matrix, matMulArgs) {
	b := d.weight(a.W)
	m, tokens := b.weight, a.X.Dims[0]
	mustShape(gpu.OpMatMul, "X", a.X, tokens, m.k)
	mustShape(gpu.OpMatMul, "Out", a.Out, tokens, m.n)
	args := matMulArgs{x: d.act(a.X), w: b.block.address, stride: int64(m.stride), tokens: int32(tokens), n: int32(m.n), k: int32(m.k)}
	args.out, args.outF32 = d.output(a.Out)
	if a.Bias.Valid() {
		mustLen(gpu.OpMatMul, "Bias", a.Bias, m.n)
		args.bias = d.f32(a.Bias)
	}
	if a.Accumulate {
		args.accumulate = 1
	}
	return m, args
}

// norm runs a product's norm, if it has one, as a launch of its own.
func (d *Device) norm(a *gpu.MatMul) error {
	if a.Norm == nil {
		return nil
	}
	return d.launch(gpu.OpRMSNorm, a.Norm)
}

// around runs a product with its norm and its gate as launches of their own.
func (d *Device) around(a *gpu.MatMul, product func() error) error {
	if err := d.norm(a); err != nil {
		return err
	}
	if err := product(); err != nil || a.Gate == nil {
		return err
	}
	return d.launch(gpu.OpActMul, a.Gate)
}

// Sizes shared with matmul.cuh and matmul.cu.
const (
	matMulWarps     = 8 // per block
	matMulTokensMax = 8 // per warp
)

// matMulTiles are the compiled kernels: tokens and rows of W per warp.
var matMulTiles = []struct{ tokens, rows int }{{1, 2}, {2, 2}, {4, 4}, {matMulTokensMax, 4}}

// weightTypes are what weights may be stored as.
var weightTypes = []gpu.DType{gpu.F32, gpu.F16, gpu.BF16}

func matMulNames(dtype gpu.DType) (names []string) {
	for _, tile := range matMulTiles {
		names = append(names, matMulName(dtype, tile.tokens, true), matMulName(dtype, tile.tokens, false))
	}
	return names
}

// matMulName: aligned kernels read activations 16 bytes at a time.
func matMulName(dtype gpu.DType, tokens int, aligned bool) string {
	name := fmt.Sprintf("matmul_%v_%d", dtype, tokens)
	if !aligned {
		name += "_odd"
	}
	return name
}

// matMulKernel is what the choice of a kernel depends on.
type matMulKernel struct {
	dtype   gpu.DType
	tokens  int
	aligned bool
}

// prepareMatMul finds the kernels, so that a launch need not spell their names.
func (d *Device) prepareMatMul() {
	d.matMuls = map[matMulKernel]function{}
	for _, dtype := range weightTypes {
		for _, tile := range matMulTiles {
			for _, aligned := range []bool{true, false} {
				d.matMuls[matMulKernel{dtype, tile.tokens, aligned}] = d.functions[matMulName(dtype, tile.tokens, aligned)]
			}
		}
	}
}

// alignedRows reports whether rows of k activations from address on can be read 8 at a time.
func alignedRows(address uintptr, k int) bool { return address%16 == 0 && k%padElements == 0 }

// rows multiplies with float32 arithmetic.
func (d *Device) rows(a *gpu.MatMul) error {
	if d.weight(a.W).weight.quant != nil {
		return d.quantized(a)
	}
	return d.around(a, func() error {
		m, args := d.product(a)
		tile := matMulTiles[len(matMulTiles)-1]
		for _, t := range matMulTiles {
			if a.X.Dims[0] <= t.tokens {
				tile = t
				break
			}
		}
		f := d.matMuls[matMulKernel{m.dtype, tile.tokens, alignedRows(args.x, m.k)}]
		return run(d, f, grid{ceilDiv(a.X.Dims[0], tile.tokens), ceilDiv(m.n, matMulWarps*tile.rows), 1}, 32*matMulWarps, 0, args)
	})
}
