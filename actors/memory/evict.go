package memory

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/troupe-engine/troupe/schemas"
)

// evictor orders the evictable blocks: those that hold a findable prefix and that nobody uses. It is
// the seam for eviction policies and must be deterministic.
//
// Blocks of one prefix are added last block first. A policy must evict them in that order too: a block that
// outlives its predecessor cannot be found, which costs reuse, never correctness; Core.Check reports it. Recency
// keeps the order by itself, since every use of a block is also one of those before it. Other policies evict only
// tips: blocks that nothing cached continues.
type evictor interface {
	add(b schemas.BlockID)    // the last holder let go of b
	remove(b schemas.BlockID) // b is in use again, or its content is held elsewhere
	tip(b schemas.BlockID)    // the last block that continued b, which is evictable, is gone
	next() schemas.BlockID    // removes and returns the block to evict; not called when empty
	len() int32
	clone(p *pool) evictor // for a copy of its pool
}

// Future knows when prefixes will be wanted. Only a simulation has one.
type Future interface {
	// NextUse is when the prefix with a key (see schemas.PrefixKey) is wanted next, in any unit that grows with
	// time; math.MaxInt64 is never.
	NextUse(key uint64) int64
}

// evictors are the policies by their names in Config.Eviction.
var evictors = map[string]func(*pool, Future) evictor{
	"lru":      func(p *pool, _ Future) evictor { return newLRU(len(p.blocks)) },
	"fifo":     func(p *pool, _ Future) evictor { return newRanked(p, fifo) },
	"lfu":      func(p *pool, _ Future) evictor { return newRanked(p, lfu) },
	"priority": func(p *pool, _ Future) evictor { return newRanked(p, priority) },
	belady: func(p *pool, future Future) evictor {
		return newRanked(p, func(p *pool, b schemas.BlockID) rank {
			return rank{-future.NextUse(p.prefix.names[p.blocks[b].name].key), p.blocks[b].idle}
		})
	},
}

// belady evicts what is wanted latest: with as much memory, no policy finds more (L. A. Belady, "A study of
// replacement algorithms for a virtual-storage computer", 1966). It needs to know the future.
const belady = "belady"

// choose is SetEviction with an error for whoever asked; "" leaves the policy as it is.
func (c *Core) choose(name string) error {
	if name == "" {
		return nil
	}
	if err := c.SetEviction(name); err != nil {
		return schemas.Errorf(schemas.KindNotFound, "eviction", "%v", err).WithParam("name").
			WithHint("choose one of %s", strings.Join(Evictions(), ", "))
	}
	return nil
}

func (c *Core) evictions() *schemas.PolicyReply {
	return &schemas.PolicyReply{Active: c.Eviction(), Policies: Evictions()}
}

// Evictions lists the policies that need no Future, sorted.
func Evictions() []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(evictors)), func(name string) bool { return name == belady })
}

func checkEviction(name string, future Future) error {
	switch {
	case evictors[name] == nil:
		return fmt.Errorf("memory: Eviction: unknown policy %.40q, want one of %q", name, Evictions())
	case name == belady && future == nil:
		return fmt.Errorf("memory: Eviction: %s needs to know the future, which only a simulation does; want one of %q", name, Evictions())
	}
	return nil
}

// Eviction names the policy.
func (c *Core) Eviction() string { return c.cfg.Eviction }

// SetEviction changes the policy; the blocks that are cached stay.
func (c *Core) SetEviction(name string) error {
	if err := checkEviction(name, c.cfg.Future); err != nil {
		return err
	}
	c.cfg.Eviction = name
	c.pool.setEvictor(evictors[name](c.pool, c.cfg.Future))
	return nil
}

// lru evicts the block that has been unused for longest: a doubly linked ring through the blocks, with
// one element more as its head. Every operation is O(1).
type lru struct {
	links []lruLink
	size  int32
}

type lruLink struct{ prev, next int32 }

func newLRU(blocks int) evictor {
	l := &lru{links: make([]lruLink, blocks+1)}
	head := int32(blocks)
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

func (l *lru) tip(schemas.BlockID) {}

func (l *lru) next() schemas.BlockID {
	oldest := schemas.BlockID(l.links[len(l.links)-1].next)
	l.remove(oldest)
	return oldest
}

func (l *lru) len() int32 { return l.size }
