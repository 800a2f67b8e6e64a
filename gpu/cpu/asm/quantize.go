package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// quantizeRow rounds activations to 8 bits, 32 with one scale, or fine to 15; see package cpu. undo is quantOrder.
func (t isa) quantizeRow(undo Mem, fine bool) {
	if fine {
		t.begin("quantizeFineRow", "(codes, low *byte, largest *float32, sums *int32, x *float32, blocks int)",
			"is quantTier.quantizeFine: the codes' parts, the largest absolute values, and the sums of codes in each half block.")
	} else {
		t.begin("quantizeRow", "(codes *byte, largest *float32, sums *int32, x *float32, blocks int)",
			"is quantTier.quantize: codes, the largest absolute values, and the sums of codes in each half block.")
	}
	codes, largest, sums, x := pointer("codes"), pointer("largest"), pointer("sums"), pointer("x")
	var low Mem
	if fine {
		low = pointer("low")
	}
	blocks := number("blocks")
	fill := func(value uint32) VecVirtual {
		r, v := GP32(), YMM()
		MOVL(U32(value), r)
		VMOVD(r, v.AsX())
		VPBROADCASTD(v.AsX(), v)
		return v
	}
	absolute, limit, half := fill(0x7fffffff), fill(0x42fe0000), VecVirtual(nil) // 127
	if fine {
		limit, half = fill(0x467e0000), fill(1<<(fineBits-1)) // 127 * 128
	}
	order := YMM()
	VMOVDQU(undo, order)
	loop("quantize", blocks, 1, func() {
		v := t.vectors(4)
		top := YMM()
		for i := range v {
			VMOVUPS(x.Offset(32*i), v[i])
			size := YMM()
			VPAND(v[i], absolute, size)
			if i == 0 {
				top = size
			} else {
				VPMAXUD(size, top, top) // absolute values order like their bits, and NaN is above all
			}
		}
		other := YMM()
		VEXTRACTI128(U8(1), top, other.AsX())
		VPMAXUD(other.AsX(), top.AsX(), top.AsX())
		for _, swap := range []uint8{0b01001110, 0b10110001} {
			VPSHUFD(U8(swap), top.AsX(), other.AsX())
			VPMAXUD(other.AsX(), top.AsX(), top.AsX())
		}
		VMOVD(top.AsX(), largest)
		VPBROADCASTD(top.AsX(), top)
		factor := YMM()
		VDIVPS(top, limit, factor)
		for i := range v {
			VMULPS(factor, v[i], v[i])
			VCVTPS2DQ(v[i], v[i])
		}
		first, second := YMM(), YMM()
		VPADDD(v[1], v[0], first)
		VPADDD(v[3], v[2], second)
		VPHADDD(second, first, first)
		VPHADDD(first, first, first)
		VEXTRACTI128(U8(1), first, second.AsX())
		VPADDD(second.AsX(), first.AsX(), first.AsX())
		VMOVQ(first.AsX(), sums)
		bytes := func(v []VecVirtual, to Mem) {
			VPACKSSDW(v[1], v[0], v[0])
			VPACKSSDW(v[3], v[2], v[2])
			VPACKSSWB(v[2], v[0], v[0])
			VPERMD(v[0], order, v[0])
			VMOVDQU(v[0], to)
			ADDQ(U32(32), to.Base)
		}
		if fine {
			upper := t.vectors(4)
			for i, u := range upper {
				multiple := YMM()
				VPADDD(half, v[i], u)
				VPSRAD(U8(fineBits), u, u)
				VPSLLD(U8(fineBits), u, multiple)
				VPSUBD(multiple, v[i], v[i])
			}
			bytes(v, low)
			v = upper
		}
		bytes(v, codes)
		ADDQ(U32(4), largest.Base)
		ADDQ(U32(8), sums.Base)
		ADDQ(U32(128), x.Base)
	})
	end()
}

// quantOrder undoes the packs' interleaving of 128-bit lanes.
func quantOrder() Mem {
	order := GLOBL("quantOrder", RODATA|NOPTR)
	for i, v := range []uint32{0, 4, 1, 5, 2, 6, 3, 7} {
		DATA(4*i, U32(v))
	}
	return order
}
