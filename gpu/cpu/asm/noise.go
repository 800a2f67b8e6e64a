package main

import (
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// The constants of ref.Mix64.
const (
	golden = 0x9E3779B97F4A7C15
	mixA   = 0xBF58476D1CE4E5B9
	mixB   = 0x94D049BB133111EB
)

// lessOrEqual is the predicate of VCMPPD; false for NaN.
const lessOrEqual = 2

// product wraps, where a constant expression would overflow.
func product(a, b uint64) uint64 { return a * b }

// constants64 returns a vector of 64-bit values in read-only memory.
func (t isa) constants64(name string, value func(lane int) uint64) Mem {
	m := GLOBL(name+t.name, RODATA|NOPTR)
	for lane := range t.lanes / 2 {
		DATA(8*lane, U64(value(lane)))
	}
	return m
}

func (t isa) broadcast64(name string, value uint64) Mem {
	return t.constants64(name, func(int) uint64 { return value })
}

// chances draws the noise of consecutive tokens and marks those that race.enter would let
// contend. Lanes hold 64-bit integers and doubles, so a vector is half as many tokens.
func (t isa) chances() {
	t.begin("chances", "(marks *byte, weights *float32, n int, state uint64, bound float64)",
		"is tier.chances; state is the generator's before the first token, n a multiple of 8.")
	half := t.lanes / 2
	marks, weights, n := pointer("marks"), pointer("weights"), number("n")
	state, bound := t.vector(), t.vector()
	VPBROADCASTQ(scalar("state"), state)
	VBROADCASTSD(scalar("bound"), bound)
	first := t.constants64("noiseFirst", func(lane int) uint64 { return product(golden, uint64(lane+1)) })
	VPADDQ(first, state, state)
	next := t.broadcast64("noiseNext", product(golden, uint64(half)))
	factors := []factor{t.factor("mixA", mixA), t.factor("mixB", mixB)}
	ones, exponent := t.broadcast64("noiseOnes", math.MaxUint64), t.broadcast64("noise2p52", math.Float64bits(0x1p52))

	loop("tokens", n, 8, func() {
		mark := GP32()
		for part := range 8 / half {
			z := t.vector()
			t.foldRight(30, state, z)
			t.multiply(z, factors[0])
			t.foldRight(27, z, z)
			t.multiply(z, factors[1])
			t.foldRight(31, z, z)
			VPADDQ(next, state, state)

			// The complement of the top 52 bits as a double: they fill the fraction of a number
			// in [2^52, 2^53).
			t.xor(ones, z, z)
			VPSRLQ(U8(12), z, z)
			t.or(exponent, z, z)
			VSUBPD(exponent, z, z)
			limit := t.vector()
			VCVTPS2PD(weights.Offset(4*half*part), limit)
			VMULPD(bound, limit, limit)
			t.mark(mark, part, z, limit)
		}
		MOVB(mark.As8(), marks)
		INCQ(marks.Base)
		ADDQ(U8(4*8), weights.Base)
	})
	end()
}

// mark sets the bits of lanes where z <= limit.
func (t isa) mark(bits GPVirtual, part int, z, limit VecVirtual) {
	if t.lanes == 16 {
		k := K()
		VCMPPD(U8(lessOrEqual), limit, z, k)
		KMOVW(k, bits)
		return
	}
	VCMPPD(U8(lessOrEqual), limit, z, z)
	if part == 0 {
		VMOVMSKPD(z, bits)
		return
	}
	upper := GP32()
	VMOVMSKPD(z, upper)
	SHLL(U8(4*part), upper)
	ORL(upper, bits)
}

// foldRight: to = x ^ x>>by.
func (t isa) foldRight(by uint8, x, to VecVirtual) {
	shifted := t.vector()
	VPSRLQ(U8(by), x, shifted)
	t.xor(shifted, x, to)
}

func (t isa) xor(a Op, b, to VecVirtual) {
	if t.lanes == 16 {
		VPXORQ(a, b, to)
		return
	}
	VPXOR(a, b, to)
}

func (t isa) or(a Op, b, to VecVirtual) {
	if t.lanes == 16 {
		VPORQ(a, b, to)
		return
	}
	VPOR(a, b, to)
}

// factor is a 64-bit constant to multiply by, and its upper half.
type factor struct{ whole, upper Mem }

func (t isa) factor(name string, value uint64) factor {
	return factor{t.broadcast64(name, value), t.broadcast64(name+"Upper", value>>32)}
}

// multiply: x *= f, the low 64 bits. AVX2 has only 32 by 32 bits, so three of those make one.
func (t isa) multiply(x VecVirtual, f factor) {
	if t.lanes == 16 {
		VPMULLQ(f.whole, x, x)
		return
	}
	upper, cross := YMM(), YMM()
	VPSRLQ(U8(32), x, upper)
	VPMULUDQ(f.whole, upper, upper)
	VPMULUDQ(f.upper, x, cross)
	VPADDQ(cross, upper, upper)
	VPSLLQ(U8(32), upper, upper)
	VPMULUDQ(f.whole, x, x)
	VPADDQ(upper, x, x)
}
