package prequant

import (
	"encoding/binary"
	"math"

	"github.com/troupe-engine/troupe/internal/gguf"
	"github.com/troupe-engine/troupe/internal/safetensors"
)

// word is element i of a tensor of 32-bit integers.
func word(data []byte, i int) uint32 { return binary.LittleEndian.Uint32(data[4*i:]) }

// plainTypes are the types that scales may have.
var plainTypes = map[safetensors.DType]gguf.Type{safetensors.F32: gguf.F32, safetensors.F16: gguf.F16, safetensors.BF16: gguf.BF16}

// scalesOf reads the module's scales, which must be numbers, and not so large that an 8-bit float times them is none.
// Those of 8-bit floats may be powers of two, E8M0.
func (b *builder) scalesOf(suffix string, shapes ...[]int) ([]float32, error) {
	types, limit := []safetensors.DType{safetensors.F32, safetensors.BF16, safetensors.F16}, float32(math.MaxFloat32)
	if b.w.floats {
		types, limit = append(types, safetensors.F8E8M0), limit/e4m3Max
	}
	v, err := b.part(suffix, types, shapes...)
	if err != nil {
		return nil, err
	}
	values := make([]float32, len(v.Data)/v.DType.Size())
	if v.DType == safetensors.F8E8M0 {
		for i, exponent := range v.Data {
			values[i] = e8m0(exponent)
		}
	} else {
		gguf.Dequantize(plainTypes[v.DType], values, v.Data)
	}
	for i, s := range values {
		if !(s >= -limit && s <= limit) {
			return nil, b.source.errorf(b.module+suffix, "has the scale %v as its element %d, want finite numbers of at most %.3g", s, i, limit)
		}
	}
	return values, nil
}

// gptq reads qweight [k/per, n], qzeros [groups, n/per], scales [groups, n] and g_idx [k]: per is the codes in 32 bits,
// the lowest bits first.
func (b *builder) gptq(codes safetensors.View) error {
	per := 32 / b.scheme.bits
	n, rows := codes.Shape[1], codes.Shape[0]
	if err := b.shape(n, min(rows, ColumnsMax)*per); err != nil {
		return err
	}
	groups, columns := b.groups()
	if err := b.groupScales(groups, columns); err != nil {
		return err
	}
	// Adding to the words and not to the codes in them is what undoes GPTQModel's conversion to v1, which subtracts
	// from the words: a zero of 0 borrows from its neighbour.
	var add uint32
	if b.scheme.zerosLess {
		add = map[int]uint32{4: 0x11111111, 8: 0x01010101}[b.scheme.bits]
	}
	order := make([]int, per)
	for i := range order {
		order[i] = i
	}
	if err := b.groupZeros(groups, add, order); err != nil {
		return err
	}
	bits, mask := b.scheme.bits, byte(1<<b.scheme.bits-1)
	b.w.codes = func(row int, out []byte) {
		for i := range len(out) / per {
			v := word(codes.Data, i*n+row)
			for j := range per {
				out[i*per+j] = byte(v>>(bits*j)) & mask
			}
		}
	}
	return b.setOrder(".g_idx", groups)
}

// awqPlaces are where the codes of 8 rows lie in 32 bits: the fourth bits from the lowest on are of the rows 0 2 4 6 1 3
// 5 7.
var awqPlaces = []int{0, 4, 1, 5, 2, 6, 3, 7}

// awq reads qweight [k, n/8], qzeros [groups, n/8] and scales [groups, n].
func (b *builder) awq(codes safetensors.View) error {
	const per, bits, mask = 8, 4, 15
	words := codes.Shape[1]
	if err := b.shape(min(words, RowsMax)*per, codes.Shape[0]); err != nil {
		return err
	}
	groups, columns := b.groups()
	if err := b.groupScales(groups, columns); err != nil {
		return err
	}
	b.w.codes = func(row int, out []byte) {
		shift := bits * awqPlaces[row%per]
		for c := range out {
			out[c] = byte(word(codes.Data, c*words+row/per)>>shift) & mask
		}
	}
	return b.groupZeros(groups, 0, awqPlaces)
}

// groupScales reads scales [groups, n].
func (b *builder) groupScales(groups, columns int) error {
	n := b.w.Shape[0]
	values, err := b.scalesOf(".scales", []int{groups, n})
	b.w.scales = grid[float32]{values: values, rows: 1, columns: columns, rowStride: 1, colStride: n}
	return err
}

// groupZeros reads qzeros [groups, n/per], in whose words the codes of rows are at places and to which add is added.
func (b *builder) groupZeros(groups int, add uint32, places []int) error {
	n, per, bits := b.w.Shape[0], len(places), b.scheme.bits
	v, err := b.part(".qzeros", []safetensors.DType{safetensors.I32}, []int{groups, ceilDiv(n, per)})
	if err != nil {
		return err
	}
	zeros := make([]byte, groups*n)
	for i := range zeros {
		g, row := i/n, i%n
		zeros[i] = byte((word(v.Data, g*ceilDiv(n, per)+row/per)+add)>>(bits*places[row%per])) & byte(1<<bits-1)
	}
	b.w.zeros = grid[byte]{values: zeros, rows: 1, columns: b.w.scales.columns, rowStride: 1, colStride: n}
	return nil
}

