package cpu

import (
	"encoding/binary"
	"math"
	"unsafe"

	"github.com/troupe-engine/troupe/gpu"
)

// Products of quantized weights are sums of integers. Activations are rounded to 8 bits, 32 with one scale, which is
// as fine as weights of 4 bits deserve, or to 15 bits, in two bytes, for weights whose own rounding would be lost in
// theirs; the products of a block add up exactly; and blocks are added in order of k as float32, a multiplication and an addition each.
// So every tier gives the same bits, and a token gets the same whatever it is batched with.

// quantTier are the inner loops of a tier for quantized weights.
type quantTier struct {
	tiles map[gpu.DType][]quantTile // by ascending number of tokens; the first has one
	// quantize rounds blocks of 32 elements of x: codes are x * (127 / largest) to the nearest integer,
	// ties to even, as int8, where largest is the largest absolute value. sums are those of codes of each 16.
	// Codes of blocks whose largest is tiny, infinite or NaN are meaningless. Nothing is empty.
	quantize func(codes []byte, largest []float32, sums []int32, x []float32)
	// quantizeFine is quantize with steps of largest / fineMax. A code is fineBase*codes[i] + low[i], where low[i] is
	// -fineBase/2 to fineBase/2-1.
	quantizeFine func(codes, low []byte, largest []float32, sums []int32, x []float32)
	// interleave4 is that of a tier, and fast for the few elements that are a block's codes.
	interleave4 func(dst []float32, width int, a, b, c, d []float32)
}

// Fine codes. Both parts are signed bytes whose products with weights' bytes add up in 16 bits.
const (
	fineBase = 128
	fineMax  = 127 * fineBase
)

// quantTile is a tile for quantized weights; see tile.
type quantTile struct {
	tokens, panels int
	many, one      quantKernel
}

// quantKernel is the signature of an inner loop. Rows of out, one a token, are row bytes apart and have panels*16
// elements; w points at a unit of the first panel and the following panels are stride bytes apart; x is a tile of
// activations in blocks. mode is as for a panelKernel.
type quantKernel func(out *float32, row uintptr, w *byte, stride uintptr, x *byte, units, mode int)

// A tile of activations is made of blocks of 32 steps of k: codes [8][tokens][4] int8, of fine ones also the low
// parts [8][tokens][4], then for each token its scale, and for each token and half of the block what corrects the integer sum for the codes' zero:
// -zero * sum of codes, an int32. For weights with a minimum the first correction is instead scale * sum
// of all codes, a float32, which the minimum is multiplied by.
// quantTask multiplies; it has one item per group of panels.
type quantTask struct {
	out        []float32
	x          []byte // tiles of activations
	m          *matrix
	f          *quantFormat
	bias       []float32
	accumulate bool
	addTo      func(dst, src []float32)
	tiles      []quantRun
	group      int // panels in a group
	groups     int
	parts      int // the tiles are divided too where there are fewer groups than threads
	workers    []workerSpace

	stride, unitBytes int // bytes of a panel and of a unit
	units, unitsMax   int // of a panel, and of one call: see depthMax
}

// quantRun is one tile of tokens; see tileRun.
type quantRun struct {
	tile          *quantTile
	start, tokens int
	at            int // tokens of the tiles before
}

// quantSpace is a worker's scratch to quantize tokens, so many at a time.
type quantSpace [packTokens]quantRow

const packTokens = 4

// quantRow is one quantized token.
type quantRow struct {
	codes   []byte // int8; fine ones and their low parts
	largest []float32
	sums    []int32
}

