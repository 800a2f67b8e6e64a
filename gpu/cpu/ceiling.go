package cpu

import (
	"fmt"

	"github.com/troupe-engine/troupe/gpu"
)

// Ceilings are loops that compute nothing, which a measurement holds kernels to. They run on all threads of a device.
type Ceilings struct {
	d *Device
	t *tier
}

// Ceilings returns the loops of the device's tier, or gpu.ErrNotSupported where that has none: they are assembly.
func (d *Device) Ceilings() (*Ceilings, error) {
	if d.tier.read == nil {
		return nil, fmt.Errorf("%w: the cpu tier %q has no loops to compare kernels with", gpu.ErrNotSupported, d.tier.name)
	}
	return &Ceilings{d, d.tier}, nil
}

// readChunkBytes are read by one item; a multiple of what a round of the loop reads.
const readChunkBytes = 1 << 16

// Read reads a packed weight, but for the last bytes that fill no chunk, and returns how many bytes it read.
func (c *Ceilings) Read(weight gpu.Tensor) int {
	items := len(c.d.weight(weight).data) / readChunkBytes
	c.d.pool.do(&readTask{c.t.read, c.d.weight(weight).data}, items, 1)
	return items * readChunkBytes
}

type readTask struct {
	read   func(p *byte, n int)
	memory []byte
}

func (r *readTask) run(_, from, to int) {
	for i := from; i < to; i++ {
		r.read(&r.memory[i*readChunkBytes], readChunkBytes)
	}
}

// MultiplyAdd multiplies and adds float32 in registers, for about a millisecond, and returns the operations, two to
// a multiply-add.
func (c *Ceilings) MultiplyAdd() float64 {
	const rounds, items = 4000, 64
	c.d.pool.do(&fmaTask{c.t.fma, rounds}, items, 1)
	return 2 * fmaChains * float64(c.t.lanes) * rounds * items
}

// fmaChains are the vectors that a round of the loop adds to.
const fmaChains = 12

type fmaTask struct {
	fma    func(n int)
	rounds int
}

func (f *fmaTask) run(_, from, to int) {
	for range to - from {
		f.fma(f.rounds)
	}
}
