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

// ahead is how many bytes before they are needed weights are asked for. The processor's own prefetching does not suffice: one
// token leaves a tenth of the memory's rate unused, and 16 took 1.7 times as long as with weights in cache. AVX2 and large
// tiles read one panel at a time, small ones two or four. Distances are measured (BenchmarkBatchedDecode).
func (p *quantPass) ahead() int {
	switch {
	case p.lanes == 8:
		return 4096
	case p.s.tokens < 8:
		return 2048
	}
	return 8192
}

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
