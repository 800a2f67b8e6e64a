package cpu

import (
	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/ref"
	"golang.org/x/sys/cpu"
)

// machineTiers lists the assembly tiers that the processor and the operating system support.
func machineTiers() []*tier {
	var found []*tier
	if cpu.X86.HasAVX2 && cpu.X86.HasFMA && cpu.X86.HasF16C {
		found = append(found, &avx2Tier)
		if cpu.X86.HasAVX512F && cpu.X86.HasAVX512DQ {
			found = append(found, &avx512Tier)
		}
	}
	return found
}

var avx2Tier = tier{
	name: "avx2", doc: "AVX2 and FMA assembly",
	macsPerNs: 12, bytesPerNs: 15, gatesPerNs: 1.5,
	quant: &avx2Quant,
	read:  readLoopAVX2, fma: fmaLoopAVX2, lanes: 8,
	tiles: map[gpu.DType][]tile{
		gpu.BF16: {
			{tokens: 1, panels: 4, many: matmulBF16T1P4AVX2, one: matmulBF16T1P1AVX2},
			{tokens: 2, panels: 2, many: matmulBF16T2P2AVX2, one: matmulBF16T2P1AVX2},
			{tokens: 4, panels: 1, many: matmulBF16T4P1AVX2, one: matmulBF16T4P1AVX2},
			{tokens: 6, panels: 1, many: matmulBF16T6P1AVX2, one: matmulBF16T6P1AVX2},
		},
		gpu.F16: {
			{tokens: 1, panels: 4, many: matmulF16T1P4AVX2, one: matmulF16T1P1AVX2},
			{tokens: 2, panels: 2, many: matmulF16T2P2AVX2, one: matmulF16T2P1AVX2},
			{tokens: 4, panels: 1, many: matmulF16T4P1AVX2, one: matmulF16T4P1AVX2},
			{tokens: 6, panels: 1, many: matmulF16T6P1AVX2, one: matmulF16T6P1AVX2},
		},
		gpu.F32: {
			{tokens: 1, panels: 4, many: matmulF32T1P4AVX2, one: matmulF32T1P1AVX2},
			{tokens: 2, panels: 2, many: matmulF32T2P2AVX2, one: matmulF32T2P1AVX2},
			{tokens: 4, panels: 1, many: matmulF32T4P1AVX2, one: matmulF32T4P1AVX2},
			{tokens: 6, panels: 1, many: matmulF32T6P1AVX2, one: matmulF32T6P1AVX2},
		},
	},
	pairs: []tile{
		{tokens: 1, panels: 4, many: matmulPairT1P4AVX2, one: matmulPairT1P1AVX2},
		{tokens: 2, panels: 2, many: matmulPairT2P2AVX2, one: matmulPairT2P1AVX2},
		{tokens: 4, panels: 1, many: matmulPairT4P1AVX2, one: matmulPairT4P1AVX2},
	},
	rotate: func(heads, cos, sin []float32, dim int) {
		half := len(cos)
		if half == 0 || half%8 != 0 {
			rotate(heads, cos, sin, dim)
			return
		}
		rotateAVX2(&heads[0], &cos[0], &sin[:half][0], half, len(heads)/dim, dim)
	},
	narrow: func(dst []uint16, src []float32) {
		whole := len(src) &^ 15
		if whole > 0 {
			narrowAVX2(&dst[:whole][0], &src[0], whole)
		}
		narrow(dst[whole:], src[whole:])
	},
	codes: func(codes []byte, x []float32) float32 {
		if len(x) == 0 || len(x)%16 != 0 {
			return codesOf(codes, x)
		}
		var largest float32
		codesAVX2(&codes[:len(x)][0], &x[0], len(x), &largest)
		return largest
	},
	prefetch:    func(x []byte) { prefetchAVX2(&x[0], len(x)) },
	interleave4: interleave4Rows,
	transpose:   [kvFormats]func(dst *float32, src, ahead *byte, dim int){kvF32: transposeF32AVX2, kvBF16: transposeBF16AVX2, kvI8: transposeI8AVX2},
	rows: []rowKernel{
		{1, scoresR1AVX2, mixKernels{kvF32: mixF32R1AVX2, kvBF16: mixBF16R1AVX2, kvI8: mixI8R1AVX2}},
		{2, scoresR2AVX2, mixKernels{kvF32: mixF32R2AVX2, kvBF16: mixBF16R2AVX2, kvI8: mixI8R2AVX2}},
		{3, scoresR3AVX2, mixKernels{kvF32: mixF32R3AVX2, kvBF16: mixBF16R3AVX2, kvI8: mixI8R3AVX2}},
		{4, scoresR4AVX2, mixKernels{kvF32: mixF32R4AVX2, kvBF16: mixBF16R4AVX2, kvI8: mixI8R4AVX2}},
		{6, scoresR6AVX2, mixKernels{kvF32: mixF32R6AVX2, kvBF16: mixBF16R6AVX2, kvI8: mixI8R6AVX2}},
	},
	softmax: softmaxAVX2,
	finish:  finishAVX2,
	expShift: func(x []float32, shift float32) float32 {
		if len(x) == 0 {
			return 0
		}
		var lanes [16]float32
		expShiftAVX2(&x[0], len(x), shift, &lanes[0])
		return sumLanes(&lanes)
	},
	largest: func(x []float32) (float32, bool) {
		lanes := negativeLanes
		nan := largestAVX2(&x[0], len(x), &lanes[0])
		value, _ := largest(lanes[:])
		return value, nan != 0
	},
	massAbove: func(values, weights []float32, floor float32) float64 {
		var lanes [8]float64
		massAboveAVX2(&values[0], &weights[:len(values)][0], len(values), floor, &lanes[0])
		return sumDoubles(&lanes)
	},
	chances: func(marks []byte, weights []float32, key uint64, first int32, bound float64) {
		chancesAVX2(&marks[0], &weights[:8*len(marks)][0], 8*len(marks), ref.NoiseState(key, first), bound)
	},
	divide: func(x []float32, by float32) { divideAVX2(&x[0], len(x), by) },
	squares: func(x []float32) float64 {
		whole := len(x) &^ 15
		var lanes [8]float64
		if whole > 0 {
			squaresAVX2(&x[0], whole, &lanes[0])
		}
		return sumDoubles(&lanes) + squares(x[whole:])
	},
	scaleRow: func(out, x, weight []float32, scale, offset float32) {
		whole := len(out) &^ 15
		if whole > 0 {
			scaleRowAVX2(&out[0], &x[:len(out)][0], &weight[:len(out)][0], whole, scale, offset)
		}
		scaleRow(out[whole:], x[whole:], weight[whole:], scale, offset)
	},
	addTo: func(dst, src []float32) {
		whole := len(dst) &^ 15
		if whole > 0 {
			addToAVX2(&dst[0], &src[:len(dst)][0], whole)
		}
		addTo(dst[whole:], src[whole:])
	},
	gates: [2]func(out, gate, up []float32){
		gpu.SiLU:     func(out, gate, up []float32) { siluAVX2(&out[0], &gate[0], &up[:len(out)][0], len(out)) },
		gpu.GELUTanh: func(out, gate, up []float32) { geluAVX2(&out[0], &gate[0], &up[:len(out)][0], len(out)) },
	},
}

