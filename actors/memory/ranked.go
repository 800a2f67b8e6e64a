package memory

import "github.com/troupe-engine/troupe/schemas"

// rank orders blocks for eviction: the lowest goes first. Ranks of a policy are all different.
type rank struct {
	worth int64
	tie   uint64
}

func (r rank) before(o rank) bool { return r.worth < o.worth || r.worth == o.worth && r.tie < o.tie }

// fifo evicts what was computed first, whether it was used since or not.
func fifo(p *pool, b schemas.BlockID) rank {
	return rank{0, p.prefix.names[p.blocks[b].name].serial}
}

// lfu evicts what was used least often since it was computed; of equals, what has been unused for longest.
func lfu(p *pool, b schemas.BlockID) rank {
	return rank{int64(p.prefix.names[p.blocks[b].name].uses), p.blocks[b].idle}
}

// priority evicts what only requests of the worst priority used, whose number is the highest; of equals, what has
// been unused for longest.
func priority(p *pool, b schemas.BlockID) rank {
	return rank{-int64(p.prefix.names[p.blocks[b].name].priority), p.blocks[b].idle}
}

// ranked evicts the tip with the lowest rank: a binary heap of tips. A block's rank is taken when it becomes an
// evictable tip, and does not change while it is one. Every operation is O(log tips).
type ranked struct {
	pool   *pool
	rankOf func(*pool, schemas.BlockID) rank
	heap   []rankedBlock
	at     []int32 // by block: its place in heap and one more; 0: not there
	size   int32   // tips and the blocks that they continue
}

type rankedBlock struct {
	rank  rank
	block schemas.BlockID
}

func newRanked(p *pool, rankOf func(*pool, schemas.BlockID) rank) evictor {
	return &ranked{pool: p, rankOf: rankOf, at: make([]int32, len(p.blocks))}
}

func (r *ranked) len() int32 { return r.size }

func (r *ranked) add(b schemas.BlockID) {
	r.size++
	if r.pool.prefix.names[r.pool.blocks[b].name].children == 0 {
		r.tip(b)
	}
}

func (r *ranked) tip(b schemas.BlockID) {
	r.heap = append(r.heap, rankedBlock{})
	r.up(len(r.heap)-1, rankedBlock{r.rankOf(r.pool, b), b})
}

func (r *ranked) remove(b schemas.BlockID) {
	r.size--
	at := int(r.at[b]) - 1
	if at < 0 {
		return // not a tip
	}
	r.at[b] = 0
	last := r.heap[len(r.heap)-1]
	r.heap = r.heap[:len(r.heap)-1]
	if last.block == b {
		return
	}
	if at > 0 && last.rank.before(r.heap[(at-1)/2].rank) {
		r.up(at, last)
	} else {
		r.down(at, last)
	}
}

func (r *ranked) next() schemas.BlockID {
	b := r.heap[0].block
	r.remove(b)
	return b
}

// up puts x at place i or, while it goes before those above, higher.
func (r *ranked) up(i int, x rankedBlock) {
	for i > 0 && x.rank.before(r.heap[(i-1)/2].rank) {
		r.put(i, r.heap[(i-1)/2])
		i = (i - 1) / 2
	}
	r.put(i, x)
}

// down puts x at place i or, while one of those below goes before it, lower.
func (r *ranked) down(i int, x rankedBlock) {
	for {
		child := 2*i + 1
		if child >= len(r.heap) {
			break
		}
		if child+1 < len(r.heap) && r.heap[child+1].rank.before(r.heap[child].rank) {
			child++
		}
		if !r.heap[child].rank.before(x.rank) {
			break
		}
		r.put(i, r.heap[child])
		i = child
	}
	r.put(i, x)
}

func (r *ranked) put(i int, x rankedBlock) {
	r.heap[i] = x
	r.at[x.block] = int32(i) + 1
}