// multiplyQuantized is multiply for a quantized matrix.
func (d *Device) multiplyQuantized(t *tier, out, x []float32, tokens int, m *matrix, bias []float32, accumulate bool) {
	kernels, f, w := t.quant.tiles[m.dtype], quantFormats[m.dtype], &d.work
	w.quantRuns = planQuantTiles(w.quantRuns[:0], kernels, tokens)
	last := w.quantRuns[len(w.quantRuns)-1]
	words := (last.at + last.tile.tokens) * m.k / quantLen * f.activationBytes() / 4
	w.packed = grow(w.packed, words)
	packed := unsafe.Slice((*byte)(unsafe.Pointer(&w.packed[0])), 4*words)
	w.quantPack = quantPackTask{dst: packed, x: x, k: m.k, f: f, tier: t.quant, tiles: w.quantRuns, workers: w.workers}
	d.share(&w.quantPack, len(w.quantRuns), float64(tokens*m.k))
	w.quantPack = quantPackTask{}

	group := groupPanels
	if tokens == 1 {
		group = kernels[0].panels
	}
	group, groups, parts := divideWork(m.panels(), group, len(w.quantRuns), d.pool.threads)
	w.quant = quantTask{out: out, x: packed, m: m, f: f, bias: bias, accumulate: accumulate, addTo: t.addTo,
		tiles: w.quantRuns, group: group, groups: groups, parts: parts, workers: w.workers,
		stride: m.panelBytes(), unitBytes: f.unitBytes(), units: m.k / f.unitLen(), unitsMax: depthMax / f.unitLen()}
	const faster = 2 // integer products against floating-point ones
	macs := float64(tokens) * float64(m.n) * float64(m.k)
	d.share(&w.quant, groups*parts, max(macs/(faster*t.macsPerNs), float64(len(m.data))/t.bytesPerNs))
	w.quant = quantTask{}
}

// planQuantTiles covers the tokens with tiles, padding the last by at most one token.
func planQuantTiles(plan []quantRun, kernels []quantTile, tokens int) []quantRun {
	for start, at := 0, 0; start < tokens; {
		left := tokens - start
		pick := &kernels[0]
		for i := range kernels {
			if kernels[i].tokens <= left+1 {
				pick = &kernels[i]
			}
		}
		if left == 1 { // a tile of one reads the weights as fast as any
			pick = &kernels[0]
		}
		plan = append(plan, quantRun{pick, start, min(left, pick.tokens), at})
		start += pick.tokens
		at += pick.tokens
	}
	return plan
}

func (p *quantTask) run(worker, from, to int) {
	space := &p.workers[worker]
	for item := from; item < to; item++ {
		g, part := item%p.groups, item/p.groups
		end := min((g+1)*p.group, p.m.panels())
		tiles := p.tiles[len(p.tiles)*part/p.parts : len(p.tiles)*(part+1)/p.parts]
		for i := range tiles {
			r := &tiles[i]
			for panel := g * p.group; panel < end; {
				count := 1
				if panel+r.tile.panels <= end {
					count = r.tile.panels
				}
				p.multiply(space, r, panel, count)
				panel += count
			}
		}
	}
}

// multiply runs one tile against count panels.
func (p *quantTask) multiply(space *workerSpace, r *quantRun, panel, count int) {
	kernel := r.tile.one
	if count == r.tile.panels {
		kernel = r.tile.many
	}
	first, cols := panel*panelRows, count*panelRows
	out := p.out[r.start*p.m.n+first:]
	weights, x := p.m.data[panel*p.stride:][:count*p.stride], p.x[r.at*p.m.k/quantLen*p.f.activationBytes():]
	if valid := min(cols, p.m.n-first); valid < cols || r.tokens < r.tile.tokens || p.units > p.unitsMax {
		p.multiplyAside(space, kernel, r, out, weights, x, cols, valid)
	} else {
		mode := panelSet
		if p.accumulate {
			mode = panelAdd
		}
		kernel(&out[0], uintptr(4*p.m.n), &weights[0], uintptr(p.stride), &x[0], p.units, mode)
	}
	if p.bias != nil {
		for t := range r.tokens {
			p.addTo(out[t*p.m.n:][:min(cols, p.m.n-first)], p.bias[first:])
		}
	}
}

// multiplyAside is for tiles that are larger than what they have to compute, and for sums that take several calls;
// see matmulTask.
func (p *quantTask) multiplyAside(space *workerSpace, kernel quantKernel, r *quantRun, out []float32, weights, x []byte, cols, valid int) {
	width := r.tile.tokens
	space.sums = grow(space.sums, width*cols)
	blockBytes := width * p.f.activationBytes()
	for at, mode := 0, panelSet; at < p.units; at, mode = at+p.unitsMax, panelResume {
		kernel(&space.sums[0], uintptr(4*cols), &weights[at*p.unitBytes], uintptr(p.stride), &x[at*p.f.blocks*blockBytes],
			min(p.unitsMax, p.units-at), mode)
	}
	for t := range r.tokens {
		to, sums := out[t*p.m.n:][:valid], space.sums[t*cols:][:valid]
		if p.accumulate {
			p.addTo(to, sums)
		} else {
			copy(to, sums)
		}
	}
}

