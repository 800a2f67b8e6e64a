package cuda

import (
	"fmt"
	"math"

	"github.com/troupe-engine/troupe/gpu"
)

// fillArgs is FillArgs in quantize.cu.
type fillArgs struct {
	out         uintptr
	n           int64
	seed        uint64
	mask, value uint32
}

// randomCodes are the random bits of codes, by their type: which of them are drawn, and the root mean square of what
// they are then without a scale. 8-bit floats are drawn below 2, where there is no NaN.
func (f *quantFormat) randomCodes() (mask uint32, rms float64) {
	switch {
	case f.floats:
		return 0xbfbfbfbf, 0.6237
	case f.bits == 8:
		return 0xffffffff, 73.9
	}
	return 0xffffffff, 4.637 // less 8
}

// randomQuantized allocates a packed matrix of random codes, evenly distributed, with one scale for all, which gives
// them the spread. They are for measurements: no other device makes the same.
func (d *Device) randomQuantized(name string, dtype gpu.DType, seed uint64, spread float32, n, k int) (gpu.Tensor, error) {
	t, err := d.packQuantized(name, dtype, n, k, nil)
	if err != nil {
		return gpu.Tensor{}, err
	}
	if err := d.enter(); err != nil {
		return gpu.Tensor{}, err
	}
	defer d.leave()
	b := d.table.Get(t)
	l := b.weight.quant
	f := l.format
	mask, rms := f.randomCodes()
	scale := float32(float64(spread) / rms)
	half := uint32(toHalf(scale))
	shared := map[int]uint32{rowScale: math.Float32bits(scale), groupFloat: math.Float32bits(scale), groupScale: half | half<<16, groupZero: half | (quantOffset+8)<<16,
		groupMinimum: half | uint32(toHalf(-8*scale))<<16}[f.shared]
	if err := d.fill(b.block.address, l.meta, seed, mask, 0); err != nil {
		return gpu.Tensor{}, err
	}
	return t, d.fill(b.block.address+uintptr(l.meta), l.bytes-l.meta, 0, 0, shared)
}

// fill writes random bits where mask has ones, and value's elsewhere.
func (d *Device) fill(address uintptr, bytes int64, seed uint64, mask, value uint32) error {
	const word = 4
	if bytes%word != 0 {
		panic(fmt.Sprintf("cuda: fill of %d bytes", bytes))
	}
	blocks := min(ceilDiv(int(bytes/word), threadsPerBlock), 16*d.properties.multiprocessors)
	return run(d, d.functions["fill_words"], grid{blocks, 1, 1}, threadsPerBlock, 0, fillArgs{out: address, n: bytes / word, seed: seed, mask: mask, value: value})
}
