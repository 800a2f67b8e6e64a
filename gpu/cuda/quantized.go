package cuda

import (
	"fmt"
	"maps"
	"slices"

	"github.com/troupe-engine/troupe/gpu"
)

// Sizes shared with quantized.cuh and quantized.cu.
const (
	quantRows  = 16  // of W in a tile
	quantPiece = 128 // columns of a piece
	quantWarps = 8

	// Compute capabilities whose blocks have two teams: from the one on, up to the other, which has no more shared memory
	// than Ampere.
	quantTeamsMajor = 9
	quantTeamsEnd   = 12
)

// What elements share, as quantized.cuh numbers it.
const (
	rowScale = iota // one float32 per row
	groupScale
	groupZero
	groupMinimum
	groupFloat
)

// quantFormat is how weights of a type lie in memory and which kernels multiply them; quantized.cuh says more.
type quantFormat struct {
	kernels string // what their names end with
	bits    int
	group   int // columns that share; 0 is all of a row
	shared  int
	depth   int  // pieces in a warp's ring
	teams   int  // of a block, where it has as much shared memory as Hopper's
	blocks  int  // of a multiprocessor, there
	early   bool // the kernel after a product may begin with it, where that reads weights
	floats  bool // codes are E4M3
	read    func(row *quantRow, raw []byte)
}

// quantFormats are the types that products take. The K type is made of groups with a scale and a minimum.
var quantFormats = map[gpu.DType]*quantFormat{
	gpu.E4M3:     {kernels: "e4m3", bits: 8, depth: 4, teams: 2, blocks: 1, early: true, shared: rowScale, floats: true, read: readScaledRow},
	gpu.E4M3_128: {kernels: "e4m3_128", bits: 8, depth: 4, teams: 2, blocks: 1, early: true, group: 128, shared: groupFloat, floats: true, read: readE4M3Groups},
	gpu.I8:       {kernels: "i8", bits: 8, depth: 4, teams: 2, blocks: 1, early: true, shared: rowScale, read: readScaledRow},
	gpu.Q8_0:     {kernels: "q8_0", bits: 8, depth: 4, teams: 2, blocks: 1, early: true, group: 32, shared: groupScale, read: readQ8_0},
	gpu.Q4_0:     {kernels: "q4_0", bits: 4, depth: 6, teams: 2, blocks: 1, early: true, group: 32, shared: groupScale, read: readQ4},
	gpu.Q4_1:     {kernels: "q4_1", bits: 4, depth: 6, teams: 2, blocks: 1, early: true, group: 32, shared: groupMinimum, read: readQ4},
	gpu.Q4_K:     {kernels: "q4_1", bits: 4, depth: 6, teams: 2, blocks: 1, early: true, group: 32, shared: groupMinimum, read: readQ4K},
	gpu.I4_32:    {kernels: "i4_32", bits: 4, depth: 6, teams: 2, blocks: 1, early: true, group: 32, shared: groupZero, read: readI4},
	gpu.I4_64:    {kernels: "i4_64", bits: 4, depth: 6, teams: 2, blocks: 1, early: true, group: 64, shared: groupZero, read: readI4},
	gpu.I4_128:   {kernels: "i4_128", bits: 4, depth: 6, teams: 2, blocks: 1, early: true, group: 128, shared: groupZero, read: readI4},
}

// quantKernels lists the names that kernels end with, each once.
func quantKernels() []string {
	names := map[string]bool{}
	for _, f := range quantFormats {
		names[f.kernels] = true
	}
	return slices.Sorted(maps.Keys(names))
}

// quantTiles are the compiled products: the tokens of a block.
var quantTiles = []int{8, 16}

// quantName is a product's kernel.
func quantName(kernels string, tokens int, gated bool) string {
	if gated {
		return fmt.Sprintf("quant_%d_gate_%s", tokens, kernels)
	}
	return fmt.Sprintf("quant_%d_%s", tokens, kernels)
}

// quantModules are the kernels for quantized weights, which take activations in bfloat16.
func quantModules() []module {
	list := []module{{file: "quantize.cu", include: "tiles.cuh quantized.cuh", only: gpu.BF16, overlap: true, kernels: []string{"quantize_rows", "fill_words"}}}
	for _, name := range quantKernels() {
		kernels := []string{"dequantize_" + name, "embed_" + name}
		for _, tokens := range quantTiles {
			kernels = append(kernels, quantName(name, tokens, false), quantName(name, tokens, true))
		}
		list = append(list, module{file: "quantized.cu", include: "tiles.cuh quantized.cuh dequantize.cuh quantized_take.cuh", define: "QUANT_" + name, only: gpu.BF16, overlap: true, kernels: kernels})
	}
	return list
}