// packed reads weight_packed [n, k/per], weight_shape, weight_scale, weight_zero_point and weight_g_idx.
func (b *builder) packed(codes safetensors.View) error {
	per, bits := 32/b.scheme.bits, b.scheme.bits
	n, words := codes.Shape[0], codes.Shape[1]
	v, err := b.part(".weight_shape", []safetensors.DType{safetensors.I64, safetensors.I32}, []int{2})
	if err != nil {
		return err
	}
	stored := [2]uint64{}
	for i := range stored {
		stored[i] = uint64(word(v.Data, i))
		if v.DType == safetensors.I64 {
			stored[i] = binary.LittleEndian.Uint64(v.Data[8*i:])
		}
	}
	if stored[0] != uint64(n) || stored[1] > ColumnsMax || ceilDiv(int(stored[1]), per) != words {
		return b.source.errorf(b.module+".weight_shape", "is %v, which %v words of %d codes do not hold", stored, codes.Shape, per)
	}
	if err := b.shape(n, int(stored[1])); err != nil {
		return err
	}
	mask := byte(1<<bits - 1)
	b.w.codes = func(row int, out []byte) {
		for c := range out {
			out[c] = byte(word(codes.Data, row*words+c/per)>>(bits*(c%per))) & mask
		}
	}
	if err := b.weightScales(".weight_scale"); err != nil {
		return err
	}
	groups, _ := b.groups()
	b.w.zeros = one(middle(bits))
	if b.scheme.zeros {
		if err := b.packedZeros(groups); err != nil {
			return err
		}
	}
	return b.setOrder(".weight_g_idx", groups)
}

// packedZeros reads weight_zero_point [n/per, groups], with the codes of rows in a word.
func (b *builder) packedZeros(groups int) error {
	n, bits := b.w.Shape[0], b.scheme.bits
	per := 32 / bits
	v, err := b.part(".weight_zero_point", []safetensors.DType{safetensors.I32}, []int{ceilDiv(n, per), groups})
	if err != nil {
		return err
	}
	zeros := make([]byte, n*groups)
	for i := range zeros {
		row, g := i/groups, i%groups
		zeros[i] = byte(word(v.Data, row/per*groups+g)>>(bits*(row%per))) & byte(1<<bits-1)
	}
	b.w.zeros = grid[byte]{values: zeros, rows: 1, columns: b.w.scales.columns, rowStride: groups, colStride: 1}
	return nil
}

// bytes reads weight [n, k] of 8-bit floats or integers, and weight_scale, which block formats call weight_scale_inv.
func (b *builder) bytes(codes safetensors.View) error {
	if err := b.shape(codes.Shape[0], codes.Shape[1]); err != nil {
		return err
	}
	k := codes.Shape[1]
	b.w.floats = b.scheme.layout == layoutFloats
	flip := byte(0)
	if !b.w.floats {
		flip = middle(8) // from two's complement
	}
	b.w.codes = func(row int, out []byte) {
		for i, q := range codes.Data[row*k:][:k] {
			out[i] = q ^ flip
		}
	}
	suffix, inverse := ".weight_scale", ".weight_scale_inv"
	if !b.has(suffix) && (b.has(inverse) || b.scheme.block[0] > 0) {
		suffix = inverse
	}
	if err := b.weightScales(suffix); err != nil || b.w.floats {
		return err
	}
	b.w.zeros = one(middle(8))
	if !b.scheme.zeros {
		return nil
	}
	v, err := b.part(".weight_zero_point", []safetensors.DType{safetensors.I8}, b.scaleShapes()...)
	if err != nil {
		return err
	}
	s := &b.w.scales
	b.w.zeros = grid[byte]{rows: s.rows, columns: s.columns, rowStride: s.rowStride, colStride: s.colStride}
	if len(v.Data) != len(s.values) {
		return b.source.errorf(b.module+".weight_zero_point", "has %d elements, want one for each of the %d scales", len(v.Data), len(s.values))
	}
	for _, zero := range v.Data {
		b.w.zeros.values = append(b.w.zeros.values, zero^middle(8))
	}
	return nil
}

// scaleShapes are those that a tensor of scales may have: one per block, per group of a row, or per row or matrix.
func (b *builder) scaleShapes() [][]int {
	s, n, k := b.scheme, b.w.Shape[0], b.w.Shape[1]
	switch {
	case s.block[0] > 0:
		return [][]int{{ceilDiv(n, s.block[0]), ceilDiv(k, s.block[1])}}
	case s.group > 0:
		return [][]int{{n, ceilDiv(k, s.group)}}
	}
	return [][]int{{}, {1}, {1, 1}, {n}, {n, 1}}
}

// weightScales reads scales whose shape says what shares one.
func (b *builder) weightScales(suffix string) error {
	s, n, k := b.scheme, b.w.Shape[0], b.w.Shape[1]
	values, err := b.scalesOf(suffix, b.scaleShapes()...)
	if err != nil {
		return err
	}
	g := grid[float32]{values: values, rows: 1, columns: k}
	switch {
	case s.block[0] > 0:
		g.rows, g.columns, g.rowStride, g.colStride = s.block[0], s.block[1], ceilDiv(k, s.block[1]), 1
	case s.group > 0:
		g.columns, g.rowStride, g.colStride = s.group, ceilDiv(k, s.group), 1
	case len(values) == n:
		g.rowStride = 1
	}
	b.w.scales = g
	return nil
}
