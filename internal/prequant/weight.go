package prequant

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/internal/gguf"
	"github.com/troupe-engine/troupe/internal/mmap"
)

// Weight is a matrix as a checkpoint stores it. An element is scale * (code - zero), or with 8-bit floats scale * code.
// It is read-only and valid until the checkpoint is closed.
type Weight struct {
	Shape []int // rows, columns
	// Types are those of PackMatrix that hold the matrix as it is, but for scales rounded to float16 where
	// the type has such; the best is first. With none, Why says why.
	Types []gpu.DType
	Why   string

	name   string
	bits   int
	floats bool                        // codes are E4M3
	codes  func(row int, codes []byte) // unpacks a row, one code a byte
	scales grid[float32]
	zeros  grid[byte]
	order  []int // the group of each column, where that is not column / scales.columns
	halves []byte
	views  [][]byte // what it is made of
}

// grid has a number for every block of a matrix.
type grid[T float32 | byte] struct {
	values               []T
	rows, columns        int // of a block
	rowStride, colStride int // from the number of a block to its neighbour's
}

// one is the grid of a matrix that has one number.
func one[T float32 | byte](v T) grid[T] { return grid[T]{values: []T{v}, rows: 1, columns: 1} }

func (g *grid[T]) index(row, group int) int { return row/g.rows*g.rowStride + group*g.colStride }
func (g *grid[T]) at(row, group int) T      { return g.values[g.index(row, group)] }

// middle is the zero that codes count from if none is stored.
func middle(bits int) byte { return 1 << (bits - 1) }

// group is the group of a column.
func (w *Weight) group(column int) int {
	if w.order != nil {
		return w.order[column]
	}
	return column / w.scales.columns
}

// Bytes is the size of the tensors that it is made of.
func (w *Weight) Bytes() int {
	n := 0
	for _, v := range w.views {
		n += len(v)
	}
	return n
}

// Forget tells the system that the tensors it is made of are not needed in memory any more.
func (w *Weight) Forget() {
	for _, v := range w.views {
		mmap.Forget(v)
	}
}

// i4Types are the types of 4 bits by the columns that share a scale and a zero.
var i4Types = map[int]gpu.DType{32: gpu.I4_32, 64: gpu.I4_64, 128: gpu.I4_128}

// classify finds out which types hold the matrix.
func (w *Weight) classify() {
	k := w.Shape[1]
	whole := w.scales.columns >= k
	if w.floats {
		elements, _ := gpu.E4M3_128.Block()
		switch {
		case whole:
			w.Types = []gpu.DType{gpu.E4M3}
		case w.scales.columns%elements != 0:
			w.Why = fmt.Sprintf("8-bit floats with a scale for %d by %d of them", w.scales.rows, w.scales.columns)
		case k%elements != 0:
			w.Why = fmt.Sprintf("8-bit floats with scales of blocks, in rows of %d", k)
		default:
			w.Types = []gpu.DType{gpu.E4M3_128}
		}
		return
	}
	block := 128
	for block >= 32 && (k%block != 0 || !whole && w.scales.columns%block != 0) {
		block /= 2
	}
	w.halves, _ = gguf.Quantize(gguf.F16, nil, w.scales.values) // a plain type takes everything
	centred := w.bits == 4 || allEqual(w.zeros.values, middle(8))
	if w.order == nil && centred && w.bits == 8 && whole {
		w.Types = append(w.Types, gpu.I8)
	}
	switch {
	case w.order != nil:
		w.Why = "columns that are in groups out of order (act-order)"
	case !centred:
		w.Why = "integers of 8 bits that count from zeros of their own"
	case block < 32:
		w.Why = fmt.Sprintf("groups of %d of %d columns", w.scales.columns, k)
	case !halvesHold(w.halves, w.scales.values):
		w.Why = "scales that float16 cannot hold"
	default:
		if w.bits == 4 {
			w.Types = append(w.Types, i4Types[block])
		}
		w.Types = append(w.Types, gpu.Q8_0)
	}
	if len(w.Types) > 0 {
		w.Why = ""
	}
}

func allEqual(values []byte, v byte) bool {
	for _, x := range values {
		if x != v {
			return false
		}
	}
	return true
}

// halvesHold reports whether values are within rounding of their float16, none having become too large, or small.
func halvesHold(halves []byte, values []float32) bool {
	const rounding = 0x1p-11
	back := make([]float32, len(values))
	gguf.Dequantize(gguf.F16, back, halves)
	for i, v := range values {
		if !(math.Abs(float64(back[i])-float64(v)) <= rounding*math.Abs(float64(v))) {
			return false
		}
	}
	return true
}

