package main

import (
	"fmt"
	"math/bits"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// Attention works on tiles of keyTile keys, which lie in pages of 16. Names and layouts are
// those of package cpu: see tier.go there.
const (
	keyTile  = 128
	pageKeys = 16
)

// kvFormats are the element types of keys and values. Rows of int8 end with the scale of the row, a float32.
var kvFormats = []format{formats[0], formats[2], {"I8", 1, func(from Mem, to VecVirtual) {
	VPMOVSXBD(from, to)
	VCVTDQ2PS(to, to)
}}}

const scaleBytes = 4

// rowBytes returns a register with the bytes of a row of dim elements.
func (f format) rowBytes(dim Register) Register {
	row := GP64()
	switch f.size {
	case 1:
		LEAQ(Mem{Base: dim, Disp: scaleBytes}, row)
	default:
		MOVQ(dim, row)
		SHLQ(U8(bits.TrailingZeros(uint(f.size))), row)
	}
	return row
}

func (t isa) attentionKernels() {
	for _, f := range kvFormats {
		t.transpose(f)
	}
	for _, rows := range t.rows {
		t.scores(rows)
	}
	t.softmax()
	t.finish()
	for _, f := range kvFormats {
		for _, rows := range t.rows {
			t.mix(f, rows)
		}
	}
}

// scores multiplies rows of queries with transposed keys: one chain of multiply-adds per score,
// in order of dim, whatever the number of rows.
func (t isa) scores(rows int) {
	pages := max(1, min(4, t.accumulators()/(rows*pageKeys/t.lanes)))
	if pages == 3 {
		pages = 2
	}
	t.begin(fmt.Sprintf("scoresR%d", rows), "(scores, q, keys *float32, pages, dim int, scale float32)",
		fmt.Sprintf("is tier.scores for %d rows.", rows))
	scores, keys, left := pointer("scores"), pointer("keys"), number("pages")
	stride := number("dim")
	SHLQ(U8(2), stride)
	multiples := oddMultiples(stride, rows)
	zero := t.vector()
	t.zero(zero)
	step := GP64() // bytes of a page of keys
	MOVQ(stride, step)
	SHLQ(U8(4), step)
	for _, width := range halvings(pages) {
		loop(fmt.Sprintf("pages%d", width), left, width, func() {
			query, key := pointer("q"), []Mem{{Base: GP64()}}
			MOVQ(keys.Base, key[0].Base)
			addPages := oddMultiples(step, width)
			for i := 1; i < width; i++ {
				key = append(key, multipleOf(key[0].Base, addPages, i))
			}
			perPage := pageKeys / t.lanes
			columns := width * perPage
			acc := t.vectors(rows * columns)
			for _, a := range acc {
				VMOVAPS(zero, a) // zeroing each in place would make all of them live from the start
			}
			dims := func(n int) func() {
				return func() {
					for i := range n {
						t.outerRows(rows, columns, acc, func(row int) Mem {
							return multipleOf(query.Base, multiples, row).Offset(4 * i)
						}, func(column int, to VecVirtual) {
							VMOVUPS(key[column/perPage].Offset(4*(i*pageKeys+column%perPage*t.lanes)), to)
						})
					}
					ADDQ(U32(uint32(4*n)), query.Base)
					ADDQ(U32(uint32(4*n*pageKeys)), key[0].Base)
				}
			}
			dim := number("dim")
			unroll := max(1, 8/rows)
			if unroll > 1 {
				loop(fmt.Sprintf("dims%d", width), dim, unroll, dims(unroll))
			}
			loop(fmt.Sprintf("dim%d", width), dim, 1, dims(1))
			scale := t.vector()
			VBROADCASTSS(scalar("scale"), scale)
			for i, a := range acc {
				VMULPS(scale, a, a)
				VMOVUPS(a, scores.Offset(4*(i/columns*keyTile+i%columns*t.lanes)))
			}
			ADDQ(U32(uint32(4*width*pageKeys)), scores.Base)
			for range width {
				ADDQ(step, keys.Base)
			}
		})
	}
	end()
}

// accumulators is how many registers sums may take.
func (t isa) accumulators() int {
	if t.lanes == 16 {
		return 24
	}
	return 12
}

// halvings lists n, n/2, … 1.
func halvings(n int) (list []int) {
	for ; n > 0; n /= 2 {
		list = append(list, n)
	}
	return list
}

// oddMultiples returns registers with the odd multiples of stride below n.
func oddMultiples(stride Register, n int) map[int]Register {
	multiples := map[int]Register{1: stride}
	for odd := 3; odd < n; odd += 2 {
		r := GP64()
		LEAQ(Mem{Base: multiples[odd-2], Index: stride, Scale: 2}, r)
		multiples[odd] = r
	}
	return multiples
}

// multipleOf is base plus i strides.
func multipleOf(base Register, multiples map[int]Register, i int) Mem {
	if i == 0 {
		return Mem{Base: base}
	}
	odd, scale := i, 1
	for odd%2 == 0 {
		odd, scale = odd/2, scale*2
	}
	return Mem{Base: base, Index: multiples[odd], Scale: uint8(scale)}
}

// outerRows adds the product of a column of scalars, one a row, and a row of vectors. The
// fewer of the two stay in registers.
func (t isa) outerRows(rows, columns int, acc []VecVirtual, at func(row int) Mem, load func(column int, to VecVirtual)) {
	if rows < columns {
		held := t.vectors(rows)
		for row, h := range held {
			VBROADCASTSS(at(row), h)
		}
		for column := range columns {
			v := t.vector()
			load(column, v)
			for row, h := range held {
				VFMADD231PS(h, v, acc[row*columns+column])
			}
		}
		return
	}
	held := t.vectors(columns)
	for column, h := range held {
		load(column, h)
	}
	for row := range rows {
		v := t.vector()
		VBROADCASTSS(at(row), v)
		for column, h := range held {
			VFMADD231PS(v, h, acc[row*columns+column])
		}
	}
}

// softmax turns rows of scores into weights, and keeps their running maximum and sums.
func (t isa) softmax() {
	t.begin("softmax", "(scores *float32, n int, sums, largest, correction *float32, rows int)",
		"is tier.softmax; n is a positive multiple of 16.")
	scores, sums := pointer("scores"), pointer("sums")
	largest, correction, rows := pointer("largest"), pointer("correction"), number("rows")
	loop("rows", rows, 1, func() {
		best, n, at := t.vector(), number("n"), GP64()
		VBROADCASTSS(largest, best)
		MOVQ(scores.Base, at)
		loop("maximum", n, t.lanes, func() {
			VMAXPS(Mem{Base: at}, best, best)
			ADDQ(U8(uint8(t.bytes())), at)
		})
		shift := t.foldMax(best)
		change := t.vector()
		VBROADCASTSS(largest, change)
		VMOVSS(shift.AsX(), largest)
		VSUBPS(shift, change, change)
		t.exp(change)
		VMOVSS(change.AsX(), correction)
		perPage := pageKeys / t.lanes
		total := t.vectors(perPage)
		for i, s := range total {
			VMULPS(sums.Offset(i*t.bytes()), change, s)
		}
		n = number("n")
		MOVQ(scores.Base, at)
		loop("weights", n, pageKeys, func() {
			for i, s := range total {
				v := t.vector()
				VMOVUPS(Mem{Base: at, Disp: i * t.bytes()}, v)
				VSUBPS(shift, v, v)
				t.exp(v)
				VMOVUPS(v, Mem{Base: at, Disp: i * t.bytes()})
				VADDPS(v, s, s)
			}
			ADDQ(U8(4*pageKeys), at)
		})
		for i, s := range total {
			VMOVUPS(s, sums.Offset(i*t.bytes()))
		}
		ADDQ(U32(4*keyTile), scores.Base)
		ADDQ(U8(4*pageKeys), sums.Base)
		ADDQ(U8(4), largest.Base)
		ADDQ(U8(4), correction.Base)
	})
	end()
}

// foldMax returns the largest lane in every lane.
func (t isa) foldMax(v VecVirtual) VecVirtual {
	if t.lanes == 16 {
		other := ZMM()
		VSHUFF32X4(U8(0x4e), v, v, other)
		VMAXPS(other, v, v)
		VSHUFF32X4(U8(0xb1), v, v, other)
		VMAXPS(other, v, v)
	} else {
		other := YMM()
		VPERM2F128(U8(0x01), v, v, other)
		VMAXPS(other, v, v)
	}
	for _, order := range []uint8{0x4e, 0xb1} {
		other := t.vector()
		VPERMILPS(U8(order), v, other)
		VMAXPS(other, v, v)
	}
	return v
}

// finish divides each row's weighted values by the sum of the weights.
func (t isa) finish() {
	t.begin("finish", "(out, mixed, sums *float32, dim, rows int)", "is tier.finish; dim is a positive multiple of 16.")
	out, mixed, sums, rows := pointer("out"), pointer("mixed"), pointer("sums"), number("rows")
	one := t.vector()
	VMOVUPS(t.constant("one", 1), one)
	loop("rows", rows, 1, func() {
		total, half := XMM(), YMM()
		VMOVUPS(sums, half)
		VADDPS(sums.Offset(32), half, half)
		VEXTRACTF128(U8(1), half, total)
		VADDPS(half.AsX(), total, total)
		for _, order := range []uint8{0x4e, 0xb1} {
			other := XMM()
			VPERMILPS(U8(order), total, other)
			VADDPS(other, total, total)
		}
		inverse, dim := t.vector(), number("dim")
		VBROADCASTSS(total, inverse)
		VDIVPS(inverse, one, inverse)
		t.elements(dim, func() {
			v := t.vector()
			VMULPS(mixed, inverse, v)
			VMOVUPS(v, out)
		}, mixed, out)
		ADDQ(U8(4*pageKeys), sums.Base)
	})
	end()
}

// mix adds weighted values to each row's sum, after correcting the sum. A stretch of every sum
// stays in registers while all values pass.
func (t isa) mix(f format, rows int) {
	t.begin(fmt.Sprintf("mix%sR%d", f.name, rows),
		"(sums, correction, weights *float32, pages **byte, first, n, dim int)",
		fmt.Sprintf("is an entry of tier.mix for %d rows; dim is a positive multiple of 16.", rows))
	sums, dim := pointer("sums"), number("dim")
	row := GP64() // bytes of a row of sums
	MOVQ(dim, row)
	SHLQ(U8(2), row)
	valueRow := f.rowBytes(dim)
	column := GP64() // bytes into a row of values
	XORQ(column, column)
	for _, width := range halvings(max(1, min(8, t.accumulators()/rows))) {
		if rows*width > t.accumulators() {
			continue
		}
		loop(fmt.Sprintf("wide%d", width), dim, width*t.lanes, func() {
			acc := t.vectors(rows * width)
			each := func(do func(row int, m Mem, v VecVirtual)) {
				at := GP64()
				MOVQ(sums.Base, at)
				for r := range rows {
					for i := range width {
						do(r, Mem{Base: at, Disp: i * t.bytes()}, acc[r*width+i])
					}
					if r+1 < rows {
						ADDQ(row, at)
					}
				}
			}
			correction, factor := pointer("correction"), t.vector()
			each(func(r int, m Mem, v VecVirtual) {
				if m.Disp == 0 {
					VBROADCASTSS(correction.Offset(4*r), factor)
				}
				VMULPS(m, factor, v)
			})
			t.mixPages(f, rows, width, acc, column, valueRow)
			each(func(_ int, m Mem, v VecVirtual) { VMOVUPS(v, m) })
			ADDQ(U32(uint32(width*t.bytes())), sums.Base)
			ADDQ(U32(uint32(width*t.lanes*f.size)), column)
		})
	}
	end()
}

// mixPages passes over n values from the first, page by page.
func (t isa) mixPages(f format, rows, width int, acc []VecVirtual, column, valueRow Register) {
	weights, pages, first, left := pointer("weights"), pointer("pages"), number("first"), number("n")
	LEAQ(Mem{Base: weights.Base, Index: first, Scale: 4}, weights.Base)
	value, count, page := GP64(), GP64(), fmt.Sprintf("page%d", width)
	var end Mem // of a row's elements
	Label(page)
	MOVQ(first, value)
	IMULQ(valueRow, value)
	ADDQ(pages, value)
	if f.size == 1 {
		end.Base = number("dim")
		ADDQ(value, end.Base)
	}
	ADDQ(column, value)
	MOVQ(U32(pageKeys), count)
	SUBQ(first, count)
	CMPQ(count, left)
	CMOVQGT(left, count)
	SUBQ(count, left)
	XORQ(first, first)
	ADDQ(U8(8), pages.Base)
	loop(fmt.Sprintf("values%d", width), count, 1, func() {
		var scale VecVirtual
		if f.size == 1 {
			scale = t.vector()
			VBROADCASTSS(end, scale)
			ADDQ(valueRow, end.Base)
		}
		t.outerRows(rows, width, acc, func(row int) Mem { return weights.Offset(4 * keyTile * row) },
			func(i int, to VecVirtual) {
				f.load(Mem{Base: value, Disp: i * t.lanes * f.size}, to)
				if f.size == 1 {
					VMULPS(scale, to, to)
				}
			})
		ADDQ(U8(4), weights.Base)
		ADDQ(valueRow, value)
	})
	CMPQ(left, U32(0))
	JG(LabelRef(page))
}
