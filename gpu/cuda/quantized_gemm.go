package cuda

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/troupe-engine/troupe/gpu"
)

// Products of many tokens with quantized weights. 8-bit floats are multiplied as such, with activations rounded to
// 8-bit floats with a scale per token; other types become bfloat16, some rows at a time, which the product after it
// finds in the second-level cache.

const (
	// dequantizedBytes is what a part of a matrix takes as bfloat16.
	dequantizedBytes = 24 << 20
	// Products of 8-bit floats need compute capability 8.9; scales of rows and of columns at once, 9.0.
	fp8Major  = 9
	fp8Align  = 16 // rows and columns
	e4m3Bytes = 1
	// Up to so many tokens the weights are multiplied as they are. From there on reading them for every 16 tokens takes
	// longer than making them bfloat16 once, and 8-bit floats are faster still.
	quantizedTokensMax = 32
	fp8TokensMax       = 16
)

// dequantizeArgs is DequantizeArgs in dequantize.cuh.
type dequantizeArgs struct {
	out, codes, meta, rowScale uintptr
	stride                     int64
	from, rows, k, pieces      int32
}

// quantizeRowsArgs is QuantizeRowsArgs in quantize.cu.
type quantizeRowsArgs struct {
	codes, scales, x uintptr
	rows, k          int32
}

// quantizedAuto multiplies few tokens as quantized does, and many with cuBLASLt.
func (d *Device) quantizedAuto(a *gpu.MatMul) error {
	m, args := d.product(a)
	tokensMax := quantizedTokensMax
	if m.dtype == gpu.E4M3 {
		tokensMax = fp8TokensMax
	}
	if d.gemm == nil || a.X.Dims[0] <= tokensMax || (args.x|args.out)%16 != 0 || m.n%padElements != 0 {
		return d.quantized(a)
	}
	return d.around(a, func() error {
		if args.bias != 0 { // what the product is then added to
			if err := d.addBias(args); err != nil {
				return err
			}
			args.bias, args.accumulate = 0, 1
		}
		if m.dtype == gpu.E4M3 && d.properties.major >= fp8Major && !d.gemm.noFP8 && m.n%fp8Align == 0 && m.k%fp8Align == 0 {
			err := d.multiplyFP8(m, args)
			if !errors.Is(err, errNoAlgorithm) {
				return err
			}
			d.gemm.noFP8 = true // this library cannot do it
		}
		return d.multiplyDequantized(m, args)
	})
}

// multiplyDequantized computes a product by way of bfloat16.
func (d *Device) multiplyDequantized(m *matrix, args matMulArgs) error {
	g, l := d.gemm, m.quant
	if g.dequantized.bytes == 0 {
		var err error
		if g.dequantized, err = d.heap.get(dequantizedBytes); err != nil {
			return err
		}
	}
	rowBytes := m.k * gpu.BF16.Size()
	perPart := max(quantRows, dequantizedBytes/rowBytes/quantRows*quantRows)
	if perPart*rowBytes > dequantizedBytes {
		return fmt.Errorf("%w: matmul: rows of %d elements of %v for many tokens", gpu.ErrNotSupported, m.k, m.dtype)
	}
	outSize := uintptr(d.compute.Size())
	if args.outF32 == 1 {
		outSize = uintptr(gpu.F32.Size())
	}
	from := dequantizeArgs{out: g.dequantized.address, codes: args.w, stride: int64(l.stride), k: int32(m.k), pieces: int32(l.pieces)}
	from.meta, from.rowScale = l.shares(args.w)
	out := args.out
	for row := 0; row < m.n; row += perPart {
		rows := min(perPart, m.n-row)
		from.from, from.rows = int32(row), int32(rows)
		if err := run(d, d.functions["dequantize_"+l.format.kernels], grid{l.pieces, ceilDiv(rows, quantRows), 1}, 32*quantWarps, 0, from); err != nil {
			return err
		}
		part := args
		part.w, part.out = g.dequantized.address, out+uintptr(row)*outSize
		shape := gemmShape{n: rows, k: m.k, stride: m.k, tokens: int(args.tokens), out: m.n, f32: args.outF32 == 1, dtype: gpu.BF16}
		if err := d.multiplyShape(shape, part); err != nil {
			return err
		}
	}
	return nil
}

// multiplyFP8 computes a product of 8-bit floats, or fails with errNoAlgorithm.
func (d *Device) multiplyFP8(m *matrix, args matMulArgs) error {
	shape := gemmShape{n: m.n, k: m.k, stride: m.quant.stride, tokens: int(args.tokens), out: m.n, f32: args.outF32 == 1, dtype: gpu.E4M3}
	known := d.gemm.plans[shape] != nil
	scaled, err := d.quantizeActivations(m, args)
	if err != nil {
		return err
	}
	if !known {
		if _, err := d.planned(shape, scaled); err != nil {
			return err
		}
		// Measuring may have used the memory where the activations were.
		if scaled, err = d.quantizeActivations(m, args); err != nil {
			return err
		}
	}
	return d.multiplyShape(shape, scaled)
}

// quantizeActivations rounds x to 8 bits in scratch memory and returns args of that, scales set.
func (d *Device) quantizeActivations(m *matrix, args matMulArgs) (matMulArgs, error) {
	const align = 256
	tokens := int(args.tokens)
	codes := (int64(tokens)*int64(m.k)*e4m3Bytes + align - 1) / align * align
	room, err := d.scratch(codes + int64(gpu.F32.Size())*int64(tokens))
	if err != nil {
		return args, err
	}
	scales := room + uintptr(codes)
	if err := run(d, d.functions["quantize_rows"], grid{tokens, 1, 1}, threadsPerBlock, 0,
		quantizeRowsArgs{codes: room, scales: scales, x: args.x, rows: args.tokens, k: args.k}); err != nil {
		return args, err
	}
	_, rowScales := m.quant.shares(args.w)
	args.x = room
	return args, d.gemm.lib.setScales(d.gemm.fp8, rowScales, scales)
}

// fp8Description is of a product of 8-bit floats with a float32 for each row and column of it.
func (c *cublasLt) fp8Description() (handle uintptr, err error) {
	if handle, err = c.description(); err != nil {
		return 0, err
	}
	mode := int32(scaleOuterVector)
	for _, attribute := range []uintptr{descScaleModeA, descScaleModeB} {
		if err := c.check("cublasLtMatmulDescSetAttribute", call(c.cublasLtMatmulDescSetAttribute, handle, attribute, uintptr(unsafe.Pointer(&mode)), unsafe.Sizeof(mode))); err != nil {
			return 0, err
		}
	}
	return handle, nil
}

// setScales sets the scales of rows and columns, in device memory.
func (c *cublasLt) setScales(desc, rows, columns uintptr) error {
	for i, pointer := range []uintptr{rows, columns} {
		if err := c.check("cublasLtMatmulDescSetAttribute", call(c.cublasLtMatmulDescSetAttribute, desc, descScaleA+uintptr(i),
			uintptr(unsafe.Pointer(&pointer)), unsafe.Sizeof(pointer))); err != nil {
			return err
		}
	}
	return nil
}