// groupBytes is what a group of a row takes.
func (f *quantFormat) groupBytes() int {
	switch f.shared {
	case rowScale:
		return 0
	case groupScale:
		return 2
	}
	return 4
}

// codeBytes and metaBytes are those of a piece of 16 rows.
func (f *quantFormat) codeBytes() int { return quantRows * quantPiece * f.bits / 8 }
func (f *quantFormat) metaBytes() int {
	if f.shared == rowScale {
		return 0
	}
	return quantPiece / f.group * quantRows * f.groupBytes()
}

// pieceBytes are those of both.
func (f *quantFormat) pieceBytes() int { return f.codeBytes() + f.metaBytes() }

// cut returns the teams of a block and the blocks of a multiprocessor: TEAMS and BLOCKS in quantized.cu.
func (d *Device) cut(f *quantFormat) (teams, blocks int) {
	if d.properties.major < quantTeamsMajor || d.properties.major >= quantTeamsEnd {
		return 1, 2
	}
	return f.teams, f.blocks
}

// sharedBytes are those of the rings and sums of a block of so many teams.
func (f *quantFormat) sharedBytes(tokens, teams int) int {
	rings := f.depth * f.pieceBytes()
	return teams * quantWarps * (rings + 2*quantRows*(tokens+1)*4) // of two tiles
}

// quantLayout is where the parts of a quantized matrix [n, k] lie in its allocation: codes, and what rows or
// groups share.
type quantLayout struct {
	format               *quantFormat
	n, k, pieces, stride int   // stride: bytes of a row of codes of 8 bits
	meta, bytes          int64 // where the shared begin, and of everything
}

func (f *quantFormat) layout(n, k int) *quantLayout {
	l := &quantLayout{format: f, n: n, k: k, pieces: ceilDiv(k, quantPiece)}
	const align = 256
	tiles := int64(ceilDiv(n, quantRows))
	codes := tiles * int64(l.pieces) * int64(f.codeBytes())
	if f.bits == 8 {
		l.stride = l.pieces * quantPiece
		codes = tiles * quantRows * int64(l.stride)
	}
	l.meta = (codes + align - 1) / align * align
	if f.shared == rowScale {
		l.bytes = l.meta + 4*int64(n)
	} else {
		l.bytes = l.meta + tiles*int64(l.pieces)*int64(f.metaBytes())
	}
	return l
}

// packQuantized is PackMatrix for a quantized type; without parts it leaves zeros.
func (d *Device) packQuantized(name string, dtype gpu.DType, n, k int, parts [][]byte) (gpu.Tensor, error) {
	f := quantFormats[dtype]
	if f == nil {
		return gpu.Tensor{}, fmt.Errorf("%w: weight %q has type %v; the cuda device multiplies %s", gpu.ErrNotSupported, name, dtype, quantTypes())
	}
	if d.compute != gpu.BF16 {
		return gpu.Tensor{}, fmt.Errorf("%w: weight %q has type %v, which the cuda device multiplies with bf16 activations only (compute is %v)", gpu.ErrNotSupported, name, dtype, d.compute)
	}
	if elements, _ := dtype.Block(); k%elements != 0 || k%padElements != 0 {
		return gpu.Tensor{}, fmt.Errorf("%w: weight %q [%d, %d]: rows of %v are multiples of %d", gpu.ErrNotSupported, name, n, k, dtype, max(elements, padElements))
	}
	if parts != nil {
		if err := checkParts(name, dtype, n, k, parts); err != nil {
			return gpu.Tensor{}, err
		}
	}
	l := f.layout(n, k)
	if err := d.enter(); err != nil {
		return gpu.Tensor{}, err
	}
	defer d.leave()
	b, err := d.reserve(l.bytes)
	if err == nil {
		b.weight = &matrix{dtype: dtype, n: n, k: k, quant: l}
		if parts != nil {
			err = d.sendQuantized(b.block.address, l, name, dtype, parts)
		}
		if err != nil {
			d.heap.put(b.block)
		}
	}
	if err != nil {
		return gpu.Tensor{}, fmt.Errorf("weight %q: %w", name, err)
	}
	t := d.table.Put(b, l.bytes, name, dtype, n, k)
	t.Packed = true
	return t, nil
}

// quantTypes lists the keys of quantFormats.
func quantTypes() string {
	var names []string
	for _, dtype := range slices.Sorted(maps.Keys(quantFormats)) {
		names = append(names, dtype.String())
	}
	return fmt.Sprint(names)
}

// sendQuantized packs the parts and copies them to the device, some tiles at a time.
func (d *Device) sendQuantized(address uintptr, l *quantLayout, name string, dtype gpu.DType, parts [][]byte) error {
	return packTiles(l, rowsOf{name: name, bytes: dtype.RowBytes(l.k), parts: parts}, func(to int64, b []byte) error {
		return d.send(address+uintptr(to), b)
	})
}