// Rows returns the matrix as PackMatrix takes it, in one of Types. It uses all processors.
func (w *Weight) Rows(dtype gpu.DType) ([]byte, error) {
	n, k := w.Shape[0], w.Shape[1]
	size := dtype.RowBytes(k)
	write := w.writeI4
	switch dtype {
	case gpu.E4M3, gpu.I8:
		write = w.writeScaled
	case gpu.E4M3_128:
		write = w.writeE4M3Blocks
	case gpu.Q8_0:
		write = w.writeQ8
	}
	out := make([]byte, n*size)
	return out, w.each(func(row int, codes []byte) error {
		write(row, codes, out[row*size:][:size])
		return nil
	})
}

// writeScaled makes a row of E4M3 or I8.
func (w *Weight) writeScaled(row int, codes, out []byte) {
	k := copy(out, codes)
	if !w.floats {
		for i := range out[:k] {
			out[i] ^= middle(8)
		}
	}
	binary.LittleEndian.PutUint32(out[k:], math.Float32bits(w.scales.at(row, 0)))
}

// writeE4M3Blocks makes a row of E4M3_128.
func (w *Weight) writeE4M3Blocks(row int, codes, out []byte) {
	block, size := gpu.E4M3_128.Block()
	for c := 0; c < len(codes); c += block {
		binary.LittleEndian.PutUint32(out, math.Float32bits(w.scales.at(row, w.group(c))))
		copy(out[size-block:], codes[c:][:block])
		out = out[size:]
	}
}

// half is the scale of a group as a float16.
func (w *Weight) half(row, group int) []byte { return w.halves[2*w.scales.index(row, group):][:2] }

// writeQ8 makes a row of Q8_0.
func (w *Weight) writeQ8(row int, codes, out []byte) {
	const block = 32
	for c := 0; c < len(codes); c += block {
		g := w.group(c)
		zero := w.zeros.at(row, g)
		out = out[copy(out, w.half(row, g)):]
		for i, q := range codes[c:][:block] {
			out[i] = q - zero
		}
		out = out[block:]
	}
}

// writeI4 makes a row of one of the I4 types.
func (w *Weight) writeI4(row int, codes, out []byte) {
	block, _ := w.Types[0].Block()
	for c := 0; c < len(codes); c += block {
		g := w.group(c)
		copy(out, w.half(row, g))
		out[2], out[3] = w.zeros.at(row, g), 0
		q := codes[c:][:block]
		for i := range block / 2 {
			out[4+i] = q[i] | q[block/2+i]<<4
		}
		out = out[4+block/2:]
	}
}

// Dequantize returns the elements, row by row, as a plain type: exact in float32 but for one rounding, and
// rounded again to a smaller one. It uses all processors.
func (w *Weight) Dequantize(to gguf.Type) ([]byte, error) {
	n, k := w.Shape[0], w.Shape[1]
	size := to.Bytes(k)
	out := make([]byte, n*size)
	return out, w.each(func(row int, codes []byte) error {
		values := make([]float32, k)
		for c := 0; c < k; {
			g, end := w.group(c), c+1
			if w.order == nil {
				end = min((g+1)*w.scales.columns, k)
			}
			w.widen(values[c:end], codes[c:end], row, g)
			c = end
		}
		for c, v := range values {
			if v-v != 0 {
				return fmt.Errorf("column %d is %v, the scale %v times the code", c, v, w.scales.at(row, w.group(c)))
			}
		}
		_, err := gguf.Quantize(to, out[row*size:row*size:(row+1)*size], values)
		return err
	})
}

// widen sets out to what codes of one group of a row stand for.
func (w *Weight) widen(out []float32, codes []byte, row, group int) {
	scale := w.scales.at(row, group)
	if w.floats {
		for i, q := range codes {
			out[i] = scale * e4m3Values[q]
		}
		return
	}
	zero := int(w.zeros.at(row, group))
	for i, q := range codes {
		out[i] = scale * float32(int(q)-zero)
	}
}

// checkFloats refuses a row with a NaN, or with a scale of 0 for codes that are not: then the scale is what got lost.
func (w *Weight) checkFloats(row int, codes []byte) error {
	for from := 0; from < len(codes); from += w.scales.columns {
		zero := w.scales.at(row, w.group(from)) == 0
		for i, q := range codes[from:min(from+w.scales.columns, len(codes))] {
			switch {
			case q&0x7f == 0x7f:
				return fmt.Errorf("column %d is NaN", from+i)
			case zero && q&0x7f != 0:
				return fmt.Errorf("column %d is %v with the scale 0, want a scale that is not", from+i, e4m3Values[q])
			}
		}
	}
	return nil
}

// each calls do with the codes of every row, which it checks to be numbers.
func (w *Weight) each(do func(row int, codes []byte) error) error {
	err := eachRow(w.Shape[0], func(row int) error {
		codes := make([]byte, w.Shape[1])
		w.codes(row, codes)
		if w.floats {
			if err := w.checkFloats(row, codes); err != nil {
				return err
			}
		}
		return do(row, codes)
	})
	if err != nil {
		return fmt.Errorf("tensor %q: %w", w.name, err)
	}
	return nil
}