// quantPackTask quantizes activations into tiles, one item per tile.
type quantPackTask struct {
	dst     []byte
	x       []float32
	k       int
	f       *quantFormat
	tier    *quantTier
	tiles   []quantRun
	workers []workerSpace
}

func (p *quantPackTask) run(worker, from, to int) {
	s := &p.workers[worker].quant
	for _, r := range p.tiles[from:to] {
		width, each := r.tile.tokens, p.k/quantLen*p.f.activationBytes()
		dst := p.dst[r.at*each:][:width*each]
		if r.tokens < width {
			clear(dst) // padding
		}
		for t := 0; t < r.tokens; t += packTokens {
			rows := s[:min(packTokens, r.tokens-t)]
			for i := range rows {
				p.quantize(&rows[i], p.x[(r.start+t+i)*p.k:][:p.k])
			}
			p.place(dst, rows, t, width)
		}
	}
}

// A block whose largest value is less than this rounds to zero: the quotient in quantize would overflow, and no sum can
// tell.
const tinyActivation = 0x1p-100

// quantize rounds a token. Codes that mean nothing become zero.
func (p *quantPackTask) quantize(row *quantRow, x []float32) {
	if len(row.codes) < 2*p.k {
		*row = quantRow{make([]byte, 2*p.k), make([]float32, p.k/quantLen), make([]int32, p.k/(quantLen/2))}
	}
	high, low := row.codes[:p.k], row.codes[p.k:][:p.k]
	if p.f.fine {
		p.tier.quantizeFine(high, low, row.largest, row.sums, x)
	} else {
		p.tier.quantize(high, row.largest, row.sums, x)
	}
	for b, largest := range row.largest[:p.k/quantLen] {
		if !(largest >= tinyActivation && largest <= math.MaxFloat32) {
			clear(high[b*quantLen:][:quantLen])
			clear(low[b*quantLen:][:quantLen])
			row.sums[2*b], row.sums[2*b+1] = 0, 0
		}
	}
}

// place stores rows in their tile, the first as the given token.
func (p *quantPackTask) place(dst []byte, rows []quantRow, token, width int) {
	size := width * p.f.activationBytes()
	parts := 1
	if p.f.fine {
		parts = 2
	}
	for b := range p.k / quantLen {
		block := dst[b*size:][:size]
		for part := range parts {
			at := part*p.k + b*quantLen
			codes := func(i int) []float32 { return cast[float32](rows[i].codes[at:][:quantLen]) }
			to := cast[float32](block[part*width*quantLen:][:width*quantLen])[token:]
			if len(rows) == packTokens {
				p.tier.interleave4(to, width, codes(0), codes(1), codes(2), codes(3))
				continue
			}
			for i := range rows {
				for g, c := range codes(i) {
					to[g*width+i] = c
				}
			}
		}
		for i := range rows {
			p.putTail(block[parts*width*quantLen+4*(token+i):], &rows[i], b, width)
		}
	}
}

// putTail stores what follows the codes of a token's block.
func (p *quantPackTask) putTail(tail []byte, row *quantRow, b, width int) {
	most := float32(127)
	if p.f.fine {
		most = fineMax
	}
	largest, low, high := row.largest[b], row.sums[2*b], row.sums[2*b+1]
	scale := largest / most
	switch {
	case largest < tinyActivation:
		scale = 0
	case !(largest <= math.MaxFloat32): // NaN or infinite: it must stay visible
		scale = float32(math.NaN())
	}
	binary.LittleEndian.PutUint32(tail, math.Float32bits(scale))
	first, second := uint32(-int32(p.f.zero)*low), uint32(-int32(p.f.zero)*high)
	switch {
	case p.f.minimum:
		first = math.Float32bits(scale * float32(low+high))
	case !p.f.halves: // one sum for the whole block
		first += second
	}
	binary.LittleEndian.PutUint32(tail[4*width:], first)
	binary.LittleEndian.PutUint32(tail[8*width:], second)
}
