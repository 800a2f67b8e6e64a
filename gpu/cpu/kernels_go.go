package cpu

import (
	"math"
	"unsafe"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/ref"
)

// goTier is the portable tier: the fallback everywhere, and the twin that the assembly of the
// others is tested against.
var goTier = tier{
	name: "go", doc: "portable Go",
	macsPerNs: 1, bytesPerNs: 2, gatesPerNs: 0.2,
	quant: &goQuant,
	tiles: map[gpu.DType][]tile{
		gpu.BF16: {{tokens: 1, panels: 1, many: panelBF16, one: panelBF16}},
		gpu.F16:  {{tokens: 1, panels: 1, many: panelF16, one: panelF16}},
		gpu.F32:  {{tokens: 1, panels: 1, many: panelF32, one: panelF32}},
	},
	pairs:       []tile{{tokens: 1, panels: 1, many: panelPair, one: panelPair}},
	rotate:      rotate,
	narrow:      narrow,
	codes:       codesOf,
	prefetch:    func([]byte) {}, // Go has no way to say it
	interleave4: interleave4,
	transpose:   [kvFormats]func(dst *float32, src, ahead *byte, dim int){kvF32: transposeF32, kvBF16: transposeBF16, kvI8: transposeI8},
	rows: []rowKernel{{rows: 1, scores: scoresRow,
		mix: mixKernels{kvF32: mixRowF32, kvBF16: mixRowBF16, kvI8: mixRowI8}}},
	softmax:   softmaxRows,
	finish:    finishRows,
	expShift:  expShift,
	largest:   largest,
	massAbove: massAbove,
	chances:   chances,
	divide:    divide,
	squares:   squares,
	scaleRow:  scaleRow,
	addTo:     addTo,
	gates:     [2]func(out, gate, up []float32){gpu.SiLU: siluGate, gpu.GELUTanh: geluGate},
}

// The three below are the loop that tile describes, for one token and one panel. Four rows at a
// time keep their sums in registers.

func panelBF16(out *float32, _ uintptr, w *byte, _ uintptr, x *float32, k, mode int) {
	rows := unsafe.Slice((*[panelRows]uint16)(unsafe.Pointer(w)), k)
	for r := 0; r < panelRows; r += 4 {
		sums := resume(out, r, mode)
		s0, s1, s2, s3 := sums[0], sums[1], sums[2], sums[3]
		for i, v := range unsafe.Slice(x, k) {
			row := (*[4]uint16)(rows[i][r:])
			s0 += v * bf16(row[0])
			s1 += v * bf16(row[1])
			s2 += v * bf16(row[2])
			s3 += v * bf16(row[3])
		}
		finishPanel(out, r, mode, [4]float32{s0, s1, s2, s3})
	}
}

func panelF16(out *float32, _ uintptr, w *byte, _ uintptr, x *float32, k, mode int) {
	rows := unsafe.Slice((*[panelRows]uint16)(unsafe.Pointer(w)), k)
	for r := 0; r < panelRows; r += 4 {
		sums := resume(out, r, mode)
		s0, s1, s2, s3 := sums[0], sums[1], sums[2], sums[3]
		for i, v := range unsafe.Slice(x, k) {
			row := (*[4]uint16)(rows[i][r:])
			s0 += v * f16(row[0])
			s1 += v * f16(row[1])
			s2 += v * f16(row[2])
			s3 += v * f16(row[3])
		}
		finishPanel(out, r, mode, [4]float32{s0, s1, s2, s3})
	}
}

func panelF32(out *float32, _ uintptr, w *byte, _ uintptr, x *float32, k, mode int) {
	rows := unsafe.Slice((*[panelRows]float32)(unsafe.Pointer(w)), k)
	for r := 0; r < panelRows; r += 4 {
		sums := resume(out, r, mode)
		s0, s1, s2, s3 := sums[0], sums[1], sums[2], sums[3]
		for i, v := range unsafe.Slice(x, k) {
			row := (*[4]float32)(rows[i][r:])
			s0 += v * row[0]
			s1 += v * row[1]
			s2 += v * row[2]
			s3 += v * row[3]
		}
		finishPanel(out, r, mode, [4]float32{s0, s1, s2, s3})
	}
}

