package main

import (
	"flag"
	"log"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// isa is an instruction set and the shapes of the matrix tiles that fit its registers.
type isa struct {
	name  string // suffix of function names
	lanes int    // float32 per vector register
	tiles []shape
	rows  []int // query rows of the attention kernels
}

// shape is a matrix tile: tokens by panels of 16 rows.
type shape struct{ tokens, panels int }

// A tile needs about eight chains of multiply-adds to hide their latency, and one register for
// each; beyond that, more tokens per tile means fewer passes over the weights.
var isas = map[string]isa{
	"avx2":   {"AVX2", 8, []shape{{1, 4}, {2, 2}, {4, 1}, {6, 1}}, []int{1, 2, 3, 4, 6}},
	"avx512": {"AVX512", 16, []shape{{1, 8}, {2, 4}, {4, 4}, {8, 2}, {12, 2}}, []int{1, 2, 3, 4, 6, 12}},
}

func main() {
	name := flag.String("isa", "avx512", "avx2 or avx512")
	quantized := flag.Bool("quant", false, "make the kernels of quantized weights, which are files of their own")
	flag.Parse()
	target, ok := isas[*name]
	if !ok {
		log.Fatalf("asm: unknown -isa %q", *name)
	}
	if *quantized {
		target.quantKernels()
		Generate()
		return
	}
	target.matrixKernels()
	target.attentionKernels()
	target.expShift()
	target.largest()
	target.massAbove()
	target.chances()
	target.gate("silu", target.negated)
	target.gate("gelu", target.geluExponent)
	target.squares()
	target.scaleRow()
	target.addTo()
	target.divide()
	target.rotate()
	target.narrow()
	target.codes()
	target.prefetch()
	target.readLoop()
	target.fmaLoop()
	if *name == "avx2" { // the oldest instruction set hosts what needs none
		pause()
	}
	Generate()
	if *name == "avx512" {
		pairEncodings(flag.Lookup("out").Value.String())
	}
}

// begin starts a function, end returns from it.
func (t isa) begin(name, signature, doc string) {
	TEXT(name+t.name, NOSPLIT, "func"+signature)
	Pragma("noescape")
	Doc(name + t.name + " " + doc)
}

// end clears the upper halves of the registers first: leaving them dirty slows all SSE code
// that follows.
func end() {
	VZEROUPPER()
	RET()
}

func (t isa) vector() VecVirtual {
	if t.lanes == 16 {
		return ZMM()
	}
	return YMM()
}

func (t isa) vectors(n int) []VecVirtual {
	out := make([]VecVirtual, n)
	for i := range out {
		out[i] = t.vector()
	}
	return out
}

// bytes is the size of a vector.
func (t isa) bytes() int { return 4 * t.lanes }

func (t isa) zero(v VecVirtual) {
	if t.lanes == 16 {
		VPXORD(v, v, v)
		return
	}
	VXORPS(v, v, v)
}

func pointer(name string) Mem { return Mem{Base: Load(Param(name), GP64())} }

func number(name string) Register { return Load(Param(name), GP64()) }

// scalar is where a float32 parameter lies: broadcasting it from there avoids the legacy SSE
// move that Load would emit.
func scalar(name string) Mem {
	p, err := Param(name).Resolve()
	if err != nil {
		log.Fatal(err)
	}
	return p.Addr
}

// loop runs body while counter, decremented by step each time, is at least step.
func loop(label string, counter Register, step int, body func()) {
	Label(label)
	CMPQ(counter, U32(uint32(step)))
	JLT(LabelRef(label + "_done"))
	body()
	SUBQ(U32(uint32(step)), counter)
	JMP(LabelRef(label))
	Label(label + "_done")
}

func pause() {
	TEXT("relax", NOSPLIT, "func()")
	Doc("relax is one turn of a spin loop.")
	PAUSE()
	RET()
}