// interleave4Rows is the AVX2 tier's interleave4.
func interleave4Rows(dst []float32, width int, a, b, c, d []float32) {
	whole := len(a) &^ 7
	if whole > 0 {
		interleave4AVX2(&dst[:(whole-1)*width+4][0], uintptr(4*width), &a[0], &b[:whole][0], &c[:whole][0], &d[:whole][0], whole)
	}
	if whole < len(a) {
		interleave4(dst[whole*width:], width, a[whole:], b[whole:], c[whole:], d[whole:])
	}
}

var avx512Tier = tier{
	name: "avx512", doc: "AVX-512 assembly",
	macsPerNs: 25, bytesPerNs: 20, gatesPerNs: 3,
	quant: bestQuant(),
	read:  readLoopAVX512, fma: fmaLoopAVX512, lanes: 16,
	tiles: map[gpu.DType][]tile{
		gpu.BF16: {
			{tokens: 1, panels: 8, many: matmulBF16T1P8AVX512, one: matmulBF16T1P1AVX512},
			{tokens: 2, panels: 4, many: matmulBF16T2P4AVX512, one: matmulBF16T2P1AVX512},
			{tokens: 4, panels: 4, many: matmulBF16T4P4AVX512, one: matmulBF16T4P1AVX512},
			{tokens: 8, panels: 2, many: matmulBF16T8P2AVX512, one: matmulBF16T8P1AVX512},
			{tokens: 12, panels: 2, many: matmulBF16T12P2AVX512, one: matmulBF16T12P1AVX512},
		},
		gpu.F16: {
			{tokens: 1, panels: 8, many: matmulF16T1P8AVX512, one: matmulF16T1P1AVX512},
			{tokens: 2, panels: 4, many: matmulF16T2P4AVX512, one: matmulF16T2P1AVX512},
			{tokens: 4, panels: 4, many: matmulF16T4P4AVX512, one: matmulF16T4P1AVX512},
			{tokens: 8, panels: 2, many: matmulF16T8P2AVX512, one: matmulF16T8P1AVX512},
			{tokens: 12, panels: 2, many: matmulF16T12P2AVX512, one: matmulF16T12P1AVX512},
		},
		gpu.F32: {
			{tokens: 1, panels: 8, many: matmulF32T1P8AVX512, one: matmulF32T1P1AVX512},
			{tokens: 2, panels: 4, many: matmulF32T2P4AVX512, one: matmulF32T2P1AVX512},
			{tokens: 4, panels: 4, many: matmulF32T4P4AVX512, one: matmulF32T4P1AVX512},
			{tokens: 8, panels: 2, many: matmulF32T8P2AVX512, one: matmulF32T8P1AVX512},
			{tokens: 12, panels: 2, many: matmulF32T12P2AVX512, one: matmulF32T12P1AVX512},
		},
	},
	pairs: bestPairs(),
	rotate: func(heads, cos, sin []float32, dim int) {
		half := len(cos)
		if half == 0 || half%16 != 0 {
			avx2Tier.rotate(heads, cos, sin, dim)
			return
		}
		rotateAVX512(&heads[0], &cos[0], &sin[:half][0], half, len(heads)/dim, dim)
	},
	narrow: func(dst []uint16, src []float32) {
		whole := len(src) &^ 15
		if whole > 0 {
			narrowAVX512(&dst[:whole][0], &src[0], whole)
		}
		narrow(dst[whole:], src[whole:])
	},
	codes: func(codes []byte, x []float32) float32 {
		if len(x) == 0 || len(x)%16 != 0 {
			return codesOf(codes, x)
		}
		var largest float32
		codesAVX512(&codes[:len(x)][0], &x[0], len(x), &largest)
		return largest
	},
	prefetch: func(x []byte) { prefetchAVX512(&x[0], len(x)) },
	interleave4: func(dst []float32, width int, a, b, c, d []float32) {
		whole := len(a) &^ 15
		if whole > 0 {
			interleave4AVX512(&dst[:(whole-1)*width+4][0], uintptr(4*width), &a[0], &b[:whole][0], &c[:whole][0], &d[:whole][0], whole)
		}
		if whole < len(a) {
			interleave4(dst[whole*width:], width, a[whole:], b[whole:], c[whole:], d[whole:])
		}
	},
	transpose: [kvFormats]func(dst *float32, src, ahead *byte, dim int){kvF32: transposeF32AVX512, kvBF16: transposeBF16AVX512, kvI8: transposeI8AVX512},
	rows: []rowKernel{
		{1, scoresR1AVX512, mixKernels{kvF32: mixF32R1AVX512, kvBF16: mixBF16R1AVX512, kvI8: mixI8R1AVX512}},
		{2, scoresR2AVX512, mixKernels{kvF32: mixF32R2AVX512, kvBF16: mixBF16R2AVX512, kvI8: mixI8R2AVX512}},
		{3, scoresR3AVX512, mixKernels{kvF32: mixF32R3AVX512, kvBF16: mixBF16R3AVX512, kvI8: mixI8R3AVX512}},
		{4, scoresR4AVX512, mixKernels{kvF32: mixF32R4AVX512, kvBF16: mixBF16R4AVX512, kvI8: mixI8R4AVX512}},
		{6, scoresR6AVX512, mixKernels{kvF32: mixF32R6AVX512, kvBF16: mixBF16R6AVX512, kvI8: mixI8R6AVX512}},
		{12, scoresR12AVX512, mixKernels{kvF32: mixF32R12AVX512, kvBF16: mixBF16R12AVX512, kvI8: mixI8R12AVX512}},
	},
	softmax: softmaxAVX512,
	finish:  finishAVX512,
	expShift: func(x []float32, shift float32) float32 {
		if len(x) == 0 {
			return 0
		}
		var lanes [16]float32
		expShiftAVX512(&x[0], len(x), shift, &lanes[0])
		return sumLanes(&lanes)
	},
	largest: func(x []float32) (float32, bool) {
		lanes := negativeLanes
		nan := largestAVX512(&x[0], len(x), &lanes[0])
		value, _ := largest(lanes[:])
		return value, nan != 0
	},
	massAbove: func(values, weights []float32, floor float32) float64 {
		var lanes [8]float64
		massAboveAVX512(&values[0], &weights[:len(values)][0], len(values), floor, &lanes[0])
		return sumDoubles(&lanes)
	},
	chances: func(marks []byte, weights []float32, key uint64, first int32, bound float64) {
		chancesAVX512(&marks[0], &weights[:8*len(marks)][0], 8*len(marks), ref.NoiseState(key, first), bound)
	},
	divide: func(x []float32, by float32) { divideAVX512(&x[0], len(x), by) },
	squares: func(x []float32) float64 {
		whole := len(x) &^ 15
		var lanes [8]float64
		if whole > 0 {
			squaresAVX512(&x[0], whole, &lanes[0])
		}
		return sumDoubles(&lanes) + squares(x[whole:])
	},
	scaleRow: func(out, x, weight []float32, scale, offset float32) {
		whole := len(out) &^ 15
		if whole > 0 {
			scaleRowAVX512(&out[0], &x[:len(out)][0], &weight[:len(out)][0], whole, scale, offset)
		}
		scaleRow(out[whole:], x[whole:], weight[whole:], scale, offset)
	},
	addTo: func(dst, src []float32) {
		whole := len(dst) &^ 15
		if whole > 0 {
			addToAVX512(&dst[0], &src[:len(dst)][0], whole)
		}
		addTo(dst[whole:], src[whole:])
	},
	gates: [2]func(out, gate, up []float32){
		gpu.SiLU:     func(out, gate, up []float32) { siluAVX512(&out[0], &gate[0], &up[:len(out)][0], len(out)) },
		gpu.GELUTanh: func(out, gate, up []float32) { geluAVX512(&out[0], &gate[0], &up[:len(out)][0], len(out)) },
	},
}

var negativeLanes = func() (lanes [16]float32) {
	for i := range lanes {
		lanes[i] = negativeInfinity
	}
	return lanes
}()

// sumDoubles adds the lanes of one AVX-512 or two AVX2 vectors.
func sumDoubles(l *[8]float64) float64 {
	return (l[0] + l[4]) + (l[1] + l[5]) + (l[2] + l[6]) + (l[3] + l[7])
}

// bestPairs is what the AVX-512 tier uses: its own kernels need the instructions for bfloat16.
func bestPairs() []tile {
	if !cpu.X86.HasAVX512BF16 {
		return avx2Tier.pairs
	}
	return []tile{
		{tokens: 1, panels: 8, many: matmulPairT1P8AVX512, one: matmulPairT1P1AVX512},
		{tokens: 2, panels: 4, many: matmulPairT2P4AVX512, one: matmulPairT2P1AVX512},
		{tokens: 4, panels: 4, many: matmulPairT4P4AVX512, one: matmulPairT4P1AVX512},
		{tokens: 8, panels: 2, many: matmulPairT8P2AVX512, one: matmulPairT8P1AVX512},
		{tokens: 12, panels: 2, many: matmulPairT12P2AVX512, one: matmulPairT12P1AVX512},
	}
}
