package cpu

import (
	"fmt"
	"math"

	"github.com/troupe-engine/troupe/gpu"
)

// matrix is a weight W[n, k] in panels of 16 rows: data is [panel][k][16], so that one step
// along k is one contiguous load. Rows past n are zero.
type matrix struct {
	dtype gpu.DType
	n, k  int
	pairs bool // bfloat16 whose steps are of two elements, [panel][k/2][16][2]: see Options.Compute
	data  []byte
}

// steps is the number of steps along k of a matrix that is not quantized, and stepBytes what a row has of each.
func (m *matrix) steps() int {
	if m.pairs {
		return m.k / 2
	}
	return m.k
}

func (m *matrix) stepBytes() int { return m.k / m.steps() * m.dtype.Size() }

func (m *matrix) panels() int { return (m.n + panelRows - 1) / panelRows }

// panelBytes is the size of one panel.
func (m *matrix) panelBytes() int {
	if f := quantFormats[m.dtype]; f != nil {
		return m.k / f.unitLen() * f.unitBytes()
	}
	return m.k * panelRows * m.dtype.Size()
}

// PackMatrix implements gpu.Device.
func (d *Device) PackMatrix(name string, dtype gpu.DType, n, k int, parts ...[]byte) (gpu.Tensor, error) {
	if dtype != gpu.F32 && dtype != gpu.F16 && dtype != gpu.BF16 && quantFormats[dtype] == nil {
		return gpu.Tensor{}, fmt.Errorf("%w: weight %q has type %v; the cpu device multiplies f32, f16, bf16, q8_0, q4_0, q4_1, q4_k and q6_k",
			gpu.ErrNotSupported, name, dtype)
	}
	elements, size := dtype.Block()
	if n <= 0 || k <= 0 || k%elements != 0 || int64(k) > math.MaxInt/int64(panelRows*size)/(int64(n)+panelRows) {
		return gpu.Tensor{}, fmt.Errorf("cpu: weight %q has impossible shape [%d, %d] for %v", name, n, k, dtype)
	}
	row, total := k/elements*size, 0
	for i, part := range parts {
		if len(part)%row != 0 {
			return gpu.Tensor{}, fmt.Errorf("cpu: weight %q: part %d has %d bytes, not whole rows of %d (k=%d, %v)",
				name, i, len(part), row, k, dtype)
		}
		total += len(part)
	}
	if total != n*row {
		return gpu.Tensor{}, fmt.Errorf("cpu: weight %q [%d, %d] %v needs %d bytes, got %d", name, n, k, dtype, n*row, total)
	}
	m := &matrix{dtype: dtype, n: n, k: k, pairs: d.pairs && dtype == gpu.BF16 && k%2 == 0}
	bytes := int64(m.panels()) * int64(m.panelBytes())
	b, err := d.pack(m, parts)
	if err != nil {
		return gpu.Tensor{}, fmt.Errorf("weight %q: %w", name, err)
	}
	t := d.table.Put(b, bytes, name, dtype, n, k)
	t.Packed = true
	return t, nil
}

// packRows fills panels from row blocks.
type packRows struct {
	m     *matrix
	parts [][]byte
}

func (p *packRows) run(_, from, to int) {
	if f := quantFormats[p.m.dtype]; f != nil {
		p.quantized(f, from, to)
		return
	}
	size := p.m.stepBytes()
	for panel := from; panel < to; panel++ {
		dst := p.m.data[panel*p.m.panelBytes():][:p.m.panelBytes()]
		for r := range min(panelRows, p.m.n-panel*panelRows) {
			src := p.row(panel*panelRows+r, p.m.steps()*size)
			if size == 2 {
				interleave[[2]byte](dst, src, r)
			} else {
				interleave[[4]byte](dst, src, r)
			}
		}
	}
}

// quantized fills panels of a quantized type, unit by unit.
func (p *packRows) quantized(f *quantFormat, from, to int) {
	_, size := p.m.dtype.Block()
	units := p.m.k / f.unitLen()
	for panel := from; panel < to; panel++ {
		dst := p.m.data[panel*p.m.panelBytes():][:p.m.panelBytes()]
		for r := range min(panelRows, p.m.n-panel*panelRows) {
			src := p.row(panel*panelRows+r, units*size)
			for u := range units {
				f.pack(f, dst[u*f.unitBytes():][:f.unitBytes()], r, src[u*size:][:size])
			}
		}
	}
}

// row returns row i of the stacked parts.
func (p *packRows) row(i, rowBytes int) []byte {
	at := i * rowBytes
	for _, part := range p.parts {
		if at < len(part) {
			return part[at : at+rowBytes]
		}
		at -= len(part)
	}
	panic("cpu: PackMatrix: row past the parts") // the byte count was checked
}

// interleave stores the elements of src as row r of a panel.
func interleave[E [2]byte | [4]byte](panel, src []byte, r int) {
	dst, elements := cast[E](panel), cast[E](src)
	for i, e := range elements {
		dst[i*panelRows+r] = e
	}
}
