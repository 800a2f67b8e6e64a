package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// transpose turns the 16 keys of a page around, a square of lanes at a time.
func (t isa) transpose(f format) {
	t.begin("transpose"+f.name, "(dst *float32, src, ahead *byte, dim int)",
		"is an entry of tier.transpose; dim is a positive multiple of 16.")
	dst, src, ahead, dim := pointer("dst"), pointer("src"), pointer("ahead"), number("dim")
	row := f.rowBytes(dim)
	row3, at := GP64(), GP64()
	LEAQ(Mem{Base: row, Index: row, Scale: 2}, row3)
	var scales []VecVirtual // of the keys
	if f.size == 1 {
		scales = t.rowScales(src, dim, row)
	}
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
	whole := func(m Mem, v VecVirtual) { VMOVUPS(m, v) }
	put := func(v VecVirtual, column, first int) { VMOVUPS(v, dst.Offset(4*(pageKeys*column+first))) }
	// scaled stores the integers of a column.
	scaled := func(v VecVirtual, column, first int) {
		VCVTDQ2PS(v, v)
		VMULPS(scales[first/t.lanes], v, v)
		put(v, column, first)
	}
	load, store := f.load, put
	switch f.name {
	case "BF16":
		// Two elements turn around as one of 32 bits, which halves the work, and come apart afterwards.
		loop("pairs", dim, 2*t.lanes, func() {
			columns(4, whole, func(i int, pair VecVirtual, first int) {
				low := t.vector()
				VPSLLD(U8(16), pair, low)
				VPSRLD(U8(16), pair, pair)
				VPSLLD(U8(16), pair, pair)
				put(low, 2*i, first)
				put(pair, 2*i+1, first)
			})
			ADDQ(U32(uint32(4*pageKeys*2*t.lanes)), dst.Base)
		})
	case "I8":
		loop("fours", dim, 4*t.lanes, func() { // likewise
			columns(4, whole, func(i int, four VecVirtual, first int) {
				for j := range 4 {
					code := t.vector()
					VPSLLD(U8(24-8*j), four, code)
					VPSRAD(U8(24), code, code)
					scaled(code, 4*i+j, first)
				}
			})
			ADDQ(U32(uint32(4*pageKeys*4*t.lanes)), dst.Base)
		})
		load, store = func(m Mem, v VecVirtual) { VPMOVSXBD(m, v) }, scaled
	}
	loop("columns", dim, t.lanes, func() {
		columns(f.size, load, func(i int, column VecVirtual, first int) { store(column, i, first) })
		ADDQ(U32(uint32(4*pageKeys*t.lanes)), dst.Base)
	})
	end()
}

// rowScales returns the scales that end the 16 rows of a page, in order.
func (t isa) rowScales(page Mem, dim, row Register) (scales []VecVirtual) {
	numbers := GLOBL("rowNumbers"+t.name, RODATA|NOPTR)
	for i := range t.lanes {
		DATA(4*i, U32(i))
	}
	at, places := GP64(), t.vector() // of the first row's scale, and of others from there
	LEAQ(Mem{Base: page.Base, Index: dim, Scale: 1}, at)
	VMOVD(row.(GPVirtual).As32(), places.AsX())
	VPBROADCASTD(places.AsX(), places)
	VPMULLD(numbers, places, places)
	for first := 0; first < pageKeys; first += t.lanes {
		v := t.vector()
		from := Mem{Base: at, Index: places, Scale: 1}
		if t.lanes == 16 {
			all := K()
			KXNORW(all, all, all)
			VGATHERDPS(from, all, v)
		} else {
			all := t.vector()
			VPCMPEQD(all, all, all)
			VGATHERDPS(all, from, v)
			LEAQ(Mem{Base: at, Index: row, Scale: 8}, at)
		}
		scales = append(scales, v)
	}
	return scales
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
