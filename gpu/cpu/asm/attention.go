package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// dots multiplies one query with consecutive keys. Four keys at a time give four chains; a key's
// own sum is the same whether it is in a group of four or alone, because each has one chain and
// one way of folding it.
func (t isa) dots() {
	t.begin("dots", "(scores, q, keys *float32, n, dim int, scale float32)",
		fmt.Sprintf("is tier.dots; dim is a positive multiple of %d.", t.lanes))
	scores, q, keys := pointer("scores"), pointer("q"), pointer("keys")
	n, dim := number("n"), number("dim")
	scale := XMM()
	VBROADCASTSS(scalar("scale"), scale)
	SHLQ(U8(2), dim) // bytes of a key

	loop("four", n, 4, func() {
		at, row3 := GP64(), GP64()
		LEAQ(Mem{Base: dim, Index: dim, Scale: 2}, row3)
		ADDQ(keys.Base, row3)
		parts := t.keyDots(q, dim, at, []Mem{
			{Base: keys.Base}, {Base: keys.Base, Index: dim, Scale: 1}, {Base: keys.Base, Index: dim, Scale: 2}, {Base: row3},
		}, keys.Base, row3)
		low, high := XMM(), XMM()
		VHADDPS(parts[1], parts[0], low)
		VHADDPS(parts[3], parts[2], high)
		VHADDPS(high, low, low)
		VMULPS(scale, low, low)
		VMOVUPS(low, scores)
		ADDQ(U8(16), scores.Base)
		// keyDots moved keys by one key; skip the other three.
		ADDQ(dim, keys.Base)
		ADDQ(dim, keys.Base)
		ADDQ(dim, keys.Base)
	})
	loop("one", n, 1, func() {
		part := t.keyDots(q, dim, GP64(), []Mem{{Base: keys.Base}}, keys.Base)[0]
		VHADDPS(part, part, part)
		VHADDPS(part, part, part)
		VMULPS(scale, part, part)
		VMOVSS(part, scores)
		ADDQ(U8(4), scores.Base)
	})
	end()
}

// keyDots multiplies q with the keys and folds each product to four partial sums. The moving
// registers end one key further.
func (t isa) keyDots(q Mem, dim, left Register, keys []Mem, moving ...Register) []VecVirtual {
	acc := t.vectors(len(keys))
	for _, a := range acc {
		t.zero(a)
	}
	query := GP64()
	MOVQ(q.Base, query)
	MOVQ(dim, left)
	loop(fmt.Sprintf("dim%d", len(keys)), left, t.bytes(), func() {
		v := t.vector()
		VMOVUPS(Mem{Base: query}, v)
		for i, key := range keys {
			VFMADD231PS(key, v, acc[i])
		}
		ADDQ(U8(uint8(t.bytes())), query)
		for _, m := range moving {
			ADDQ(U8(uint8(t.bytes())), m)
		}
	})
	out := make([]VecVirtual, len(keys))
	for i, a := range acc {
		out[i] = t.fold(a)
	}
	return out
}

// fold adds the upper half of a vector to the lower until four lanes are left.
func (t isa) fold(v VecVirtual) VecVirtual {
	half := v
	if t.lanes == 16 {
		upper := YMM()
		VEXTRACTF32X8(U8(1), v, upper)
		half = YMM()
		VADDPS(upper, v.AsY(), half)
	}
	upper, quarter := XMM(), XMM()
	VEXTRACTF128(U8(1), half.AsY(), upper)
	VADDPS(upper, half.AsX(), quarter)
	return quarter
}

// mixOne adds one weighted value.
func (t isa) mixOne() {
	t.begin("mixOne", "(out, value *float32, dim int, weight float32)",
		fmt.Sprintf("is tier.mixOne; dim is a positive multiple of %d.", t.lanes))
	out, value, dim := pointer("out"), pointer("value"), number("dim")
	weight := t.vector()
	VBROADCASTSS(scalar("weight"), weight)
	t.elements(dim, func() {
		acc := t.vector()
		VMOVUPS(out, acc)
		VFMADD231PS(value, weight, acc)
		VMOVUPS(acc, out)
	}, out, value)
	end()
}

// mixFour adds values in four chains. A stretch of each chain stays in registers while all
// values pass, widest stretches first.
func (t isa) mixFour() {
	const chains = 4
	t.begin("mixFour", "(chains, weights, values *float32, n, dim int)",
		fmt.Sprintf("is tier.mixFour; n is a multiple of 4, dim a positive multiple of %d.", t.lanes))
	base, weights, values := pointer("chains"), pointer("weights"), pointer("values")
	n, dim := number("n"), number("dim")
	row, row3 := GP64(), GP64()
	MOVQ(dim, row)
	SHLQ(U8(2), row)
	LEAQ(Mem{Base: row, Index: row, Scale: 2}, row3)
	rowsFrom := func(base Register) []Mem {
		return []Mem{{Base: base}, {Base: base, Index: row, Scale: 1}, {Base: base, Index: row, Scale: 2}, {Base: base, Index: row3, Scale: 1}}
	}
	widths := []int{2, 1}
	if t.lanes == 16 { // twice the registers
		widths = []int{4, 2, 1}
	}
	for _, width := range widths {
		loop(fmt.Sprintf("wide%d", width), dim, width*t.lanes, func() {
			acc := t.vectors(chains * width)
			each := func(do func(memory Mem, v VecVirtual)) {
				for chain, m := range rowsFrom(base.Base) {
					for i := range width {
						do(m.Offset(i*t.bytes()), acc[chain*width+i])
					}
				}
			}
			each(func(m Mem, v VecVirtual) { VMOVUPS(m, v) })
			left, w, v := GP64(), GP64(), GP64()
			MOVQ(n, left)
			MOVQ(weights.Base, w)
			MOVQ(values.Base, v)
			loop(fmt.Sprintf("values%d", width), left, chains, func() {
				for chain, value := range rowsFrom(v) {
					weight := t.vector()
					VBROADCASTSS(Mem{Base: w, Disp: 4 * chain}, weight)
					for i := range width {
						VFMADD231PS(value.Offset(i*t.bytes()), weight, acc[chain*width+i])
					}
				}
				ADDQ(U8(4*chains), w)
				LEAQ(Mem{Base: v, Index: row, Scale: 4}, v)
			})
			each(func(m Mem, v VecVirtual) { VMOVUPS(v, m) })
			ADDQ(U32(uint32(width*t.bytes())), base.Base)
			ADDQ(U32(uint32(width*t.bytes())), values.Base)
		})
	}
	end()
}

// prefetch asks for memory that a later call will read.
func (t isa) prefetch() {
	const line = 16 // float32
	t.begin("prefetch", "(x *float32, n int)", "is tier.prefetch.")
	x, n := pointer("x"), number("n")
	loop("lines", n, line, func() {
		PREFETCHT0(x)
		ADDQ(U8(4*line), x.Base)
	})
	RET()
}
