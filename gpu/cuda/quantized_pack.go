package cuda

import (
	"encoding/binary"
	"fmt"
	"math"
	"runtime"
	"sync"

	"github.com/troupe-engine/troupe/internal/gguf"
)

// rowsOf are the rows of a matrix in PackMatrix's input: bytes each, in parts that are stacked.
type rowsOf struct {
	name  string
	bytes int
	parts [][]byte
}

// row returns row i.
func (r *rowsOf) row(i int) []byte {
	at := i * r.bytes
	for _, part := range r.parts {
		if at < len(part) {
			return part[at : at+r.bytes]
		}
		at -= len(part)
	}
	panic("cuda: PackMatrix: row past the parts") // the byte count was checked
}

// quantRow is a row on its way from one layout to the other: codes, one a byte, and what each group shares, as
// quantized.cuh has it, or what the row does.
type quantRow struct {
	codes  []byte
	groups []uint32
	scale  uint32 // of the row, the bits of a float32
}

// The zero of codes is part of what is added to bfloat16 of 128 and the code: -(128 + zero).
const quantOffset = 0xc300

func readScaledRow(r *quantRow, raw []byte) {
	n := copy(r.codes, raw)
	r.scale = binary.LittleEndian.Uint32(raw[n:])
}

func readE4M3Groups(r *quantRow, raw []byte) {
	for g := range r.groups {
		block := raw[132*g:][:132]
		r.groups[g] = binary.LittleEndian.Uint32(block)
		copy(r.codes[128*g:], block[4:])
	}
}

func readQ8_0(r *quantRow, raw []byte) {
	for g := range r.groups {
		block := raw[34*g:][:34]
		r.groups[g] = uint32(binary.LittleEndian.Uint16(block))
		copy(r.codes[32*g:], block[2:])
	}
}

// readQ4 is for blocks of 32 with a header of one or two float16.
func readQ4(r *quantRow, raw []byte) {
	size := len(raw) / len(r.groups)
	for g := range r.groups {
		block := raw[size*g:][:size]
		r.groups[g] = uint32(binary.LittleEndian.Uint16(block))
		if size == 20 {
			r.groups[g] = binary.LittleEndian.Uint32(block)
		}
		readNibbles(r.codes[32*g:][:32], block[size-16:])
	}
}

// readNibbles takes codes apart: the low halves of bytes, and then the high ones.
func readNibbles(codes, nibbles []byte) {
	for i, q := range nibbles {
		codes[i], codes[len(nibbles)+i] = q&15, q>>4
	}
}

func readQ4K(r *quantRow, raw []byte) {
	const size, subBlocks = 144, gguf.SuperBlock / 32
	for b := range len(r.codes) / gguf.SuperBlock {
		block := raw[size*b:][:size]
		d, dmin := fromHalf(binary.LittleEndian.Uint16(block)), fromHalf(binary.LittleEndian.Uint16(block[2:]))
		for j := range subBlocks {
			scale, minimum := gguf.KScales(block[4:16], j)
			r.groups[subBlocks*b+j] = uint32(toHalf(d*float32(scale))) | uint32(toHalf(-dmin*float32(minimum)))<<16
			for i, q := range block[16+j/2*32:][:32] {
				r.codes[gguf.SuperBlock*b+32*j+i] = q >> (j % 2 * 4) & 15
			}
		}
	}
}

func readI4(r *quantRow, raw []byte) {
	size, group := len(raw)/len(r.groups), len(r.codes)/len(r.groups)
	for g := range r.groups {
		block := raw[size*g:][:size]
		r.groups[g] = uint32(binary.LittleEndian.Uint16(block)) | (quantOffset+uint32(block[2]))<<16
		readNibbles(r.codes[group*g:][:group], block[4:])
	}
}

// zeroMax is the largest zero of the I4 types: what an asymmetric format of 4 bits can need, one more than its largest code.
const zeroMax = 16

// checkRow says what of a row makes it no weights: codes or scales that are no numbers, which the kernels would not
// show as such.
func (f *quantFormat) checkRow(r *quantRow) error {
	if f.floats {
		for i, q := range r.codes {
			if q&0x7f == 0x7f {
				return fmt.Errorf("column %d is NaN", i)
			}
		}
	}
	if f.shared == rowScale {
		if v := math.Float32frombits(r.scale); v-v != 0 {
			return fmt.Errorf("its scale is %v", v)
		}
		return nil
	}
	const infinite = 0x7c00
	for g, v := range r.groups {
		switch {
		case f.shared == groupFloat:
			if scale := math.Float32frombits(v); scale-scale != 0 {
				return fmt.Errorf("the scale of its group %d is %v", g, scale)
			}
		case v&infinite == infinite:
			return fmt.Errorf("the scale of its group %d is not finite", g)
		case f.shared == groupMinimum && v>>16&infinite == infinite:
			return fmt.Errorf("the minimum of its group %d is not finite", g)
		case f.shared == groupZero && v>>16-quantOffset > zeroMax:
			return fmt.Errorf("the zero of its group %d is %d, want 0 to %d", g, v>>16-quantOffset, zeroMax)
		}
	}
	return nil
}

// packer packs tiles; every goroutine has its own.
type packer struct {
	l    *quantLayout
	rows rowsOf
	row  quantRow
}

