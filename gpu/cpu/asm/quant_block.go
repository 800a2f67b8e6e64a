package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// Below is what a pass does with a block of 32 steps of k: integer products of codes, and what scales make of them.

// block adds 32 steps of k. units is where the panels' units begin, blocks where the block does: of a
// format with one block to a unit that is the same place.
func (p *quantPass) block(units, blocks []Mem) {
	codes := p.f.scales
	if p.f.blocks == 1 {
		codes = p.f.header
	}
	p.dots = p.vectors(len(p.sums))
	switch {
	case p.f.high:
		p.sixths(blocks, codes)
	case p.f.fine:
		for _, dot := range p.dots {
			p.zero(dot)
		}
		p.products(blocks, codes, 0)
		for _, dot := range p.dots {
			VPSLLD(U8(fineBits), dot, dot)
		}
		p.correct()
		p.products(blocks, codes, 8)
	default:
		p.clear(0)
		p.products(blocks, codes, 0)
	}
	for i := range p.columns {
		if p.f.blocks == 1 && p.s.tokens > 1 { // units are no whole lines: without their begins, some would be left out
			p.ask(p.within(units, i, 0, 2), i)
		}
		p.finish(i, units, blocks)
	}
	ADDQ(U32(uint32((p.f.xCodes()+12)*p.s.tokens)), p.x.Base)
}

// fineBits is the bits of the lower parts of fine codes.
const fineBits = 7

// products adds those of a block's codes and the activations' groups from the given one on.
func (p *quantPass) products(blocks []Mem, codes, group int) {
	if !p.f.nibbles {
		for j := range 8 {
			p.dot(group+j, p.load(blocks, codes+64*j, group == 0))
		}
		return
	}
	for j := range 4 {
		raw := p.load(blocks, codes+64*j, group == 0)
		p.dot(group+j, p.lowNibbles(raw))
		p.dot(group+j+4, p.highNibbles(raw))
	}
}

// correct adds to integer sums what clear begins them with.
func (p *quantPass) correct() {
	if p.f.minimum || p.signed() {
		return
	}
	for token := range p.s.tokens {
		for i := range p.columns {
			dot := p.dots[token*len(p.columns)+i]
			if p.lanes == 16 {
				VPADDD_BCST(p.correction(0, token), dot, dot)
				continue
			}
			add := p.vector()
			VPBROADCASTD(p.correction(0, token), add)
			VPADDD(add, dot, dot)
		}
	}
}

// signed reports whether the kernel makes codes signed before it multiplies them, so that nothing has to
// be corrected: AVX2 does that to bytes, whose products would not fit 16 bits otherwise.
func (p *quantPass) signed() bool { return p.lanes == 8 && !p.f.nibbles }

// clear begins integer sums with the correction for codes that are stored with an offset.
func (p *quantPass) clear(half int) {
	for token := range p.s.tokens {
		for i := range p.columns {
			dot := p.dots[token*len(p.columns)+i]
			if p.f.minimum || p.signed() {
				p.zero(dot)
			} else {
				VPBROADCASTD(p.correction(half, token), dot)
			}
		}
	}
}

// load loads a vector of codes of each column; first says that nothing has read them before.
func (p *quantPass) load(blocks []Mem, offset int, first bool) []VecVirtual {
	out := p.vectors(len(p.columns))
	for i, v := range out {
		from := p.within(blocks, i, offset, 4)
		p.move(from, v)
		if first {
			p.ask(from, i)
		}
	}
	return out
}

// ask asks for what comes after what column i reads. Columns of a panel read the same lines.
func (p *quantPass) ask(from Mem, i int) {
	if p.columns[i]%(panelRows/p.lanes) == 0 {
		PREFETCHT0(from.Offset(p.ahead()))
	}
}

func (p *quantPass) move(from Mem, to VecVirtual) {
	if p.lanes == 16 {
		VMOVDQU32(from, to)
	} else {
		VMOVDQU(from, to)
	}
}

func (p *quantPass) and(a, b, to VecVirtual) {
	if p.lanes == 16 {
		VPANDD(a, b, to)
	} else {
		VPAND(a, b, to)
	}
}

func (p *quantPass) or(a, b, to VecVirtual) {
	if p.lanes == 16 {
		VPORD(a, b, to)
	} else {
		VPOR(a, b, to)
	}
}

func (p *quantPass) lowNibbles(raw []VecVirtual) []VecVirtual {
	out := p.vectors(len(raw))
	for i, v := range out {
		p.and(raw[i], p.mask, v)
	}
	return out
}

func (p *quantPass) highNibbles(raw []VecVirtual) []VecVirtual {
	out := p.vectors(len(raw))
	for i, v := range out {
		VPSRLD(U8(4), raw[i], v)
		p.and(v, p.mask, v)
	}
	return out
}