// panelPair is the loop for pairs of bfloat16: both products are added in order.
func panelPair(out *float32, _ uintptr, w *byte, _ uintptr, x *float32, k, mode int) {
	rows := unsafe.Slice((*[panelRows][2]uint16)(unsafe.Pointer(w)), k)
	pairs := unsafe.Slice((*[2]uint16)(unsafe.Pointer(x)), k)
	for r := 0; r < panelRows; r += 4 {
		sums := resume(out, r, mode)
		for i, pair := range pairs {
			row := (*[4][2]uint16)(rows[i][r:])
			for j, p := range pair {
				v := bf16(p)
				sums[0] += v * bf16(row[0][j])
				sums[1] += v * bf16(row[1][j])
				sums[2] += v * bf16(row[2][j])
				sums[3] += v * bf16(row[3][j])
			}
		}
		finishPanel(out, r, mode, sums)
	}
}

func rotate(heads, cos, sin []float32, dim int) {
	half := len(cos)
	sin = sin[:half]
	for ; len(heads) >= dim; heads = heads[dim:] {
		low, high := heads[:half], heads[half:][:half]
		for i, c := range cos {
			u, v, s := low[i], high[i], sin[i]
			low[i] = u*c - v*s
			high[i] = v*c + u*s
		}
	}
}

func narrow(dst []uint16, src []float32) {
	dst = dst[:len(src)]
	for i, v := range src {
		dst[i] = toBF16(v)
	}
}

// resume returns what four sums begin with.
func resume(out *float32, r, mode int) (sums [4]float32) {
	if mode == panelResume {
		copy(sums[:], unsafe.Slice(out, panelRows)[r:])
	}
	return sums
}

func finishPanel(out *float32, r, mode int, sums [4]float32) {
	to := unsafe.Slice(out, panelRows)[r:][:4]
	for i, v := range sums {
		if mode == panelAdd {
			v += to[i]
		}
		to[i] = v
	}
}

func expShift(x []float32, shift float32) float32 {
	var s0, s1, s2, s3 float32
	for ; len(x) >= 4; x = x[4:] {
		e0, e1, e2, e3 := exp32(x[0]-shift), exp32(x[1]-shift), exp32(x[2]-shift), exp32(x[3]-shift)
		x[0], x[1], x[2], x[3] = e0, e1, e2, e3
		s0 += e0
		s1 += e1
		s2 += e2
		s3 += e3
	}
	return (s0 + s1) + (s2 + s3)
}

func largest(x []float32) (value float32, nan bool) {
	value = negativeInfinity
	for _, v := range x {
		if v > value {
			value = v
		} else if v != v {
			nan = true
		}
	}
	return value, nan
}

func siluGate(out, gate, up []float32) {
	for i, g := range gate {
		out[i] = g / (1 + exp32(-g)) * up[i]
	}
}

// geluGate uses 1 + tanh(z) = 2 / (1 + e^-2z).
func geluGate(out, gate, up []float32) {
	const twice = 2 * math.Sqrt2 / math.SqrtPi // 2 * sqrt(2/pi)
	for i, g := range gate {
		out[i] = g / (1 + exp32(-twice*(g+0.044715*g*g*g))) * up[i]
	}
}

func massAbove(values, weights []float32, floor float32) (mass float64) {
	weights = weights[:len(values)]
	for i, v := range values {
		if v >= floor {
			mass += float64(weights[i])
		}
	}
	return mass
}

func chances(marks []byte, weights []float32, key uint64, first int32, bound float64) {
	for m := range marks {
		mark := byte(0)
		for i, w := range weights[8*m:][:8] {
			bits := ref.NoiseBits(key, first+int32(8*m+i))
			if float64(^bits>>12) <= float64(w)*bound {
				mark |= 1 << i
			}
		}
		marks[m] = mark
	}
}

func divide(x []float32, by float32) {
	for i := range x {
		x[i] /= by
	}
}

// squares uses four chains: fixed for a given length, and not bound by one chain's latency.
func squares(x []float32) float64 {
	var s0, s1, s2, s3 float64
	for ; len(x) >= 4; x = x[4:] {
		v := x[:4:4]
		s0 += float64(v[0]) * float64(v[0])
		s1 += float64(v[1]) * float64(v[1])
		s2 += float64(v[2]) * float64(v[2])
		s3 += float64(v[3]) * float64(v[3])
	}
	for _, v := range x {
		s0 += float64(v) * float64(v)
	}
	return s0 + s1 + s2 + s3
}

func scaleRow(out, x, weight []float32, scale, offset float32) {
	x, weight = x[:len(out)], weight[:len(out)]
	for i := range out {
		out[i] = x[i] * scale * (weight[i] + offset)
	}
}

func addTo(dst, src []float32) {
	src = src[:len(dst)]
	for i := range dst {
		dst[i] += src[i]
	}
}
