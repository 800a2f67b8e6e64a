package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

const panelRows = 16

// format is a weight type: its size, and how a vector of it is widened to float32.
type format struct {
	name string
	size int
	load func(from Mem, to VecVirtual)
}

var formats = []format{
	{"BF16", 2, func(from Mem, to VecVirtual) {
		VPMOVZXWD(from, to)
		VPSLLD(U8(16), to, to)
	}},
	{"F16", 2, func(from Mem, to VecVirtual) { VCVTPH2PS(from, to) }},
	{"F32", 4, func(from Mem, to VecVirtual) { VMOVUPS(from, to) }},
}

func (t isa) matrixKernels() {
	for _, f := range formats {
		for _, s := range t.tiles {
			t.matrixKernel(f, s)
			if s.panels > 1 {
				t.matrixKernel(f, shape{s.tokens, 1})
			}
		}
	}
	shapes := t.tiles
	if t.lanes == 8 {
		shapes = []shape{{1, 4}, {2, 2}, {4, 1}} // widening takes registers
	}
	for _, s := range shapes {
		t.pairKernel(s)
		if s.panels > 1 {
			t.pairKernel(shape{s.tokens, 1})
		}
	}
	t.interleave4()
}

// Modes of a panelKernel, as in package cpu.
const (
	panelSet = iota
	panelResume
	panelAdd
)

// matrixKernel is a panelKernel of package cpu:
// out[t][r] = sum over k of x[k][t] * w[k][r], one fused multiply-add per term in order of k.
func (t isa) matrixKernel(f format, s shape) {
	t.begin(fmt.Sprintf("matmul%sT%dP%d", f.name, s.tokens, s.panels),
		"(out *float32, row uintptr, w *byte, stride uintptr, x *float32, k, mode int)",
		fmt.Sprintf("is a panelKernel for %d tokens and %d panels.", s.tokens, s.panels))
	x := pointer("x")
	panels := panelAddresses(s.panels)
	k := number("k")

	perPanel := panelRows / t.lanes
	columns := s.panels * perPanel
	acc := t.vectors(s.tokens * columns)
	// each visits the places of the sums.
	each := func(do func(m Mem, v VecVirtual)) {
		out, row := pointer("out"), number("row")
		for token := range s.tokens {
			for column := range columns {
				do(out.Offset(column*t.bytes()), acc[token*columns+column])
			}
			if token+1 < s.tokens {
				ADDQ(row, out.Base)
			}
		}
	}
	CMPQ(number("mode"), U32(panelResume))
	JEQ(LabelRef("resume"))
	zero := t.vector()
	t.zero(zero)
	for _, a := range acc {
		VMOVAPS(zero, a)
	}
	JMP(LabelRef("unrolled"))
	Label("resume")
	each(func(m Mem, v VecVirtual) { VMOVUPS(m, v) })
	weight := func(step, column int) Mem {
		within := step*panelRows + column%perPanel*t.lanes
		return panels[column/perPanel].Offset(within * f.size)
	}
	const unroll = 4
	advance := func(steps int) {
		ADDQ(U32(uint32(steps*panelRows*f.size)), panels[0].Base)
		ADDQ(U32(uint32(steps*s.tokens*4)), x.Base)
	}
	steps := func(n int) func() {
		return func() {
			for step := range n {
				t.ask(s, step, f.size, weight)
				t.outerProduct(s.tokens, columns, acc, x.Offset(step*s.tokens*4),
					func(column int, to VecVirtual) { f.load(weight(step, column), to) })
			}
			advance(n)
		}
	}
	loop("unrolled", k, unroll, steps(unroll))
	loop("single", k, 1, steps(1))
	CMPQ(number("mode"), U32(panelAdd))
	JNE(LabelRef("store"))
	each(func(m Mem, v VecVirtual) { VADDPS(m, v, v) })
	Label("store")
	each(func(m Mem, v VecVirtual) { VMOVUPS(v, m) })
	end()
}

