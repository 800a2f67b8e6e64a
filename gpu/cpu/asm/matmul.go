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
}

// matrixKernel is a panelKernel of package cpu:
// sums[t][r] += sum over k of x[k][t] * w[k][r], one fused multiply-add per term in order of k.
func (t isa) matrixKernel(f format, s shape) {
	t.begin(fmt.Sprintf("matmul%sT%dP%d", f.name, s.tokens, s.panels),
		"(sums *float32, w *byte, stride uintptr, x *float32, k int)",
		fmt.Sprintf("is a panelKernel for %d tokens and %d panels.", s.tokens, s.panels))
	sums, x := pointer("sums"), pointer("x")
	panels := panelAddresses(s.panels)
	k := number("k")

	perPanel := panelRows / t.lanes
	columns := s.panels * perPanel
	acc := t.vectors(s.tokens * columns)
	for i, a := range acc {
		VMOVUPS(sums.Offset(i*t.bytes()), a)
	}
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
				t.outerProduct(s.tokens, columns, acc, x.Offset(step*s.tokens*4),
					func(column int, to VecVirtual) { f.load(weight(step, column), to) })
			}
			advance(n)
		}
	}
	loop("unrolled", k, unroll, steps(unroll))
	loop("single", k, 1, steps(1))
	for i, a := range acc {
		VMOVUPS(a, sums.Offset(i*t.bytes()))
	}
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
