package cpu

import (
	"github.com/troupe-engine/troupe/gpu"
	"golang.org/x/sys/cpu"
)

// bestQuant is what the AVX-512 tier uses: its own kernels need VNNI.
func bestQuant() *quantTier {
	if cpu.X86.HasAVX512VNNI {
		return &avx512Quant
	}
	return &avx2Quant
}

func quantizeAVX2(codes []byte, largest []float32, sums []int32, x []float32) {
	blocks := len(x) / quantLen
	quantizeRowAVX2(&codes[:len(x)][0], &largest[:blocks][0], &sums[:2*blocks][0], &x[0], blocks)
}

func quantizeFineAVX2(codes, low []byte, largest []float32, sums []int32, x []float32) {
	blocks := len(x) / quantLen
	quantizeFineRowAVX2(&codes[:len(x)][0], &low[:len(x)][0], &largest[:blocks][0], &sums[:2*blocks][0], &x[0], blocks)
}

var avx2Quant = quantTier{
	quantize:     quantizeAVX2,
	quantizeFine: quantizeFineAVX2,
	interleave4:  interleave4Rows,
	tiles: map[gpu.DType][]quantTile{
		gpu.Q8_0: {
			{tokens: 1, panels: 1, many: quantQ8_0T1P1AVX2, one: quantQ8_0T1P1AVX2},
			{tokens: 2, panels: 1, many: quantQ8_0T2P1AVX2, one: quantQ8_0T2P1AVX2},
			{tokens: 4, panels: 1, many: quantQ8_0T4P1AVX2, one: quantQ8_0T4P1AVX2},
		},
		gpu.Q4_0: {
			{tokens: 1, panels: 1, many: quantQ4_0T1P1AVX2, one: quantQ4_0T1P1AVX2},
			{tokens: 2, panels: 1, many: quantQ4_0T2P1AVX2, one: quantQ4_0T2P1AVX2},
			{tokens: 4, panels: 1, many: quantQ4_0T4P1AVX2, one: quantQ4_0T4P1AVX2},
		},
		gpu.Q4_1: {
			{tokens: 1, panels: 1, many: quantQ4_1T1P1AVX2, one: quantQ4_1T1P1AVX2},
			{tokens: 2, panels: 1, many: quantQ4_1T2P1AVX2, one: quantQ4_1T2P1AVX2},
			{tokens: 4, panels: 1, many: quantQ4_1T4P1AVX2, one: quantQ4_1T4P1AVX2},
		},
		gpu.Q4_K: {
			{tokens: 1, panels: 1, many: quantQ4_KT1P1AVX2, one: quantQ4_KT1P1AVX2},
			{tokens: 2, panels: 1, many: quantQ4_KT2P1AVX2, one: quantQ4_KT2P1AVX2},
			{tokens: 4, panels: 1, many: quantQ4_KT4P1AVX2, one: quantQ4_KT4P1AVX2},
		},
		gpu.Q6_K: {
			{tokens: 1, panels: 1, many: quantQ6_KT1P1AVX2, one: quantQ6_KT1P1AVX2},
			{tokens: 2, panels: 1, many: quantQ6_KT2P1AVX2, one: quantQ6_KT2P1AVX2},
			{tokens: 3, panels: 1, many: quantQ6_KT3P1AVX2, one: quantQ6_KT3P1AVX2},
		},
	},
}

var avx512Quant = quantTier{
	quantize:     quantizeAVX2,
	quantizeFine: quantizeFineAVX2,
	interleave4:  interleave4Rows,
	tiles: map[gpu.DType][]quantTile{
		gpu.Q8_0: {
			{tokens: 1, panels: 4, many: quantQ8_0T1P4AVX512, one: quantQ8_0T1P1AVX512},
			{tokens: 2, panels: 4, many: quantQ8_0T2P4AVX512, one: quantQ8_0T2P1AVX512},
			{tokens: 4, panels: 2, many: quantQ8_0T4P2AVX512, one: quantQ8_0T4P1AVX512},
			{tokens: 8, panels: 1, many: quantQ8_0T8P1AVX512, one: quantQ8_0T8P1AVX512},
			{tokens: 12, panels: 1, many: quantQ8_0T12P1AVX512, one: quantQ8_0T12P1AVX512},
		},
		gpu.Q4_0: {
			{tokens: 1, panels: 4, many: quantQ4_0T1P4AVX512, one: quantQ4_0T1P1AVX512},
			{tokens: 2, panels: 4, many: quantQ4_0T2P4AVX512, one: quantQ4_0T2P1AVX512},
			{tokens: 4, panels: 2, many: quantQ4_0T4P2AVX512, one: quantQ4_0T4P1AVX512},
			{tokens: 8, panels: 1, many: quantQ4_0T8P1AVX512, one: quantQ4_0T8P1AVX512},
			{tokens: 12, panels: 1, many: quantQ4_0T12P1AVX512, one: quantQ4_0T12P1AVX512},
		},
		gpu.Q4_1: {
			{tokens: 1, panels: 4, many: quantQ4_1T1P4AVX512, one: quantQ4_1T1P1AVX512},
			{tokens: 2, panels: 4, many: quantQ4_1T2P4AVX512, one: quantQ4_1T2P1AVX512},
			{tokens: 4, panels: 2, many: quantQ4_1T4P2AVX512, one: quantQ4_1T4P1AVX512},
			{tokens: 8, panels: 1, many: quantQ4_1T8P1AVX512, one: quantQ4_1T8P1AVX512},
			{tokens: 12, panels: 1, many: quantQ4_1T12P1AVX512, one: quantQ4_1T12P1AVX512},
		},
		gpu.Q4_K: {
			{tokens: 1, panels: 4, many: quantQ4_KT1P4AVX512, one: quantQ4_KT1P1AVX512},
			{tokens: 2, panels: 4, many: quantQ4_KT2P4AVX512, one: quantQ4_KT2P1AVX512},
			{tokens: 4, panels: 2, many: quantQ4_KT4P2AVX512, one: quantQ4_KT4P1AVX512},
			{tokens: 8, panels: 1, many: quantQ4_KT8P1AVX512, one: quantQ4_KT8P1AVX512},
			{tokens: 12, panels: 1, many: quantQ4_KT12P1AVX512, one: quantQ4_KT12P1AVX512},
		},
		gpu.Q6_K: {
			{tokens: 1, panels: 4, many: quantQ6_KT1P4AVX512, one: quantQ6_KT1P1AVX512},
			{tokens: 2, panels: 2, many: quantQ6_KT2P2AVX512, one: quantQ6_KT2P1AVX512},
			{tokens: 4, panels: 1, many: quantQ6_KT4P1AVX512, one: quantQ6_KT4P1AVX512},
			{tokens: 8, panels: 1, many: quantQ6_KT8P1AVX512, one: quantQ6_KT8P1AVX512},
		},
	},
}
