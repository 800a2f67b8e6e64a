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

// quantSpace is a worker's scratch to quantize one token.
type quantSpace struct {
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
	if len(s.codes) < 2*p.k {
		s.codes, s.largest, s.sums = make([]byte, 2*p.k), make([]float32, p.k/quantLen), make([]int32, p.k/(quantLen/2))
	}
	for _, r := range p.tiles[from:to] {
		width, each := r.tile.tokens, p.k/quantLen*p.f.activationBytes()
		dst := p.dst[r.at*each:][:width*each]
		if r.tokens < width {
			clear(dst) // padding
		}
		for t := range r.tokens {
			x := p.x[(r.start+t)*p.k:][:p.k]
			if p.f.fine {
				p.tier.quantizeFine(s.codes[:p.k], s.codes[p.k:][:p.k], s.largest, s.sums, x)
			} else {
				p.tier.quantize(s.codes[:p.k], s.largest, s.sums, x)
			}
			p.place(dst, s, t, width)
		}
	}
}

// place stores a token's codes in its tile.
func (p *quantPackTask) place(dst []byte, s *quantSpace, token, width int) {
	// A block whose largest value is less than this rounds to zero: the quotient in quantize would
	// overflow, and no sum can tell.
	const tiny = 0x1p-100
	size, most := width*p.f.activationBytes(), float32(127)
	if p.f.fine {
		most = fineMax
	}
	for b := range p.k / quantLen {
		block := dst[b*size:][:size]
		largest, low, high := s.largest[b], s.sums[2*b], s.sums[2*b+1]
		scale := largest / most
		switch {
		case largest < tiny:
			scale, low, high = 0, 0, 0
		case !(largest <= math.MaxFloat32): // NaN or infinite: it must stay visible
			scale, low, high = float32(math.NaN()), 0, 0
		}
		tail := p.putCodes(block, s.codes[b*quantLen:][:quantLen], token, width, scale > 0)
		if p.f.fine {
			tail = p.putCodes(block[width*quantLen:], s.codes[p.k+b*quantLen:][:quantLen], token, width, scale > 0)
		}
		tail = tail[4*token:]
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
}

// putCodes stores a token's codes of a block, or zeros if they mean nothing, and returns what follows those of all
// tokens.
func (p *quantPackTask) putCodes(block, codes []byte, token, width int, meant bool) []byte {
	for g, c := range cast[[4]byte](codes) {
		if !meant {
			c = [4]byte{}
		}
		*(*[4]byte)(block[4*(g*width+token):]) = c
	}
	return block[width*quantLen:]
}
