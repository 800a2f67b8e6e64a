package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// A quantized weight type: how 32 steps of k of a panel of 16 rows lie in memory. Package cpu documents
// the layouts; its formats in quant_formats.go have the same numbers.
type quantFormat struct {
	name    string
	blocks  int // of 32 steps in a unit, which begins with what they share
	header  int // bytes that they share: d, and perhaps m or dmin
	scales  int // bytes before the codes of each block
	codes   int // bytes of codes of a block
	nibbles bool
	high    bool // two more bits of each code behind the nibbles
	minimum bool // a second scale, added whatever the code
	fine    bool // activations have 15 bits, in two bytes that lie apart
}

var quantFormats = []quantFormat{
	{name: "Q8_0", blocks: 1, header: 32, codes: 512, fine: true},
	{name: "Q4_0", blocks: 1, header: 32, codes: 256, nibbles: true},
	{name: "Q4_1", blocks: 1, header: 64, codes: 256, nibbles: true, minimum: true, fine: true},
	{name: "Q4_K", blocks: 8, header: 64, scales: 32, codes: 256, nibbles: true, minimum: true},
	{name: "Q6_K", blocks: 8, header: 32, scales: 32, codes: 384, nibbles: true, high: true},
}

func (f quantFormat) blockBytes() int { return f.scales + f.codes }
func (f quantFormat) unitBytes() int  { return f.header + f.blocks*f.blockBytes() }

// Tiles of the quantized kernels. A tile holds two registers for each token and column of rows, an integer
// sum and a floating-point one.
var quantShapes = map[string][]shape{
	"AVX2":   {{1, 1}, {2, 1}, {4, 1}},
	"AVX512": {{1, 4}, {2, 4}, {4, 2}, {8, 1}, {12, 1}},
}

// quantColumns is the number of columns that a pass over k holds; AVX2 makes several passes.
func (t isa) quantColumns(f quantFormat, s shape) int {
	columns := s.panels * panelRows / t.lanes
	if t.lanes == 16 || s.tokens == 1 || s.tokens == 2 && !f.high {
		return columns
	}
	return 1
}

// sixthShapes are for codes of 6 bits, whose sums of half blocks take a third register.
var sixthShapes = map[string][]shape{
	"AVX2":   {{1, 1}, {2, 1}, {3, 1}},
	"AVX512": {{1, 4}, {2, 2}, {4, 1}, {8, 1}},
}

func (t isa) quantKernels() {
	for _, f := range quantFormats {
		shapes := quantShapes
		if f.high {
			shapes = sixthShapes
		}
		for _, s := range shapes[t.name] {
			t.quantKernel(f, s)
			if s.panels > 1 {
				t.quantKernel(f, shape{s.tokens, 1})
			}
		}
	}
	if t.lanes == 8 {
		order := quantOrder()
		t.quantizeRow(order, false)
		t.quantizeRow(order, true)
	}
}

// quantPass is one pass of a kernel over k for some of its columns.
type quantPass struct {
	isa
	f       quantFormat
	s       shape
	columns []int // of t.lanes rows each
	x       Mem
	sums    []VecVirtual // [token][column] float32
	dots    []VecVirtual // [token][column] int32
	mask    VecVirtual   // low nibbles
	high    VecVirtual   // bits 4 and 5
	ones    VecVirtual   // AVX2: int16
	flip    VecVirtual   // AVX2: the sign bits of bytes
}

// quantKernel is a quantKernel of package cpu.
func (t isa) quantKernel(f quantFormat, s shape) {
	t.begin(fmt.Sprintf("quant%sT%dP%d", f.name, s.tokens, s.panels),
		"(out *float32, row uintptr, w *byte, stride uintptr, x *byte, units, mode int)",
		fmt.Sprintf("is a quantKernel for %d tokens and %d panels.", s.tokens, s.panels))
	all, each := s.panels*panelRows/t.lanes, t.quantColumns(f, s)
	for first := 0; first < all; first += each {
		p := &quantPass{isa: t, f: f, s: s}
		for c := range each {
			p.columns = append(p.columns, first+c)
		}
		p.emit(fmt.Sprintf("c%d", first))
	}
	end()
}

