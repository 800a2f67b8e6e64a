package cpu

import (
	"fmt"
	"math"
	"unsafe"

	"github.com/troupe-engine/troupe/gpu"
)

// attention executes gpu.Attention in one pass over keys and values. A work item is a KV head
// and a few consecutive tokens of one sequence, with all query heads that share the KV head:
// those are its rows. It walks through the keys in tiles (see attention_tile.go) and keeps for
// each row a running maximum, sum of weights and weighted sum of values (online softmax; Milakov
// & Gimelshein 2018, arXiv:1805.02867; Dao et al. 2022, arXiv:2205.14135).
//
// Tiles lie at fixed positions, and a row's sums run in key order. Nothing depends on which
// other rows are in the item or the step, so neither chunks nor batches change a bit.
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
	format := kvFormatOf(gpu.OpAttention, a.KPool, a.VPool)
	p := &d.work.attention
	*p = attentionTask{
		tier: t, out: d.Float32s(a.Out), q: d.Float32s(a.Q), stride: a.Q.Dims[1], column: a.QColumn,
		k: d.bytes(a.KPool), v: d.bytes(a.VPool), format: format, row: a.KPool.DType.RowBytes(dim), blocks: a.KPool.Dims[0],
		kvHeads: kvHeads, group: a.Heads / kvHeads, blockSize: blockSize, dim: dim, padded: (dim + 15) &^ 15,
		tables: d.Int32s(a.BlockTables), tableWidth: a.BlockTables.Dims[1], positions: d.Int32s(a.Positions),
		scale: a.Scale, softCap: a.SoftCap, window: a.Window, workers: d.work.workers, queries: d.work.queries[:0],
	}
	p.whole = blockSize%pageKeys == 0 && p.padded == dim
	keys := p.resolve(d.Int32s(a.Slots), d.Int32s(a.QueryStart))
	d.work.queries = p.queries
	// Multiply-adds take a third of the time: keys are turned around, exponentials taken.
	macs := float64(2*keys) * float64(a.Heads*dim)
	d.share(p, len(p.queries)*kvHeads, 3*macs/t.macsPerNs)
	*p = attentionTask{}
	return nil
}

type attentionTask struct {
	tier                   *tier
	out, q                 []float32
	stride, column         int
	k, v                   []byte // the pools
	format                 kvFormat
	row                    int // bytes of a key in the pools
	blocks, kvHeads, group int
	blockSize, dim         int
	padded                 int  // dim, rounded up to a multiple of 16
	whole                  bool // pages lie in the pools as the kernels need them
	tables                 []int32
	tableWidth             int
	positions              []int32
	queries                []queryRun
	scale, softCap         float32
	window                 int
	workers                []workerSpace
}

// queryRun is a run of tokens of one sequence.
type queryRun struct {
	slot     int32 // row of the block tables
	from, to int   // tokens
}

// rowsMax bounds the rows of one item, unless one token has more: enough for the work of
// turning keys around to be small, and few enough for their sums to stay in cache.
const rowsMax = 48

// resolve checks every index, divides the tokens into runs, and returns the number of (query,
// key) pairs.
func (p *attentionTask) resolve(slots, starts []int32) (pairs int) {
	tokens := len(p.positions)
	if starts[0] != 0 || int(starts[len(slots)]) != tokens {
		panic(fmt.Sprintf("cpu: attention: QueryStart runs from %d to %d over %d tokens", starts[0], starts[len(slots)], tokens))
	}
	most := max(1, rowsMax/p.group)
	for s, slot := range slots {
		mustIndex(gpu.OpAttention, "Slots", int(slot), len(p.tables)/p.tableWidth)
		if starts[s+1] < starts[s] {
			panic(fmt.Sprintf("cpu: attention: QueryStart decreases at sequence %d", s))
		}
		table := p.table(slot)
		checked := 0 // blocks from here on have not been looked at
		for t := int(starts[s]); t < int(starts[s+1]); t++ {
			first, last := p.span(t)
			mustIndex(gpu.OpAttention, "Positions", last, p.tableWidth*p.blockSize)
			if t > int(starts[s]) && p.positions[t] != p.positions[t-1]+1 {
				panic(fmt.Sprintf("cpu: attention: token %d of slot %d is at position %d, after %d", t, slot, last, p.positions[t-1]))
			}
			for b := max(checked, first/p.blockSize); b <= last/p.blockSize; b++ {
				mustIndex(gpu.OpAttention, "BlockTables", int(table[b]), p.blocks)
				checked = b + 1
			}
			pairs += last - first + 1
		}
		for t := int(starts[s]); t < int(starts[s+1]); t += most {
			p.queries = append(p.queries, queryRun{slot, t, min(t+most, int(starts[s+1]))})
		}
	}
	return pairs
}

// span returns the first and last position that token t attends to. Neither decreases along the
// tokens of a sequence.
func (p *attentionTask) span(t int) (first, last int) {
	last = int(p.positions[t])
	if p.window > 0 {
		first = max(0, last-p.window+1)
	}
	return first, last
}

