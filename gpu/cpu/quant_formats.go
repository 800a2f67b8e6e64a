package cpu

import (
	"encoding/binary"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/internal/gguf"
)

// A quantized matrix lies in panels of 16 rows like any other, [panel][k/unit][unit]. A unit holds one
// block of each row: what the block's elements share first, one float16 or byte per row, and then codes so
// that four steps of k of a row are neighbours, as instructions that add four products want them:
//
//	q8_0  d[16] f16                               codes[8][16][4]: int8 + 128
//	q4_0  d[16] f16                               nibbles[4][16][4]
//	q4_1  d[16] f16, m[16] f16                    nibbles[4][16][4]
//	q4_k  d[16] f16, dmin[16] f16, 8 blocks of    scale[16] u8, minimum[16] u8, nibbles[4][16][4]
//	q6_k  d[16] f16, 8 blocks of                  scales[2][16] i8, nibbles[4][16][4], high[2][16][4]
//
// The low nibble of byte [j][row][i] is element 4j+i of 32, the high one element 16+4j+i. Bits 2j and 2j+1
// of byte [h][row][i] in high are the upper bits of element 16h+4j+i. Units are hardly larger than GGUF's
// blocks: 34, 18, 20, 148 and 210 bytes for each row.

// quantLen is the number of elements that share a scale of activations.
const quantLen = 32

// quantFormat is one type's layout. asm/quant.go has the same numbers.
type quantFormat struct {
	blocks  int  // of 32 elements in a unit
	header  int  // bytes
	scales  int  // bytes before the codes of each block
	codes   int  // bytes of codes of a block
	zero    int  // what codes are stored with added to them
	minimum bool // codes have a minimum added instead
	halves  bool // each half of a block has an integer scale of its own
	fine    bool // activations have 15 bits
	// pack stores one GGUF block as row r of a unit.
	pack func(f *quantFormat, unit []byte, r int, block []byte)
	// load reads a block of 32 of row r.
	load func(f *quantFormat, unit []byte, block, r int) quantBlock
}

// quantBlock is 32 elements of a row: element i is scale * weights[i/16] * codes[i] + minimum.
type quantBlock struct {
	codes          [quantLen]int32
	weights        [2]int32
	scale, minimum float32
}

var quantFormats = map[gpu.DType]*quantFormat{
	gpu.Q8_0: {blocks: 1, header: 32, codes: 512, zero: 128, fine: true, pack: packQ8_0, load: loadQ8_0},
	gpu.Q4_0: {blocks: 1, header: 32, codes: 256, zero: 8, pack: packQ4, load: loadQ4},
	gpu.Q4_1: {blocks: 1, header: 64, codes: 256, minimum: true, fine: true, pack: packQ4, load: loadQ4},
	gpu.Q4_K: {blocks: 8, header: 64, scales: 32, codes: 256, minimum: true, pack: packQ4K, load: loadQ4K},
	gpu.Q6_K: {blocks: 8, header: 32, scales: 32, codes: 384, zero: 32, halves: true, pack: packQ6K, load: loadQ6K},
}

func (f *quantFormat) unitLen() int    { return f.blocks * quantLen }
func (f *quantFormat) blockBytes() int { return f.scales + f.codes }
func (f *quantFormat) unitBytes() int  { return f.header + f.blocks*f.blockBytes() }

// activationBytes is the size of a token's activations for a block; see quant.go.
func (f *quantFormat) activationBytes() int {
	if f.fine {
		return 2*quantLen + 4 + 8
	}
	return quantLen + 4 + 8
}

// block is where block i of a unit begins: its scales, or else its codes.
func (f *quantFormat) block(unit []byte, i int) []byte {
	return unit[f.header+i*f.blockBytes():][:f.blockBytes()]
}

func loadHalf(b []byte, i int) float32 { return f16(binary.LittleEndian.Uint16(b[2*i:])) }

// packQ8_0 stores int8 codes with 128 added, because products take an unsigned factor.
func packQ8_0(f *quantFormat, unit []byte, r int, block []byte) {
	copy(unit[2*r:], block[:2])
	codes := f.block(unit, 0)
	for i, q := range block[2:34] {
		codes[i/4*64+4*r+i%4] = q ^ 0x80
	}
}

func loadQ8_0(f *quantFormat, unit []byte, _, r int) quantBlock {
	b := quantBlock{weights: [2]int32{1, 1}, scale: loadHalf(unit, r)}
	codes := f.block(unit, 0)
	for i := range b.codes {
		b.codes[i] = int32(codes[i/4*64+4*r+i%4]) - 128
	}
	return b
}

