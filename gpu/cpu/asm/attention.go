package main

import (
	"fmt"

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

func (t isa) attentionKernels() {
	for _, f := range formats {
		if f.name != "F16" {
			t.transpose(f)
		}
	}
	for _, rows := range t.rows {
		t.scores(rows)
	}
	t.softmax()
	t.finish()
	for _, f := range formats {
		if f.name == "F16" {
			continue
		}
		for _, rows := range t.rows {
			t.mix(f, rows)
		}
	}
}

// transpose turns the 16 keys of a page around, a square of lanes at a time.
func (t isa) transpose(f format) {
	t.begin("transpose"+f.name, "(dst *float32, src, ahead *byte, dim int)",
		"is an entry of tier.transpose; dim is a positive multiple of 16.")
	dst, src, ahead, dim := pointer("dst"), pointer("src"), pointer("ahead"), number("dim")
	row, row3, at := GP64(), GP64(), GP64()
	MOVQ(dim, row)
	SHLQ(U8(map[int]uint8{2: 1, 4: 2}[f.size]), row)
	LEAQ(Mem{Base: row, Index: row, Scale: 2}, row3)
	// columns turns some columns around, a vector of elements of size bytes at a time.
	columns := func(size int, load func(Mem, VecVirtual), store func(column int, v VecVirtual, first int)) {
		MOVQ(src.Base, at)
		for first := 0; first < pageKeys; first += t.lanes {
			v := t.vectors(t.lanes)
			for i := 0; i < t.lanes; i += 4 {
				load(Mem{Base: at}, v[i])
				load(Mem{Base: at, Index: row, Scale: 1}, v[i+1])
				load(Mem{Base: at, Index: row, Scale: 2}, v[i+2])
				load(Mem{Base: at, Index: row3, Scale: 1}, v[i+3])
				LEAQ(Mem{Base: at, Index: row, Scale: 4}, at)
			}
			for line := 0; line < t.lanes*t.lanes*size; line += 64 {
				PREFETCHT0(ahead)
				ADDQ(U8(64), ahead.Base)
			}
			for i, column := range t.square(v) {
				store(i, column, first)
			}
		}
		ADDQ(U32(uint32(t.lanes*size)), src.Base)
	}
	if f.name == "BF16" {
		// Two elements turn around as one of 32 bits, which halves the work, and come apart afterwards.
		loop("pairs", dim, 2*t.lanes, func() {
			columns(4, func(m Mem, v VecVirtual) { VMOVUPS(m, v) }, func(i int, pair VecVirtual, first int) {
				low := t.vector()
				VPSLLD(U8(16), pair, low)
				VPSRLD(U8(16), pair, pair)
				VPSLLD(U8(16), pair, pair)
				VMOVUPS(low, dst.Offset(4*(pageKeys*2*i+first)))
				VMOVUPS(pair, dst.Offset(4*(pageKeys*(2*i+1)+first)))
			})
			ADDQ(U32(uint32(4*pageKeys*2*t.lanes)), dst.Base)
		})
	}
	loop("columns", dim, t.lanes, func() {
		columns(f.size, f.load, func(i int, column VecVirtual, first int) { VMOVUPS(column, dst.Offset(4*(pageKeys*i+first))) })
		ADDQ(U32(uint32(4*pageKeys*t.lanes)), dst.Base)
	})
	end()
}

// square transposes as many vectors as a vector has lanes: first 4 by 4 inside each quarter,
// then the quarters.
func (t isa) square(v []VecVirtual) []VecVirtual {
	for i := 0; i < t.lanes; i += 4 {
		t.quarters(v[i : i+4])
	}
	out := make([]VecVirtual, t.lanes)
	// v[4*i+j] now holds, in quarter q, column 4*q+j of rows 4*i to 4*i+3.
	for j := range 4 {
		if t.lanes == 8 {
			low, high := YMM(), YMM()
			VPERM2F128(U8(0x20), v[4+j], v[j], low)
			VPERM2F128(U8(0x31), v[4+j], v[j], high)
			out[j], out[4+j] = low, high
			continue
		}
		evenLow, evenHigh := ZMM(), ZMM()
		VSHUFF32X4(U8(0x88), v[4+j], v[j], evenLow)     // quarters 0 and 2 of rows 0 to 7
		VSHUFF32X4(U8(0x88), v[12+j], v[8+j], evenHigh) // and of rows 8 to 15
		VSHUFF32X4(U8(0xdd), v[4+j], v[j], v[j])        // quarters 1 and 3
		VSHUFF32X4(U8(0xdd), v[12+j], v[8+j], v[8+j])
		for q, pair := range [][2]VecVirtual{{evenLow, evenHigh}, {v[j], v[8+j]}} {
			first, second := ZMM(), ZMM()
			VSHUFF32X4(U8(0x88), pair[1], pair[0], first)
			VSHUFF32X4(U8(0xdd), pair[1], pair[0], second)
			out[4*q+j], out[4*(q+2)+j] = first, second
		}
	}
	return out
}

// quarters transposes 4 by 4 inside each quarter of four vectors.
func (t isa) quarters(v []VecVirtual) {
	pairs := t.vectors(4)
	VUNPCKLPS(v[1], v[0], pairs[0])
	VUNPCKHPS(v[1], v[0], pairs[1])
	VUNPCKLPS(v[3], v[2], pairs[2])
	VUNPCKHPS(v[3], v[2], pairs[3])
	VUNPCKLPD(pairs[2], pairs[0], v[0])
	VUNPCKHPD(pairs[2], pairs[0], v[1])
	VUNPCKLPD(pairs[3], pairs[1], v[2])
	VUNPCKHPD(pairs[3], pairs[1], v[3])
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
	valueRow := row
	if f.name == "BF16" {
		valueRow = GP64()
		MOVQ(dim, valueRow)
		SHLQ(U8(1), valueRow)
	}
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
	Label(page)
	MOVQ(first, value)
	IMULQ(valueRow, value)
	ADDQ(pages, value)
	ADDQ(column, value)
	MOVQ(U32(pageKeys), count)
	SUBQ(first, count)
	CMPQ(count, left)
	CMOVQGT(left, count)
	SUBQ(count, left)
	XORQ(first, first)
	ADDQ(U8(8), pages.Base)
	loop(fmt.Sprintf("values%d", width), count, 1, func() {
		t.outerRows(rows, width, acc, func(row int) Mem { return weights.Offset(4 * keyTile * row) },
			func(i int, to VecVirtual) { f.load(Mem{Base: value, Disp: i * t.lanes * f.size}, to) })
		ADDQ(U8(4), weights.Base)
		ADDQ(valueRow, value)
	})
	CMPQ(left, U32(0))
	JG(LabelRef(page))
}
