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

// mix accumulates weighted values. A stretch of the output stays in registers while all values
// pass, widest stretches first; every element is one chain in order of the values.
func (t isa) mix() {
	t.begin("mix", "(out, weights, values *float32, n, dim int)",
		fmt.Sprintf("is tier.mix; dim is a positive multiple of %d.", t.lanes))
	out, weights, values := pointer("out"), pointer("weights"), pointer("values")
	n, dim := number("n"), number("dim")
	row := GP64()
	MOVQ(dim, row)
	SHLQ(U8(2), row)
	for _, width := range []int{8, 4, 2, 1} {
		loop(fmt.Sprintf("wide%d", width), dim, width*t.lanes, func() {
			acc := t.vectors(width)
			for i, a := range acc {
				VMOVUPS(out.Offset(i*t.bytes()), a)
			}
			left, w, v := GP64(), GP64(), GP64()
			MOVQ(n, left)
			MOVQ(weights.Base, w)
			MOVQ(values.Base, v)
			loop(fmt.Sprintf("values%d", width), left, 1, func() {
				weight := t.vector()
				VBROADCASTSS(Mem{Base: w}, weight)
				for i, a := range acc {
					VFMADD231PS(Mem{Base: v}.Offset(i*t.bytes()), weight, a)
				}
				ADDQ(U8(4), w)
				ADDQ(row, v)
			})
			for i, a := range acc {
				VMOVUPS(a, out.Offset(i*t.bytes()))
			}
			ADDQ(U32(uint32(width*t.bytes())), out.Base)
			ADDQ(U32(uint32(width*t.bytes())), values.Base)
		})
	}
	end()
}
