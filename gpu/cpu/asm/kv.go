package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// rotate applies rotary positions to the heads of one token: pairs are (i, i+half).
func (t isa) rotate() {
	t.begin("rotate", "(x, cos, sin *float32, half, heads, dim int)",
		"is tier.rotate for half a positive multiple of 8 or 16, the lanes of a vector.")
	x, heads, dim := pointer("x"), number("heads"), number("dim")
	SHLQ(U8(2), dim)
	high := GP64()
	loop("heads", heads, 1, func() {
		low, cos, sin, half := GP64(), pointer("cos"), pointer("sin"), number("half")
		MOVQ(x.Base, low)
		LEAQ(Mem{Base: low, Index: half, Scale: 4}, high)
		t.elements(half, func() {
			u, v, c, s, product := t.vector(), t.vector(), t.vector(), t.vector(), t.vector()
			VMOVUPS(Mem{Base: low}, u)
			VMOVUPS(Mem{Base: high}, v)
			VMOVUPS(cos, c)
			VMOVUPS(sin, s)
			VMULPS(v, s, product)
			VMULPS(u, s, s)
			VMULPS(u, c, u)
			VSUBPS(product, u, u)
			VMULPS(v, c, v)
			VADDPS(s, v, v)
			VMOVUPS(u, Mem{Base: low})
			VMOVUPS(v, Mem{Base: high})
		}, Mem{Base: low}, Mem{Base: high}, cos, sin)
		ADDQ(dim, x.Base)
	})
	end()
}

// narrow rounds float32 to bfloat16, ties to even. NaN stays NaN: rounding would carry some of
// them into the exponent.
func (t isa) narrow() {
	t.begin("narrow", "(dst *uint16, src *float32, n int)", "is tier.narrow for n elements, a multiple of 16.")
	dst, src, n := pointer("dst"), pointer("src"), number("n")
	one, bias, quiet := t.constantBits("narrowOne", 1), t.constantBits("narrowBias", 0x7fff), t.constantBits("narrowQuiet", 0x40)
	loop("vectors", n, 16, func() {
		var parts []VecVirtual
		for at := 0; at < 16; at += t.lanes {
			v, odd, upper := t.vector(), t.vector(), t.vector()
			VMOVUPS(src.Offset(4*at), v)
			VPSRLD(U8(16), v, upper)
			if t.lanes == 16 {
				VPANDD(one, upper, odd)
				VPORD(quiet, upper, upper)
			} else {
				VPAND(one, upper, odd)
				VPOR(quiet, upper, upper)
			}
			VPADDD(bias, odd, odd)
			VPADDD(v, odd, odd)
			VPSRLD(U8(16), odd, odd)
			if t.lanes == 16 {
				nan := K()
				VCMPPS(U8(unordered), v, v, nan)
				VMOVDQA32(upper, nan, odd)
			} else {
				VCMPPS(U8(unordered), v, v, v)
				VBLENDVPS(v, upper, odd, odd)
			}
			parts = append(parts, odd)
		}
		if t.lanes == 16 {
			VPMOVDW(parts[0], dst)
		} else {
			VPACKUSDW(parts[1], parts[0], parts[0])
			VPERMQ(U8(0xd8), parts[0], parts[0])
			VMOVUPS(parts[0], dst)
		}
		ADDQ(U8(64), src.Base)
		ADDQ(U8(32), dst.Base)
	})
	end()
}

// codes rounds a row to 8 bits with one scale.
func (t isa) codes() {
	t.begin("codes", "(codes *byte, x *float32, n int, largest *float32)", "is tier.codes for n elements, a positive multiple of 16.")
	codes, x, n, largest := pointer("codes"), pointer("x"), number("n"), pointer("largest")
	absolute, limit := t.constantBits("codesAbsolute", 0x7fffffff), t.constant("codesLimit", 127)
	top := t.vector()
	t.zero(top)
	loop("largest", n, t.lanes, func() {
		v := t.vector()
		VMOVUPS(x, v)
		if t.lanes == 16 {
			VPANDD(absolute, v, v)
		} else {
			VPAND(absolute, v, v)
		}
		VPMAXUD(v, top, top) // absolute values order like their bits, and NaN is above all
		ADDQ(U32(uint32(t.bytes())), x.Base)
	})
	other := YMM()
	if t.lanes == 16 {
		VEXTRACTI64X4(U8(1), top, other)
		VPMAXUD(other, top.AsY(), top.AsY())
	}
	VEXTRACTI128(U8(1), top.AsY(), other.AsX())
	VPMAXUD(other.AsX(), top.AsX(), top.AsX())
	for _, swap := range []uint8{0b01001110, 0b10110001} {
		VPSHUFD(U8(swap), top.AsX(), other.AsX())
		VPMAXUD(other.AsX(), top.AsX(), top.AsX())
	}
	VMOVD(top.AsX(), largest)
	VPBROADCASTD(top.AsX(), top)
	factor := t.vector()
	VMOVUPS(limit, factor)
	VDIVPS(top, factor, factor)
	x, n = pointer("x"), number("n")
	loop("round", n, 16, func() {
		v := t.vectors(16 / t.lanes)
		for i := range v {
			VMULPS(x.Offset(i*t.bytes()), factor, v[i])
			VCVTPS2DQ(v[i], v[i])
		}
		if t.lanes == 16 {
			VPMOVSDB(v[0], codes)
		} else {
			upper := XMM()
			VPACKSSDW(v[1], v[0], v[0])
			VPERMQ(U8(0xd8), v[0], v[0])
			VEXTRACTI128(U8(1), v[0], upper)
			VPACKSSWB(upper, v[0].AsX(), upper)
			VMOVDQU(upper, codes)
		}
		ADDQ(U8(64), x.Base)
		ADDQ(U8(16), codes.Base)
	})
	end()
}

// prefetch asks for memory that is used soon.
func (t isa) prefetch() {
	t.begin("prefetch", "(p *byte, n int)", "is tier.prefetch for n bytes.")
	p, n := pointer("p"), number("n")
	Label("line")
	PREFETCHT0(p)
	ADDQ(U8(64), p.Base)
	SUBQ(U8(64), n)
	JG(LabelRef("line"))
	RET()
}