// pairKernel is a panelKernel of package cpu for bfloat16 in pairs: out[t][r] = sum over k of x[k][t] * w[k][r], where
// elements are pairs whose products are added. AVX-512 has an instruction for that; AVX2 widens.
func (t isa) pairKernel(s shape) {
	t.begin(fmt.Sprintf("matmulPairT%dP%d", s.tokens, s.panels),
		"(out *float32, row uintptr, w *byte, stride uintptr, x *float32, k, mode int)",
		fmt.Sprintf("is a panelKernel for %d tokens and %d panels of pairs.", s.tokens, s.panels))
	x := pointer("x")
	panels := panelAddresses(s.panels)
	k := number("k")
	perPanel := panelRows / t.lanes
	columns := s.panels * perPanel
	acc := t.vectors(s.tokens * columns)
	upper := t.vector() // the second of each pair
	if t.lanes == 8 {
		VMOVUPS(t.constantBits("pairUpper", 0xffff0000), upper)
	}
	each := func(do func(m Mem, v VecVirtual)) {
		out, row := pointer("out"), number("row")
		for token := range s.tokens {
			for column := range columns {
				do(out.Offset(column*t.bytes()), acc[token*columns+column])
			}
			if token+1 < s.tokens {
				ADDQ(row, out.Base)
			}
		}
	}
	CMPQ(number("mode"), U32(panelResume))
	JEQ(LabelRef("resume"))
	for _, a := range acc {
		t.zero(a)
	}
	JMP(LabelRef("unrolled"))
	Label("resume")
	each(func(m Mem, v VecVirtual) { VMOVUPS(m, v) })
	weight := func(step, column int) Mem {
		return panels[column/perPanel].Offset(4 * (step*panelRows + column%perPanel*t.lanes))
	}
	steps := func(n int) func() {
		return func() {
			for step := range n {
				t.ask(s, step, 4, weight)
				if t.lanes == 16 {
					t.pairProducts(s.tokens, columns, acc, x.Offset(step*s.tokens*4), func(column int) Mem { return weight(step, column) })
				} else {
					t.widenedProducts(s.tokens, columns, acc, upper, x.Offset(step*s.tokens*4), func(column int) Mem { return weight(step, column) })
				}
			}
			ADDQ(U32(uint32(4*n*panelRows)), panels[0].Base)
			ADDQ(U32(uint32(4*n*s.tokens)), x.Base)
		}
	}
	loop("unrolled", k, 4, steps(4))
	loop("single", k, 1, steps(1))
	CMPQ(number("mode"), U32(panelAdd))
	JNE(LabelRef("store"))
	each(func(m Mem, v VecVirtual) { VADDPS(m, v, v) })
	Label("store")
	each(func(m Mem, v VecVirtual) { VMOVUPS(v, m) })
	end()
}

// pairProducts adds one step of k. VPDPWSSD stands for VDPBF16PS, which the assembler does not know: see pairEncodings.
func (t isa) pairProducts(tokens, columns int, acc []VecVirtual, x Mem, weight func(column int) Mem) {
	held := t.vectors(columns)
	for column, h := range held {
		VMOVUPS(weight(column), h)
	}
	for token := range tokens {
		v := t.vector()
		VPBROADCASTD(x.Offset(4*token), v)
		for column, h := range held {
			VPDPWSSD(v, h, acc[token*columns+column])
		}
	}
}

// widenedProducts adds one step of k: all first elements of pairs, then the second ones, in the order of pairs.
func (t isa) widenedProducts(tokens, columns int, acc []VecVirtual, upper VecVirtual, x Mem, weight func(column int) Mem) {
	for column := range columns {
		pair, first := t.vector(), t.vector()
		VMOVUPS(weight(column), pair)
		VPSLLD(U8(16), pair, first)
		VPAND(upper, pair, pair)
		for token := range tokens {
			v, low := t.vector(), t.vector()
			VPBROADCASTD(x.Offset(4*token), v)
			VPSLLD(U8(16), v, low)
			VFMADD231PS(low, first, acc[token*columns+column])
			VPAND(upper, v, v)
			VFMADD231PS(v, pair, acc[token*columns+column])
		}
	}
}

