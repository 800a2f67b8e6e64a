package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// squares sums squares in float64, half a vector of float32 at a time in two chains.
func (t isa) squares() {
	t.begin("squares", "(x *float32, n int, lanes *float64)",
		"sums the squares of n elements, a multiple of 16, into 8 lanes.")
	x, n := pointer("x"), number("n")
	sums := []VecVirtual{t.vector(), t.vector()}
	for _, s := range sums {
		t.zero(s)
	}
	loop("vectors", n, t.lanes, func() {
		for i, sum := range sums {
			wide := t.vector()
			VCVTPS2PD(x.Offset(i*t.bytes()/2), wide)
			VFMADD231PD(wide, wide, sum)
		}
		ADDQ(U8(uint8(t.bytes())), x.Base)
	})
	VADDPD(sums[1], sums[0], sums[0])
	VMOVUPD(sums[0], pointer("lanes"))
	end()
}

// scaleRow: out = x * scale * (weight + offset).
func (t isa) scaleRow() {
	t.begin("scaleRow", "(out, x, weight *float32, n int, scale, offset float32)",
		"is out = x * scale * (weight + offset) for n elements, a multiple of 16.")
	out, x, weight, n := pointer("out"), pointer("x"), pointer("weight"), number("n")
	scale, offset := t.vector(), t.vector()
	VBROADCASTSS(scalar("scale"), scale)
	VBROADCASTSS(scalar("offset"), offset)
	t.elements(n, func() {
		v, w := t.vector(), t.vector()
		VMULPS(x, scale, v)
		VADDPS(weight, offset, w)
		VMULPS(w, v, v)
		VMOVUPS(v, out)
	}, out, x, weight)
	end()
}

// addTo: dst += src.
func (t isa) addTo() {
	t.begin("addTo", "(dst, src *float32, n int)", "is dst += src for n elements, a multiple of 16.")
	dst, src, n := pointer("dst"), pointer("src"), number("n")
	t.elements(n, func() {
		v := t.vector()
		VMOVUPS(src, v)
		VADDPS(dst, v, v)
		VMOVUPS(v, dst)
	}, dst, src)
	end()
}

func (t isa) divide() {
	t.begin("divide", "(x *float32, n int, by float32)", "is tier.divide.")
	x, n := pointer("x"), number("n")
	by := t.vector()
	VBROADCASTSS(scalar("by"), by)
	t.elements(n, func() {
		v := t.vector()
		VMOVUPS(x, v)
		VDIVPS(by, v, v)
		VMOVUPS(v, x)
	}, x)
	end()
}
