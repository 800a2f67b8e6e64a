package cpu

import (
	"fmt"

	"github.com/troupe-engine/troupe/gpu"
)

const (
	// pageKeys keys at positions that are a multiple of it are turned around together.
	pageKeys = 16
	// tileKeys keys are scored, weighted and mixed before the next are looked at.
	tileKeys  = 128
	tilePages = tileKeys / pageKeys
)

// kvFormat is an element type that KV pools may have: an index into a tier's kernels.
type kvFormat int

const (
	kvF32 kvFormat = iota
	kvBF16
	kvI8 // rows of codes and their scale
	kvFormats
)

// elementBytes is the size of an element. Rows of kvI8 are longer than theirs.
var elementBytes = [kvFormats]int{kvF32: 4, kvBF16: 2, kvI8: 1}

// scaleBytes is the size of the scale that ends a row of kvI8.
const scaleBytes = 4

// kvFormatOf returns the pools' common format.
func kvFormatOf(op gpu.Op, k, v gpu.Tensor) kvFormat {
	if k.DType == v.DType {
		switch k.DType {
		case gpu.F32:
			return kvF32
		case gpu.BF16:
			return kvBF16
		case gpu.I8:
			return kvI8
		}
	}
	panic(fmt.Sprintf("cpu: %s: KPool is %v and VPool %v; both must be f32, both bf16 or both i8", op, k, v))
}

// rowKernel are the attention kernels for a fixed number of rows. Whatever that number, a row
// gets the same bits.
type rowKernel struct {
	rows int
	// scores: scores[r][i] = scale * (q[r] . key i) for pages*16 keys that are turned around,
	// [pages][dim][16], summed in order of dim. q is [rows][dim]; a row of scores has tileKeys.
	scores func(scores, q, keys *float32, pages, dim int, scale float32)
	// mix: sums[r] = sums[r] * correction[r] + sum of weights[r][i] * value i, in order, for
	// first <= i < first+n. sums is [rows][dim], a row of weights has tileKeys, and value i is
	// row i%16 of pages[i/16], [16][dim] of the format, each with its scale if it has one. first is less than 16, n is not 0.
	mix mixKernels
}

type mixKernels [kvFormats]func(sums, correction, weights *float32, pages **byte, first, n, dim int)

// rowKernel returns the kernel for as many of n rows as any takes.
func (t *tier) rowKernel(n int) *rowKernel {
	best := &t.rows[0]
	for i := range t.rows {
		if t.rows[i].rows <= n {
			best = &t.rows[i]
		}
	}
	return best
}

// keySpan is the keys of a tile that one row attends to.
type keySpan struct{ from, to int }

// tile adds the keys of the tile at position at, as far as they lie in [first, end], to every
// row that attends to any of them.
func (p *attentionTask) tile(space *attentionSpace, run queryRun, q []float32, table []int32, kvHead, at, first, end int) {
	last := min(end, at+tileKeys-1)
	page := pageKeys * p.padded
	space.keys = grow(space.keys, tilePages*page)
	var scratch [2][]float32 // one page of keys, and those of values
	if !p.whole {
		space.copied = grow(space.copied, (1+tilePages)*page)
		scratch[0] = space.copied[:page]
	}
	for i := (first - at) / pageKeys; i <= (last-at)/pageKeys; i++ {
		pos := at + i*pageKeys
		if !p.whole {
			scratch[1] = space.copied[(1+i)*page:][:page]
		} else if next := pos + pageKeys; next <= end {
			p.tier.prefetch(p.wholePage(p.k, table, kvHead, next)) // pages of a sequence are far apart
		}
		keys := p.page(p.k, table, kvHead, pos, first, last, scratch[0])
		space.values[i] = p.page(p.v, table, kvHead, pos, first, last, scratch[1])
		p.tier.transpose[p.format](&space.keys[i*page], keys, space.values[i], p.padded)
	}
	// Rows that attend to the tile: spans do not decrease from token to token.
	from, to := run.from, run.to
	for _, end := p.span(from); end < at; _, end = p.span(from) {
		from++
	}
	for begin, _ := p.span(to - 1); begin >= at+tileKeys; begin, _ = p.span(to - 1) {
		to--
	}
	space.spans = space.spans[:0]
	for t := from; t < to; t++ {
		begin, end := p.span(t)
		for range p.group {
			space.spans = append(space.spans, keySpan{max(begin-at, 0), min(end+1-at, tileKeys)})
		}
	}
	before, rows := (from-run.from)*p.group, len(space.spans)
	for r := 0; r < rows; {
		kernel := p.tier.rowKernel(rows - r)
		p.rows(space, q, kernel, before+r, space.spans[r:r+kernel.rows])
		r += kernel.rows
	}
}

// rows runs a kernel's rows, the first of which is row, against the tile.
func (p *attentionTask) rows(space *attentionSpace, q []float32, kernel *rowKernel, row int, spans []keySpan) {
	// The first row's span begins and ends before, or with, the others'.
	begin, end := spans[0].from&^(pageKeys-1), (spans[len(spans)-1].to+pageKeys-1)&^(pageKeys-1)
	space.scores = grow(space.scores, kernel.rows*tileKeys)
	scores := space.scores
	kernel.scores(&scores[begin], &q[row*p.padded], &space.keys[begin*p.padded], (end-begin)/pageKeys, p.padded, p.scale)
	for r, s := range spans {
		line := scores[r*tileKeys:][:tileKeys]
		if p.softCap > 0 {
			softCapAll(line[s.from:s.to], p.softCap)
		}
		for i := begin; i < s.from; i++ {
			line[i] = negativeInfinity // weighs nothing
		}
		for i := s.to; i < end; i++ {
			line[i] = negativeInfinity
		}
	}
	p.tier.softmax(&scores[begin], end-begin, &space.sums[row*pageKeys], &space.largest[row], &space.correction[row], kernel.rows)

	// Values that all rows attend to are mixed together, the others row by row: weight 0 is not
	// nothing if the value is not a number.
	from, to := spans[len(spans)-1].from, spans[0].to
	if from >= to {
		from, to = tileKeys, tileKeys
	}
	for r, s := range spans {
		p.mixRow(space, row, r, s.from, min(s.to, from))
	}
	if from < to {
		p.mix(space, kernel, row, 0, from, to)
	}
	for r, s := range spans {
		p.mixRow(space, row, r, max(s.from, to), s.to)
	}
}

// mixRow mixes values [from, to) of the tile into row r of those that begin at row.
func (p *attentionTask) mixRow(space *attentionSpace, row, r, from, to int) {
	if from < to {
		p.mix(space, &p.tier.rows[0], row, r, from, to)
	}
}

func (p *attentionTask) mix(space *attentionSpace, kernel *rowKernel, row, r, from, to int) {
	correction := space.correction[row+r:][:kernel.rows]
	kernel.mix[p.format](&space.mixed[(row+r)*p.padded], &correction[0], &space.scores[r*tileKeys+from/pageKeys*pageKeys],
		&space.values[from/pageKeys], from%pageKeys, to-from, p.padded)
	for i := range correction {
		correction[i] = 1 // done
	}
}
