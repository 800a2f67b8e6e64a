package cpu

import (
	"encoding/binary"
	"math"
	"unsafe"

	"github.com/troupe-engine/troupe/gpu"
)

var goQuant = quantTier{
	tiles: map[gpu.DType][]quantTile{
		gpu.Q8_0: goQuantTiles(gpu.Q8_0), gpu.Q4_0: goQuantTiles(gpu.Q4_0), gpu.Q4_1: goQuantTiles(gpu.Q4_1),
		gpu.Q4_K: goQuantTiles(gpu.Q4_K), gpu.Q6_K: goQuantTiles(gpu.Q6_K),
	},
	quantize:     quantize,
	quantizeFine: quantizeFine,
	interleave4:  interleave4,
}

// goQuantTiles has the kernel for one token and one panel, which is the loop that all others agree with.
func goQuantTiles(dtype gpu.DType) []quantTile {
	f := quantFormats[dtype]
	kernel := func(out *float32, _ uintptr, w *byte, _ uintptr, x *byte, units, mode int) {
		to := (*[panelRows]float32)(unsafe.Pointer(out))
		var acc [panelRows]float32
		if mode == panelResume {
			acc = *to
		}
		weights := unsafe.Slice(w, units*f.unitBytes())
		size := f.activationBytes()
		blocks := unsafe.Slice(x, units*f.blocks*size)
		for u := range units {
			unit := weights[u*f.unitBytes():][:f.unitBytes()]
			for b := range f.blocks {
				x := f.activations(blocks[(u*f.blocks+b)*size:][:size])
				for r := range acc {
					acc[r] = x.add(acc[r], f.load(f, unit, b, r), f.minimum)
				}
			}
		}
		if mode == panelAdd {
			for r := range acc {
				acc[r] += to[r]
			}
		}
		*to = acc
	}
	return []quantTile{{tokens: 1, panels: 1, many: kernel, one: kernel}}
}

// activationBlock is a block of one token's activations.
type activationBlock struct {
	codes [quantLen]int32
	scale float32
	sum   float32 // of the activations, for a minimum
}

// activations reads a block from a tile of one token. Codes of weights are without their zero, so the corrections
// have nothing to do but where they are the sum for a minimum.
func (f *quantFormat) activations(block []byte) (x activationBlock) {
	for i := range x.codes {
		x.codes[i] = int32(int8(block[i]))
		if f.fine {
			x.codes[i] = fineBase*x.codes[i] + int32(int8(block[quantLen+i]))
		}
	}
	tail := block[len(block)-12:]
	x.scale = math.Float32frombits(binary.LittleEndian.Uint32(tail))
	if f.minimum {
		x.sum = math.Float32frombits(binary.LittleEndian.Uint32(tail[4:]))
	}
	return x
}

// add returns sum with a block of weights times the activations.
func (x *activationBlock) add(sum float32, w quantBlock, minimum bool) float32 {
	var dots [2]int32
	for i, q := range w.codes {
		dots[i/16] += q * x.codes[i]
	}
	dot := w.weights[0]*dots[0] + w.weights[1]*dots[1]
	sum += float32(float32(dot) * float32(w.scale*x.scale))
	if minimum {
		sum += float32(w.minimum * x.sum)
	}
	return sum
}

func quantize(codes []byte, largest []float32, sums []int32, x []float32) {
	quantizeSteps(largest, sums, x, 127, func(i int, q int32) { codes[i] = byte(q) })
}

func quantizeFine(codes, low []byte, largest []float32, sums []int32, x []float32) {
	quantizeSteps(largest, sums, x, fineMax, func(i int, q int32) {
		high := (q + fineBase/2) >> 7
		codes[i], low[i] = byte(high), byte(q-fineBase*high)
	})
}

// quantizeSteps rounds each block to multiples of its largest absolute value over steps.
func quantizeSteps(largest []float32, sums []int32, x []float32, steps float32, put func(i int, q int32)) {
	for b := range len(x) / quantLen {
		block := x[b*quantLen:][:quantLen]
		top := uint32(0) // absolute values order like their bits, and NaN is above all
		for _, v := range block {
			top = max(top, math.Float32bits(v)&^(1<<31))
		}
		largest[b] = math.Float32frombits(top)
		factor := steps / largest[b]
		var halves [2]int32
		for i, v := range block {
			q := int32(math.RoundToEven(float64(v * factor)))
			put(b*quantLen+i, q)
			halves[i/16] += q
		}
		sums[2*b], sums[2*b+1] = halves[0], halves[1]
	}
}