// sixths sums each half of a block by itself and weighs it by its own integer scale.
func (p *quantPass) sixths(blocks []Mem, codes int) {
	var total []VecVirtual
	for half := range 2 {
		p.dots = p.vectors(len(p.sums))
		p.clear(half)
		for j := range 4 {
			raw := p.load(blocks, codes+64*j, true)
			nibbles := p.lowNibbles
			if half == 1 {
				nibbles = p.highNibbles
			}
			low := nibbles(raw)
			for i, v := range p.load(blocks, codes+256+64*half, true) {
				switch j { // bits 2j and 2j+1 become 4 and 5
				case 0:
					VPSLLD(U8(4), v, v)
				case 1:
					VPSLLD(U8(2), v, v)
				case 3:
					VPSRLD(U8(2), v, v)
				}
				p.and(v, p.high, v)
				p.or(v, low[i], low[i])
			}
			p.dot(4*half+j, low)
		}
		for i := range p.columns {
			weight := p.vector()
			VPMOVSXBD(p.within(blocks, i, 16*half, 1), weight)
			for token := range p.s.tokens {
				dot := p.dots[token*len(p.columns)+i]
				VPMULLD(weight, dot, dot)
				if half == 1 {
					VPADDD(total[token*len(p.columns)+i], dot, dot)
				}
			}
		}
		total = p.dots
	}
}

// dot adds the products of group g, four steps of k, to the integer sums.
func (p *quantPass) dot(g int, codes []VecVirtual) {
	if p.lanes == 8 {
		p.dotAVX2(g, codes)
		return
	}
	for token := range p.s.tokens {
		if len(codes) == 1 {
			VPDPBUSD_BCST(p.group(g, token), codes[0], p.dots[token])
			continue
		}
		x := p.vector()
		VPBROADCASTD(p.group(g, token), x)
		for i, c := range codes {
			VPDPBUSD(x, c, p.dots[token*len(codes)+i])
		}
	}
}

// dotAVX2 multiplies unsigned by signed bytes and adds pairs in 16 bits. That overflows for codes of 8
// bits, so it takes their absolute values and gives their signs to the activations.
func (p *quantPass) dotAVX2(g int, codes []VecVirtual) {
	sizes := codes
	if p.signed() {
		sizes = p.vectors(len(codes))
		for i, c := range codes {
			VPXOR(p.flip, c, c)
			VPABSB(c, sizes[i])
		}
	}
	for token := range p.s.tokens {
		x := p.vector()
		VPBROADCASTD(p.group(g, token), x)
		for i, c := range codes {
			product := p.vector()
			if p.signed() {
				VPSIGNB(c, x, product)
				VPMADDUBSW(product, sizes[i], product)
			} else {
				VPMADDUBSW(x, c, product)
			}
			VPMADDWD(p.ones, product, product)
			dot := p.dots[token*len(codes)+i]
			VPADDD(product, dot, dot)
		}
	}
}

// finish adds column i of a block to the floating-point sums: dot * (scale of weights * scale of
// activations), and then the minimum times the activations' sum. Multiplications and additions are apart,
// so that every tier gives the same bits.
func (p *quantPass) finish(i int, units, blocks []Mem) {
	half := func(offset int) VecVirtual {
		v := p.vector()
		VCVTPH2PS(p.within(units, i, offset, 2), v)
		return v
	}
	byBlock := func(v VecVirtual, offset int) {
		if p.f.blocks == 1 || !p.f.minimum {
			return
		}
		s := p.vector()
		VPMOVZXBD(p.within(blocks, i, offset, 1), s)
		VCVTDQ2PS(s, s)
		VMULPS(s, v, v)
	}
	d := half(0)
	byBlock(d, 0)
	var m VecVirtual
	if p.f.minimum {
		m = half(32)
		byBlock(m, 16)
	}
	for token := range p.s.tokens {
		dot, sum := p.dots[token*len(p.columns)+i], p.sums[token*len(p.columns)+i]
		factor := p.vector()
		p.times(p.scale(token), d, factor)
		VCVTDQ2PS(dot, dot)
		VMULPS(factor, dot, dot)
		VADDPS(dot, sum, sum)
		if !p.f.minimum {
			continue
		}
		p.times(p.correction(0, token), m, factor)
		if p.f.blocks == 1 {
			VADDPS(factor, sum, sum)
		} else {
			VSUBPS(factor, sum, sum)
		}
	}
}

// times multiplies v by a float32 in memory.
func (p *quantPass) times(scalar Mem, v, to VecVirtual) {
	if p.lanes == 16 {
		VMULPS_BCST(scalar, v, to)
		return
	}
	VBROADCASTSS(scalar, to)
	VMULPS(v, to, to)
}