func (p *quantPass) emit(label string) {
	panels := panelAddresses(p.s.panels)
	p.x = pointer("x")
	units := number("units")
	p.constants()
	p.sums = p.vectors(p.s.tokens * len(p.columns))
	// each visits the places of the sums.
	each := func(do func(m Mem, v VecVirtual)) {
		out, row := pointer("out"), number("row")
		for token := range p.s.tokens {
			for i, column := range p.columns {
				do(out.Offset(column*p.bytes()), p.sums[token*len(p.columns)+i])
			}
			if token+1 < p.s.tokens {
				ADDQ(row, out.Base)
			}
		}
	}
	CMPQ(number("mode"), U32(panelResume))
	JEQ(LabelRef(label + "_resume"))
	for _, v := range p.sums {
		p.zero(v)
	}
	JMP(LabelRef(label + "_begin"))
	Label(label + "_resume")
	each(func(m Mem, v VecVirtual) { VMOVUPS(m, v) })
	Label(label + "_begin")
	loop(label+"_units", units, 1, func() {
		if p.f.blocks == 1 {
			p.block(panels, panels)
		} else {
			inner, left := GP64(), GP64()
			LEAQ(panels[0].Offset(p.f.header), inner)
			MOVQ(U32(uint32(p.f.blocks)), left)
			blocks := make([]Mem, len(panels))
			for i, m := range panels {
				blocks[i] = m
				blocks[i].Base = inner
			}
			loop(label+"_blocks", left, 1, func() {
				p.block(panels, blocks)
				ADDQ(U32(uint32(p.f.blockBytes())), inner)
			})
		}
		ADDQ(U32(uint32(p.f.unitBytes())), panels[0].Base)
	})
	CMPQ(number("mode"), U32(panelAdd))
	JNE(LabelRef(label + "_store"))
	each(func(m Mem, v VecVirtual) { VADDPS(m, v, v) })
	Label(label + "_store")
	each(func(m Mem, v VecVirtual) { VMOVUPS(v, m) })
}

// quantAhead is how many bytes before they are needed weights are asked for when there is one token: the
// processor's own prefetching leaves a tenth of the memory's rate unused. AVX2 reads one panel at a time,
// AVX-512 four.
var quantAhead = map[string]int{"AVX2": 4096, "AVX512": 2048}

// constants fills the registers that stay the same.
func (p *quantPass) constants() {
	fill := func(value uint32) VecVirtual {
		r, v := GP32(), p.vector()
		MOVL(U32(value), r)
		if p.lanes == 16 {
			VPBROADCASTD(r, v)
		} else {
			narrow := v.AsX()
			VMOVD(r, narrow)
			VPBROADCASTD(narrow, v)
		}
		return v
	}
	if p.f.nibbles {
		p.mask = fill(0x0f0f0f0f)
	}
	if p.f.high {
		p.high = fill(0x30303030)
	}
	if p.lanes == 8 {
		p.ones = fill(0x00010001)
		if !p.f.nibbles {
			p.flip = fill(0x80808080)
		}
	}
}

// The activations of a block of 32 steps: codes [8][tokens][4], if they are fine the lower parts of them too, and
// for each token its scale and two corrections.
func (p *quantPass) group(g, token int) Mem { return p.x.Offset((g*p.s.tokens + token) * 4) }
func (p *quantPass) scale(token int) Mem    { return p.x.Offset(p.f.xCodes()*p.s.tokens + 4*token) }
func (p *quantPass) correction(half, token int) Mem {
	return p.x.Offset((p.f.xCodes()+4+4*half)*p.s.tokens + 4*token)
}

// xCodes is the bytes of a token's codes in a block of activations.
func (f quantFormat) xCodes() int {
	if f.fine {
		return 64
	}
	return 32
}

// within is where the rows of column i lie in a vector of 16 rows of the given size each.
func (p *quantPass) within(panels []Mem, i, offset, size int) Mem {
	column, perPanel := p.columns[i], panelRows/p.lanes
	return panels[column/perPanel].Offset(offset + column%perPanel*p.lanes*size)
}

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
		if first && p.s.tokens == 1 && p.columns[i]%(panelRows/p.lanes) == 0 {
			PREFETCHT0(from.Offset(quantAhead[p.name]))
		}
	}
	return out
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
