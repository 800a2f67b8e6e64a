package memory

import (
	"maps"
	"slices"

	"github.com/troupe-engine/troupe/schemas"
)

// evictor orders the evictable blocks: those that hold a findable prefix and that nobody uses. It is
// the seam for eviction policies and must be deterministic.
//
// Blocks of one prefix are added last block first. A policy must evict them in that order too (every
// use of a block is also a use of those before it, so recency and frequency agree with it when ties go
// to the earlier add): a block that outlives its predecessor cannot be found. That costs reuse, never
// correctness; Core.Check reports it.
type evictor interface {
	add(b schemas.BlockID)    // the last holder let go of b
	remove(b schemas.BlockID) // b is in use again, or its content is held elsewhere
	next() schemas.BlockID    // removes and returns the block to evict; not called when empty
	len() int32
}

// evictors are the policies by their names in Config.Eviction. The argument is the size of the pool.
var evictors = map[string]func(blocks int32) evictor{"lru": newLRU}

func evictorNames() []string { return slices.Sorted(maps.Keys(evictors)) }

// lru evicts the block that has been unused for longest: a doubly linked ring through the blocks, with
// one element more as its head. Every operation is O(1).
type lru struct {
	links []lruLink
	size  int32
}

type lruLink struct{ prev, next int32 }

func newLRU(blocks int32) evictor {
	l := &lru{links: make([]lruLink, blocks+1)}
	head := blocks
	l.links[head] = lruLink{head, head}
	return l
}

func (l *lru) add(b schemas.BlockID) {
	head := int32(len(l.links) - 1)
	newest := l.links[head].prev
	l.links[b] = lruLink{prev: newest, next: head}
	l.links[newest].next = int32(b)
	l.links[head].prev = int32(b)
	l.size++
}

func (l *lru) remove(b schemas.BlockID) {
	at := l.links[b]
	l.links[at.prev].next = at.next
	l.links[at.next].prev = at.prev
	l.size--
}

func (l *lru) next() schemas.BlockID {
	oldest := schemas.BlockID(l.links[len(l.links)-1].next)
	l.remove(oldest)
	return oldest
}

func (l *lru) len() int32 { return l.size }
