package cpu

import (
	"math"
	"unsafe"

	"github.com/troupe-engine/troupe/gpu"
)

var goQuant = quantTier{
	tiles: map[gpu.DType][]quantTile{
		gpu.Q8_0: goQuantTiles(gpu.Q8_0), gpu.Q4_0: goQuantTiles(gpu.Q4_0), gpu.Q4_1: goQuantTiles(gpu.Q4_1),
		gpu.Q4_K: goQuantTiles(gpu.Q4_K), gpu.Q6_K: goQuantTiles(gpu.Q6_K),
	},
	quantize: quantize,
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
		blocks := unsafe.Slice((*activationBlock)(unsafe.Pointer(x)), units*f.blocks)
		for u := range units {
			unit := weights[u*f.unitBytes():][:f.unitBytes()]
			for b := range f.blocks {
				for r := range acc {
					acc[r] = blocks[u*f.blocks+b].add(acc[r], f.load(f, unit, b, r), f.minimum)
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

// activationBlock is a block in a tile of one token.
type activationBlock struct {
	codes       [quantLen]int8
	scale       float32
	corrections [2]uint32
}

// add returns sum with a block of weights times the activations. Its codes are without their zero, so
// the correction has nothing to do but where it is the sum for a minimum.
func (x *activationBlock) add(sum float32, w quantBlock, minimum bool) float32 {
	var dots [2]int32
	for i, q := range w.codes {
		dots[i/16] += q * int32(x.codes[i])
	}
	dot := w.weights[0]*dots[0] + w.weights[1]*dots[1]
	sum += float32(float32(dot) * float32(w.scale*x.scale))
	if minimum {
		sum += float32(w.minimum * math.Float32frombits(x.corrections[0]))
	}
	return sum
}

func quantize(codes []byte, largest []float32, sums []int32, x []float32) {
	for b := range len(x) / quantLen {
		block := x[b*quantLen:][:quantLen]
		top := uint32(0) // absolute values order like their bits, and NaN is above all
		for _, v := range block {
			top = max(top, math.Float32bits(v)&^(1<<31))
		}
		largest[b] = math.Float32frombits(top)
		factor := 127 / largest[b]
		var halves [2]int32
		for i, v := range block {
			q := int32(math.RoundToEven(float64(v * factor)))
			codes[b*quantLen+i] = byte(q)
			halves[i/16] += q
		}
		sums[2*b], sums[2*b+1] = halves[0], halves[1]
	}
}
