package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
)

// The two loops below compute nothing: benchmarks compare kernels with them.

func (t isa) readLoop() {
	const unroll = 8
	t.begin("readLoop", "(p *byte, n int)",
		"reads n bytes, a multiple of 512, and discards them: the ceiling for streaming weights.")
	p, n := pointer("p"), number("n")
	loop("read", n, unroll*64, func() {
		sink := t.vector()
		for at := 0; at < unroll*64; at += t.bytes() {
			VMOVUPS(p.Offset(at), sink)
		}
		ADDQ(U32(unroll*64), p.Base)
	})
	end()
}

func (t isa) fmaLoop() {
	const chains = 12
	t.begin("fmaLoop", "(n int)", "runs n rounds of 12 independent multiply-adds: the ceiling for arithmetic.")
	n := number("n")
	v := t.vector()
	t.zero(v)
	acc := t.vectors(chains)
	for _, a := range acc {
		t.zero(a)
	}
	loop("fma", n, 1, func() {
		for _, a := range acc {
			VFMADD231PS(v, v, a)
		}
	})
	end()
}
