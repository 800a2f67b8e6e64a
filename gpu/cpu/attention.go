package cpu

import (
	"fmt"
	"math"

	"github.com/troupe-engine/troupe/gpu"
)

// attention executes gpu.Attention. A work item is one token and one KV head with the group of
// query heads that share it, so keys and values come from memory once per group. Each query
// head's result is computed over its keys in order: scores, their maximum, exponentials, then
// the weighted sum of values. Nothing depends on which other queries are in the step.
func (d *Device) attention(t *tier, a *gpu.Attention) error {
	tokens := a.Positions.Len()
	kvHeads, blockSize, dim := a.KPool.Dims[1], a.KPool.Dims[2], a.KPool.Dims[3]
	mustShape(gpu.OpAttention, "VPool", a.VPool, a.KPool.Dims[0], kvHeads, blockSize, dim)
	mustLen(gpu.OpAttention, "Out", a.Out, tokens*a.Heads*dim)
	mustLen(gpu.OpAttention, "Q", a.Q, tokens*a.Q.Dims[1])
	mustLen(gpu.OpAttention, "QueryStart", a.QueryStart, a.Slots.Len()+1)
	if kvHeads <= 0 || a.Heads%kvHeads != 0 || a.QColumn < 0 || a.QColumn+a.Heads*dim > a.Q.Dims[1] {
		panic(fmt.Sprintf("cpu: attention: %d heads of %d at column %d of %v over %d KV heads",
			a.Heads, dim, a.QColumn, a.Q, kvHeads))
	}
	p := &d.work.attention
	*p = attentionTask{
		tier: t, out: d.Float32s(a.Out), q: d.Float32s(a.Q), stride: a.Q.Dims[1], column: a.QColumn,
		k: d.Float32s(a.KPool), v: d.Float32s(a.VPool), blocks: a.KPool.Dims[0],
		kvHeads: kvHeads, group: a.Heads / kvHeads, blockSize: blockSize, dim: dim,
		tables: d.Int32s(a.BlockTables), tableWidth: a.BlockTables.Dims[1], positions: d.Int32s(a.Positions),
		scale: a.Scale, softCap: a.SoftCap, window: a.Window, workers: d.work.workers,
	}
	keys := p.resolve(d, d.Int32s(a.Slots), d.Int32s(a.QueryStart))
	macs := float64(2*keys) * float64(a.Heads*dim)
	d.share(p, tokens*kvHeads, 4*macs/t.macsPerNs)
	*p = attentionTask{}
	return nil
}

type attentionTask struct {
	tier                   *tier
	out, q                 []float32
	stride, column         int
	k, v                   []float32
	blocks, kvHeads, group int
	blockSize, dim         int
	tables                 []int32
	tableWidth             int
	tokenSlot              []int32 // row of tables for each token
	positions              []int32
	scale, softCap         float32
	window                 int
	workers                []workerSpace
}

// resolve finds each token's row of the block tables, checks every index, and returns the
// number of (query, key) pairs.
func (p *attentionTask) resolve(d *Device, slots, starts []int32) (pairs int) {
	tokens := len(p.positions)
	if cap(d.work.tokenSlot) < tokens {
		d.work.tokenSlot = make([]int32, tokens+tokens/4)
	}
	p.tokenSlot = d.work.tokenSlot[:tokens]
	if starts[0] != 0 || int(starts[len(slots)]) != tokens {
		panic(fmt.Sprintf("cpu: attention: QueryStart runs from %d to %d over %d tokens", starts[0], starts[len(slots)], tokens))
	}
	for s, slot := range slots {
		mustIndex(gpu.OpAttention, "Slots", int(slot), len(p.tables)/p.tableWidth)
		if starts[s+1] < starts[s] {
			panic(fmt.Sprintf("cpu: attention: QueryStart decreases at sequence %d", s))
		}
		for t := starts[s]; t < starts[s+1]; t++ {
			p.tokenSlot[t] = slot
			first, last := p.span(int(t))
			mustIndex(gpu.OpAttention, "Positions", last, p.tableWidth*p.blockSize)
			for _, block := range p.table(int(t))[first/p.blockSize : last/p.blockSize+1] {
				mustIndex(gpu.OpAttention, "BlockTables", int(block), p.blocks)
			}
			pairs += last - first + 1
		}
	}
	return pairs
}

// span returns the first and last position that token t attends to.
func (p *attentionTask) span(t int) (first, last int) {
	last = int(p.positions[t])
	if p.window > 0 {
		first = max(0, last-p.window+1)
	}
	return first, last
}

func (p *attentionTask) table(t int) []int32 {
	return p.tables[int(p.tokenSlot[t])*p.tableWidth:][:p.tableWidth]
}

