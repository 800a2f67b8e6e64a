package main

import (
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// Predicates of VCMPPS.
const (
	unordered   = 3 // either is NaN
	notLessThan = 5 // true for NaN
)

// constant returns a vector of one float32 in read-only memory. The values and names follow
// math32.go in package cpu.
func (t isa) constant(name string, value float64) Mem {
	return t.constantBits(name, math.Float32bits(float32(value)))
}

var declared = map[string]Mem{}

func (t isa) constantBits(name string, bits uint32) Mem {
	if m, ok := declared[name]; ok {
		return m
	}
	m := GLOBL(name+t.name, RODATA|NOPTR)
	for lane := range t.lanes {
		DATA(4*lane, U32(bits))
	}
	declared[name] = m
	return m
}

// exp replaces x by e^x, the polynomial of cpu.exp32 with fused multiply-adds. NaN stays NaN.
func (t isa) exp(x VecVirtual) {
	inRange := t.notLess(x, t.constant("expSmallest", -87.33))
	limit := t.vector()
	VMOVUPS(t.constant("expLargest", 88.37), limit)
	VMINPS(x, limit, x) // the first operand, if either is NaN

	shifted, n, q := t.vector(), t.vector(), t.vector()
	VMOVUPS(t.constant("log2e", math.Log2E), shifted)
	VFMADD213PS(t.constant("roundMagic", 0x1.8p23), x, shifted)
	VSUBPS(t.constant("roundMagic", 0x1.8p23), shifted, n)
	VFNMADD231PS(t.constant("ln2Hi", 0.693359375), n, x)
	VFNMADD231PS(t.constant("ln2Lo", -0.00021219444170128554), n, x) // x is now r

	VMOVUPS(t.constant("expC4", 0.0013926213141530752), q)
	VFMADD213PS(t.constant("expC3", 0.008363203145563602), x, q)
	VFMADD213PS(t.constant("expC2", 0.041666556149721146), x, q)
	VFMADD213PS(t.constant("expC1", 0.16666576266288757), x, q)
	VFMADD213PS(t.constant("expC0", 0.5), x, q)
	square := t.vector()
	VMULPS(x, x, square)
	VFMADD213PS(x, square, q)
	VADDPS(t.constant("one", 1), q, q)

	// 2^n: shifted's low bits hold n.
	bias := uint32(127) - math.Float32bits(0x1.8p23)
	VPADDD(t.constantBits("expBias", bias), shifted, shifted)
	VPSLLD(U8(23), shifted, shifted)
	VMULPS(shifted, q, x)
	t.clearUnless(inRange, x)
}

// notLess compares lane by lane: !(x < limit).
func (t isa) notLess(x VecVirtual, limit Op) Register {
	if t.lanes == 16 {
		k := K()
		VCMPPS(U8(notLessThan), limit, x, k)
		return k
	}
	mask := YMM()
	VCMPPS(U8(notLessThan), limit, x, mask)
	return mask
}

// clearUnless zeroes the lanes of x that are not in mask.
func (t isa) clearUnless(mask Register, x VecVirtual) {
	if t.lanes == 16 {
		VMOVAPS_Z(x, mask, x)
		return
	}
	VANDPS(mask, x, x)
}

// elements runs body for each vector of n elements; every given pointer advances.
func (t isa) elements(n Register, body func(), moving ...Mem) {
	loop("vectors", n, t.lanes, func() {
		body()
		for _, m := range moving {
			ADDQ(U8(uint8(t.bytes())), m.Base)
		}
	})
}

func (t isa) expShift() {
	t.begin("expShift", "(x *float32, n int, shift float32, lanes *float32)",
		"is tier.expShift; it leaves the sum in 16 lanes, zero where there is none.")
	x, n := pointer("x"), number("n")
	shift, sum := t.vector(), t.vector()
	VBROADCASTSS(scalar("shift"), shift)
	t.zero(sum)
	t.elements(n, func() {
		v := t.vector()
		VMOVUPS(x, v)
		VSUBPS(shift, v, v)
		t.exp(v)
		VMOVUPS(v, x)
		VADDPS(v, sum, sum)
	}, x)
	VMOVUPS(sum, pointer("lanes"))
	end()
}

func (t isa) largest() {
	t.begin("largest", "(x *float32, n int, lanes *float32) (nan uint32)",
		"is tier.largest; it leaves the maximum in the lanes, and nan is not zero if there is one.")
	x, n := pointer("x"), number("n")
	best := t.vector()
	VMOVUPS(x, best)
	nan := GP32()
	XORL(nan, nan)
	t.elements(n, func() {
		v, found := t.vector(), GP32()
		VMOVUPS(x, v)
		VMAXPS(v, best, best)
		if t.lanes == 16 {
			k := K()
			VCMPPS(U8(unordered), v, v, k)
			KMOVW(k, found)
		} else {
			VCMPPS(U8(unordered), v, v, v)
			VMOVMSKPS(v, found)
		}
		ORL(found, nan)
	}, x)
	VMOVUPS(best, pointer("lanes"))
	Store(nan, ReturnIndex(0))
	end()
}

// gate: out = g / (1 + exp(exponent(g))) * up, which is SiLU for exponent -g and the tanh form
// of GELU for another.
func (t isa) gate(name string, exponent func(g, to VecVirtual)) {
	t.begin(name, "(out, gate, up *float32, n int)", "is an entry of tier.gates.")
	out, gate, up, n := pointer("out"), pointer("gate"), pointer("up"), number("n")
	t.elements(n, func() {
		g, e := t.vector(), t.vector()
		VMOVUPS(gate, g)
		exponent(g, e)
		t.exp(e)
		VADDPS(t.constant("one", 1), e, e)
		VDIVPS(e, g, g)
		VMULPS(up, g, g)
		VMOVUPS(g, out)
	}, out, gate, up)
	end()
}

func (t isa) negated(g, to VecVirtual) {
	t.zero(to)
	VSUBPS(g, to, to)
}

// geluExponent is -2 sqrt(2/pi) (g + 0.044715 g^3).
func (t isa) geluExponent(g, to VecVirtual) {
	const twice = 2 * math.Sqrt2 / math.SqrtPi
	square := t.vector()
	VMULPS(g, g, square)
	VMOVUPS(t.constant("geluCubic", -twice*0.044715), to)
	VFMADD213PS(t.constant("geluLinear", -twice), square, to)
	VMULPS(g, to, to)
}

// massAbove adds in float64, a half vector at a time.
func (t isa) massAbove() {
	t.begin("massAbove", "(values, weights *float32, n int, floor float32, lanes *float64)",
		"is tier.massAbove; it leaves the sum in 8 lanes, zero where there is none.")
	values, weights, n := pointer("values"), pointer("weights"), number("n")
	floor := t.vector()
	VBROADCASTSS(scalar("floor"), floor)
	sums := t.vectors(2)
	for _, s := range sums {
		t.zero(s)
	}
	t.elements(n, func() {
		v, w, low, high := t.vector(), t.vector(), t.vector(), t.vector()
		VMOVUPS(values, v)
		VMOVUPS(weights, w)
		t.clearUnless(t.notLess(v, floor), w)
		if t.lanes == 16 {
			VCVTPS2PD(w.AsY(), low)
			VEXTRACTF32X8(U8(1), w, high.AsY())
			VCVTPS2PD(high.AsY(), high)
		} else {
			VCVTPS2PD(w.AsX(), low)
			VEXTRACTF128(U8(1), w, high.AsX())
			VCVTPS2PD(high.AsX(), high)
		}
		VADDPD(low, sums[0], sums[0])
		VADDPD(high, sums[1], sums[1])
	}, values, weights)
	VADDPD(sums[1], sums[0], sums[0])
	VMOVUPD(sums[0], pointer("lanes"))
	end()
}