func (p *attentionTask) table(slot int32) []int32 {
	return p.tables[int(slot)*p.tableWidth:][:p.tableWidth]
}

func (p *attentionTask) run(worker, from, to int) {
	for item := from; item < to; item++ {
		p.attend(&p.workers[worker].attention, p.queries[item/p.kvHeads], item%p.kvHeads)
	}
}

// attentionSpace is one worker's scratch. R is the item's rows, D the padded dimension.
type attentionSpace struct {
	q          []float32        // [R, D]
	keys       []float32        // [tilePages, D, 16], a tile of keys turned around
	scores     []float32        // [rows of a kernel, tileKeys], then weights
	sums       []float32        // [R, 16] of weights: lane i adds positions i, i+16, …
	largest    []float32        // [R]
	correction []float32        // [R], what the last tile multiplies earlier sums by
	mixed      []float32        // [R, D] of weighted values
	copied     []float32        // pages of keys and values that are not whole in the pools
	values     [tilePages]*byte // pages of a tile
	spans      []keySpan        // [R], in the tile
}

// attend computes the rows of a run of tokens and one KV head.
func (p *attentionTask) attend(space *attentionSpace, run queryRun, kvHead int) {
	rows := (run.to - run.from) * p.group
	space.sums = grow(space.sums, rows*pageKeys)
	clear(space.sums)
	space.mixed = grow(space.mixed, rows*p.padded)
	clear(space.mixed)
	space.correction = grow(space.correction, rows)
	space.largest = grow(space.largest, rows)
	for i := range space.largest {
		space.largest[i] = negativeInfinity
	}
	q := p.gatherQueries(space, run, kvHead)
	first, _ := p.span(run.from)
	_, last := p.span(run.to - 1)
	table := p.table(run.slot)
	for at := first &^ (tileKeys - 1); at <= last; at += tileKeys {
		p.tile(space, run, q, table, kvHead, at, max(first, at), last)
	}
	p.finish(space, run, kvHead)
}

// finish writes an item's results.
func (p *attentionTask) finish(space *attentionSpace, run queryRun, kvHead int) {
	for token := run.from; token < run.to; token++ {
		row := (token - run.from) * p.group
		out := p.out[(token*p.kvHeads+kvHead)*p.group*p.dim:][:p.group*p.dim]
		mixed, sums := space.mixed[row*p.padded:][:p.group*p.padded], &space.sums[row*pageKeys]
		if p.padded == p.dim {
			p.tier.finish(&out[0], &mixed[0], sums, p.dim, p.group)
			continue
		}
		p.tier.finish(&mixed[0], &mixed[0], sums, p.padded, p.group)
		for g := range p.group {
			copy(out[g*p.dim:][:p.dim], mixed[g*p.padded:])
		}
	}
}

// gatherQueries returns the item's queries, [R, D]. Those of one token lie that way already.
func (p *attentionTask) gatherQueries(space *attentionSpace, run queryRun, kvHead int) []float32 {
	width := p.group * p.dim
	at := func(token int) []float32 { return p.q[token*p.stride+p.column+kvHead*width:][:width] }
	if run.to-run.from == 1 && p.padded == p.dim {
		return at(run.from)
	}
	rows := (run.to - run.from) * p.group
	space.q = grow(space.q, rows*p.padded)
	if p.padded != p.dim {
		clear(space.q)
	}
	for r := range rows {
		copy(space.q[r*p.padded:], at(run.from + r/p.group)[r%p.group*p.dim:][:p.dim])
	}
	return space.q
}

// page returns the page of pool that begins at position at, [16, D]: in place, or else copied to
// scratch as far as it lies in [first, last].
func (p *attentionTask) page(pool []byte, table []int32, kvHead, at, first, last int, scratch []float32) *byte {
	if p.whole {
		return &p.wholePage(pool, table, kvHead, at)[0]
	}
	page := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(scratch))), len(scratch)*4)
	clear(page)
	elements := p.dim * elementBytes[p.format] // a scale may follow
	padded := p.row + (p.padded-p.dim)*elementBytes[p.format]
	for pos := max(at, first); pos <= min(at+pageKeys-1, last); pos++ {
		start := (int(table[pos/p.blockSize])*p.kvHeads+kvHead)*p.blockSize + pos%p.blockSize
		from, to := pool[start*p.row:][:p.row], page[(pos-at)*padded:][:padded]
		copy(to, from[:elements])
		copy(to[padded-len(from[elements:]):], from[elements:])
	}
	return &page[0]
}

// wholePage returns the page that begins at position at, of pools that hold pages as the kernels need them.
func (p *attentionTask) wholePage(pool []byte, table []int32, kvHead, at int) []byte {
	start := (int(table[at/p.blockSize])*p.kvHeads+kvHead)*p.blockSize + at%p.blockSize
	return pool[start*p.row:][:pageKeys*p.row]
}

var negativeInfinity = float32(math.Inf(-1))