func newPacker(l *quantLayout, rows rowsOf) *packer {
	p := &packer{l: l, rows: rows, row: quantRow{codes: make([]byte, l.k)}}
	if l.format.group > 0 {
		p.row.groups = make([]uint32, l.k/l.format.group)
	}
	return p
}

// tile fills the codes and the shared of a tile, which are zeros. Where rows have a scale each, those are the shared.
func (p *packer) tile(number int, codes, meta []byte) error {
	l, f := p.l, p.l.format
	for r := range min(quantRows, l.n-number*quantRows) {
		f.read(&p.row, p.rows.row(number*quantRows+r))
		if err := f.checkRow(&p.row); err != nil {
			return fmt.Errorf("row %d: %w", number*quantRows+r, err)
		}
		if f.bits == 8 {
			copy(codes[r*l.stride:], p.row.codes)
		} else {
			placeNibbles(codes, r, p.row.codes)
		}
		switch f.shared {
		case rowScale:
			binary.LittleEndian.PutUint32(meta[4*r:], p.row.scale)
		case groupScale:
			for g, v := range p.row.groups {
				binary.LittleEndian.PutUint16(meta[2*(g*quantRows+r):], uint16(v))
			}
		default:
			for g, v := range p.row.groups {
				binary.LittleEndian.PutUint32(meta[4*(g*quantRows+r):], v)
			}
		}
	}
	return nil
}

// nibbleShifts is where the codes of 8 columns lie in 4 bytes.
var nibbleShifts = [8]int{0, 16, 4, 20, 8, 24, 12, 28}

// placeNibbles stores the codes of row r of a tile, 8 columns at a time. See quantized.cuh.
func placeNibbles(tile []byte, r int, codes []byte) {
	for at := 0; at < len(codes); at += 8 {
		var word uint32
		for i, q := range codes[at : at+8] {
			word |= uint32(q) << nibbleShifts[i]
		}
		lane, half, part := r%8*4+at/8%4, at/64, at/32%2*2+r/8
		binary.LittleEndian.PutUint32(tile[half*512+lane*16+part*4:], word)
	}
}

// tilesPerRun are the tiles that a goroutine packs before they are sent on: some megabytes.
func (l *quantLayout) tilesPerRun() int {
	const runBytes = 2 << 20
	return max(1, runBytes/(l.pieces*l.format.codeBytes()))
}

// packTiles packs a matrix on all processors and hands it on in pieces, each with its place.
func packTiles(l *quantLayout, rows rowsOf, send func(to int64, b []byte) error) error {
	f, tiles, per := l.format, ceilDiv(l.n, quantRows), l.tilesPerRun()
	codeBytes, metaBytes := l.pieces*f.codeBytes(), l.pieces*f.metaBytes()
	if f.shared == rowScale {
		metaBytes = 4 * quantRows
	}
	type run struct {
		packer      *packer
		codes, meta []byte
		err         error
	}
	runs := make([]run, min(runtime.GOMAXPROCS(0), ceilDiv(tiles, per)))
	for i := range runs {
		runs[i] = run{packer: newPacker(l, rows), codes: make([]byte, per*codeBytes), meta: make([]byte, per*metaBytes)}
	}
	for first := 0; first < tiles; first += per * len(runs) {
		var wait sync.WaitGroup
		for i := range runs {
			r, from := &runs[i], first+i*per
			wait.Go(func() {
				clear(r.codes)
				clear(r.meta)
				for t := from; t < min(from+per, tiles) && r.err == nil; t++ {
					r.err = r.packer.tile(t, r.codes[(t-from)*codeBytes:], r.meta[(t-from)*metaBytes:])
				}
			})
		}
		wait.Wait()
		for i := range runs {
			r, from := &runs[i], first+i*per
			count := min(per, tiles-from)
			if r.err != nil {
				return r.err
			}
			if count <= 0 {
				break
			}
			codes, meta := r.codes[:count*codeBytes], r.meta[:count*metaBytes]
			if rows := l.n - from*quantRows; rows < count*quantRows { // the last rows are not all there
				if f.bits == 8 {
					codes = codes[:rows*l.stride]
				}
				if f.shared == rowScale {
					meta = meta[:4*rows]
				}
			}
			if err := send(int64(from)*int64(codeBytes), codes); err != nil {
				return err
			}
			if err := send(l.meta+int64(from)*int64(metaBytes), meta); err != nil {
				return err
			}
		}
	}
	return nil
}

// fromHalf widens a float16.
func fromHalf(h uint16) float32 {
	exponent, fraction := int(h>>10&31), float64(h&0x3ff)
	v := math.Ldexp(1024+fraction, exponent-25)
	switch exponent {
	case 0:
		v = math.Ldexp(fraction, -24)
	case 31:
		v = math.Inf(1)
		if fraction != 0 {
			v = math.NaN()
		}
	}
	return float32(math.Copysign(v, 1-2*float64(h>>15)))
}

// toHalf rounds to the nearest float16, ties to even.
func toHalf(v float32) uint16 {
	b, err := gguf.Quantize(gguf.F16, nil, []float32{v})
	if err != nil { // a plain type takes everything
		panic(err)
	}
	return binary.LittleEndian.Uint16(b)
}