func (p *attentionTask) run(worker, from, to int) {
	for item := from; item < to; item++ {
		// Neighbours are tokens of one sequence, which find its keys and values in cache.
		tokens := len(p.positions)
		p.heads(&p.workers[worker], item%tokens, item/tokens)
	}
}

// heads computes the query heads of one token that share a KV head.
func (p *attentionTask) heads(space *workerSpace, token, kvHead int) {
	first, last := p.span(token)
	count := last - first + 1
	padded := (count + 15) &^ 15
	space.scores = grow(space.scores, p.group*padded)
	table := p.table(token)
	cold := token == 0 || p.tokenSlot[token-1] != p.tokenSlot[token]
	queries := p.q[token*p.stride+p.column+kvHead*p.group*p.dim:][:p.group*p.dim]
	for at := first; at <= last; {
		keys, n := p.keyRun(p.k, table, kvHead, at, last)
		if cold {
			p.prefetch(p.k, p.v, table, kvHead, at+n, first, last)
		}
		for g := range p.group {
			p.tier.dots(space.scores[g*padded+at-first:][:n], queries[g*p.dim:][:p.dim], keys, p.scale)
		}
		at += n
	}
	space.totals = grow(space.totals, p.group)
	for g := range p.group {
		space.totals[g] = p.softmax(space.scores[g*padded:][:padded], count)
	}
	chains := mixChains * p.dim
	space.mixed = grow(space.mixed, p.group*chains)
	clear(space.mixed)
	for at := first; at <= last; {
		values, n := p.keyRun(p.v, table, kvHead, at, last)
		if cold {
			p.prefetch(p.v, nil, table, kvHead, at+n, first, last)
		}
		for g := range p.group {
			p.mix(space.mixed[g*chains:][:chains], space.scores[g*padded+at-first:][:n], values, at)
		}
		at += n
	}
	out := p.out[(token*p.kvHeads+kvHead)*p.group*p.dim:][:p.group*p.dim]
	for g, total := range space.totals {
		p.finish(out[g*p.dim:][:p.dim], space.mixed[g*chains:][:chains], 1/total)
	}
}

// mixChains is the number of independent sums that hide the latency of a multiply-add. The value
// at position p goes to chain p%mixChains, so the result does not depend on the block size.
const mixChains = 4

// mix adds the weighted values of positions at.. to the chains.
func (p *attentionTask) mix(chains, weights, values []float32, at int) {
	i := 0
	one := func() {
		chain := (at + i) % mixChains
		p.tier.mixOne(chains[chain*p.dim:][:p.dim], values[i*p.dim:], weights[i])
		i++
	}
	for i < len(weights) && (at+i)%mixChains != 0 {
		one()
	}
	if n := (len(weights) - i) / mixChains * mixChains; n > 0 {
		p.tier.mixFour(chains, weights[i:i+n], values[i*p.dim:])
		i += n
	}
	for i < len(weights) {
		one()
	}
}

// finish adds up the chains and divides by the sum of the weights.
func (p *attentionTask) finish(out, chains []float32, inverse float32) {
	a, b, c, d := chains[:p.dim], chains[p.dim:][:p.dim], chains[2*p.dim:][:p.dim], chains[3*p.dim:][:p.dim]
	for i := range out {
		out[i] = ((a[i] + c[i]) + (b[i] + d[i])) * inverse
	}
}

// softmax turns the first count scores into exponentials and returns their sum.
func (p *attentionTask) softmax(scores []float32, count int) (total float32) {
	if p.softCap > 0 {
		softCapAll(scores[:count], p.softCap)
	}
	for i := count; i < len(scores); i++ {
		scores[i] = negativeInfinity // weighs nothing
	}
	largest, _ := p.tier.largest(scores)
	return p.tier.expShift(scores, largest)
}

// keyRun returns the vectors of positions at.. that are contiguous in pool, up to last, and
// their number.
func (p *attentionTask) keyRun(pool []float32, table []int32, kvHead, at, last int) ([]float32, int) {
	offset := at % p.blockSize
	n := min(p.blockSize-offset, last-at+1)
	start := ((int(table[at/p.blockSize])*p.kvHeads+kvHead)*p.blockSize + offset) * p.dim
	return pool[start:][:n*p.dim], n
}

// prefetch asks for the run at position at of pool, or past the end for the first run of the
// pool that is read next. Blocks lie anywhere in memory, so the processor cannot guess them.
func (p *attentionTask) prefetch(pool, next []float32, table []int32, kvHead, at, first, last int) {
	const floatsMax = 1024 // further on, it has seen the direction
	if at > last {
		if next == nil {
			return
		}
		pool, at = next, first
	}
	run, _ := p.keyRun(pool, table, kvHead, at, last)
	p.tier.prefetch(run[:min(len(run), floatsMax)])
}

var negativeInfinity = float32(math.Inf(-1))