// interleave4 turns four rows around: element i of them goes to dst[i*width:].
func (t isa) interleave4() {
	t.begin("interleave4", "(dst *float32, width uintptr, a, b, c, d *float32, n int)",
		fmt.Sprintf("is tier.interleave4 for n elements, a multiple of %d; width is in bytes.", t.lanes))
	dst, width, n := pointer("dst"), number("width"), number("n")
	rows := []Mem{pointer("a"), pointer("b"), pointer("c"), pointer("d")}
	t.elements(n, func() {
		v := t.vectors(4)
		for i, row := range rows {
			VMOVUPS(row, v[i])
		}
		t.quarters(v)
		for i := range t.lanes {
			switch quarter := i / 4; {
			case quarter == 0:
				VMOVUPS(v[i%4].AsX(), dst)
			case t.lanes == 8:
				VEXTRACTF128(U8(1), v[i%4], dst)
			default:
				VEXTRACTF32X4(U8(uint8(quarter)), v[i%4], dst)
			}
			ADDQ(width, dst.Base)
		}
	}, rows...)
	end()
}

// panelAddresses returns where each panel's current weights are. Panel i is i strides past the
// base, and addressing scales a register by 1, 2, 4 or 8, so a few odd multiples suffice and
// only the base has to advance.
func panelAddresses(n int) []Mem {
	base := pointer("w").Base
	out := []Mem{{Base: base}}
	if n == 1 {
		return out
	}
	multiples := map[int]Register{1: number("stride")}
	for odd := 3; odd < n; odd += 2 {
		r := GP64()
		MOVQ(multiples[odd-2], r)
		ADDQ(multiples[1], r)
		ADDQ(multiples[1], r)
		multiples[odd] = r
	}
	for i := 1; i < n; i++ {
		odd, scale := i, 1
		for odd%2 == 0 {
			odd, scale = odd/2, scale*2
		}
		out = append(out, Mem{Base: base, Index: multiples[odd], Scale: uint8(scale)})
	}
	return out
}

// weightsAhead is how many bytes before they are needed weights are asked for; see quantPass.ahead.
const weightsAhead = 4096

// ask asks for the line of each panel that lies ahead of a step's weights, of rows of elements of so many bytes. Tiles of
// few tokens and many panels keep the processor's own prefetching busy, and asking makes them slower.
func (t isa) ask(s shape, step, size int, weight func(step, column int) Mem) {
	const line = 64
	if s.tokens < 4 || s.panels > 2 || step*panelRows*size%line != 0 {
		return
	}
	perPanel := panelRows / t.lanes
	for panel := range s.panels {
		PREFETCHT0(weight(step, panel*perPanel).Offset(weightsAhead))
	}
}

// outerProduct adds one step of k. Whichever of the activations and the weights needs fewer
// registers is held in them while the other passes through one.
func (t isa) outerProduct(tokens, columns int, acc []VecVirtual, x Mem, load func(column int, to VecVirtual)) {
	fma := func(token, column int, activation, weight VecVirtual) {
		VFMADD231PS(activation, weight, acc[token*columns+column])
	}
	if tokens < columns {
		held := t.vectors(tokens)
		for token, h := range held {
			VBROADCASTSS(x.Offset(4*token), h)
		}
		for column := range columns {
			w := t.vector()
			load(column, w)
			for token, h := range held {
				fma(token, column, h, w)
			}
		}
		return
	}
	held := t.vectors(columns)
	for column, h := range held {
		load(column, h)
	}
	for token := range tokens {
		v := t.vector()
		VBROADCASTSS(x.Offset(4*token), v)
		for column, h := range held {
			fma(token, column, v, h)
		}
	}
}