// packQ4 stores a block of Q4_0 or Q4_1, whose nibbles are paired as here.
func packQ4(f *quantFormat, unit []byte, r int, block []byte) {
	scales := f.header / panelRows
	copy(unit[2*r:], block[:2])
	if f.minimum {
		copy(unit[32+2*r:], block[2:4])
	}
	putNibbles(f.block(unit, 0), r, (*[16]byte)(block[scales:]))
}

func putNibbles(codes []byte, r int, pairs *[16]byte) {
	for i, q := range pairs {
		codes[i/4*64+4*r+i%4] = q
	}
}

// nibbles adds the nibbles of row r to codes.
func (b *quantBlock) nibbles(codes []byte, r int, zero int32) {
	for i := range 16 {
		q := codes[i/4*64+4*r+i%4]
		b.codes[i], b.codes[i+16] = int32(q&15)-zero, int32(q>>4)-zero
	}
}

func loadQ4(f *quantFormat, unit []byte, _, r int) quantBlock {
	b := quantBlock{weights: [2]int32{1, 1}, scale: loadHalf(unit, r)}
	if f.minimum {
		b.minimum = loadHalf(unit[32:], r)
	}
	b.nibbles(f.block(unit, 0), r, int32(f.zero))
	return b
}

func packQ4K(f *quantFormat, unit []byte, r int, block []byte) {
	copy(unit[2*r:], block[:2])
	copy(unit[32+2*r:], block[2:4])
	for j := range f.blocks {
		to, codes, shift := f.block(unit, j), block[16+j/2*32:][:32], j%2*4
		to[r], to[16+r] = gguf.KScales(block[4:16], j)
		var pairs [16]byte
		for i := range pairs {
			pairs[i] = codes[i]>>shift&15 | codes[i+16]>>shift<<4
		}
		putNibbles(to[f.scales:], r, &pairs)
	}
}

func loadQ4K(f *quantFormat, unit []byte, block, r int) quantBlock {
	from := f.block(unit, block)
	b := quantBlock{weights: [2]int32{1, 1}, scale: loadHalf(unit, r) * float32(from[r]),
		minimum: -(loadHalf(unit[32:], r) * float32(from[16+r]))}
	b.nibbles(from[f.scales:], r, 0)
	return b
}

func packQ6K(f *quantFormat, unit []byte, r int, block []byte) {
	copy(unit[2*r:], block[208:210])
	var codes [gguf.SuperBlock]int8
	gguf.Sixths(&codes, block)
	for j := range f.blocks {
		to, q := f.block(unit, j), codes[quantLen*j:][:quantLen]
		to[r], to[16+r] = block[192+2*j], block[192+2*j+1]
		var pairs [16]byte
		high := to[f.scales+256:]
		for i, v := range q {
			u := byte(v + 32)
			pairs[i%16] |= u & 15 << (i / 16 * 4)
			high[i/16*64+4*r+i%4] |= u >> 4 << (i / 4 % 4 * 2)
		}
		putNibbles(to[f.scales:], r, &pairs)
	}
}

func loadQ6K(f *quantFormat, unit []byte, block, r int) quantBlock {
	from := f.block(unit, block)
	b := quantBlock{weights: [2]int32{int32(int8(from[r])), int32(int8(from[16+r]))}, scale: loadHalf(unit, r)}
	b.nibbles(from[f.scales:], r, int32(f.zero))
	high := from[f.scales+256:]
	for i := range b.codes {
		b.codes[i] += int32(high[i/16*64+4*r+i%4]>>(i/4%4*2)&3) << 4
	}
	return b
}

// row writes the elements of row i of m times factor: what GGUF's definition says, to the bit for 1.
func (m *matrix) row(dst []float32, i int, factor float32) {
	f := quantFormats[m.dtype]
	panel := m.data[i/panelRows*m.panelBytes():]
	for at := 0; at < m.k; at += quantLen {
		unit := panel[at/f.unitLen()*f.unitBytes():][:f.unitBytes()]
		b := f.load(f, unit, at%f.unitLen()/quantLen, i%panelRows)
		for j, q := range b.codes {
			v := float32(b.scale * float32(b.weights[j/16]))
			dst[at+j] = (float32(v*float32(q)) + b.minimum) * factor
		}
	}
}
