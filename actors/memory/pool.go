package memory

import (
	"cmp"
	"slices"

	"github.com/troupe-engine/troupe/schemas"
)

// pool is the state of every block: free, used or evictable.
type pool struct {
	blocks []block
	// free is a stack: the block freed last is handed out first. Beneath it lie the blocks that were never used, from
	// fresh on.
	free   []schemas.BlockID
	fresh  schemas.BlockID
	cached evictor
	prefix prefixIndex

	idled     uint64 // how often a block became evictable
	evictions uint64
}

type block struct {
	refs int32 // block tables that list it; 0 is free or evictable
	name nameID
	idle uint64 // pool.idled when it became evictable last
	// The ring of blocks with the same name, in the order in which they got it.
	twinPrev, twinNext schemas.BlockID
}

func newPool(cfg Config, seed uint64, changes *changes) *pool {
	p := &pool{blocks: make([]block, cfg.Blocks)}
	if !cfg.PrefixCacheOff {
		p.prefix = newPrefixIndex(cfg.Blocks, cfg.BlockSize, seed, changes)
	}
	p.cached = evictors[cfg.Eviction](p, cfg.Future)
	return p
}

// unused counts the blocks that are neither used nor evictable.
func (p *pool) unused() int32 { return int32(len(p.free)+len(p.blocks)) - int32(p.fresh) }

// available counts the blocks that alloc can hand out.
func (p *pool) available() int32 { return p.unused() + p.cached.len() }

// alloc hands out a block with one reference: a free one, or else the cached one that the policy
// gives up, whose content is then forgotten. The caller has made sure that one is available.
func (p *pool) alloc() schemas.BlockID {
	var b schemas.BlockID
	switch n := len(p.free); {
	case n > 0:
		b = p.free[n-1]
		p.free = p.free[:n-1]
	case int(p.fresh) < len(p.blocks):
		b = p.fresh
		p.fresh++
	default:
		b = p.cached.next()
		p.unname(b)
		p.evictions++
	}
	p.blocks[b].refs = 1
	return b
}

// hold adds a reference to a block that is used or evictable.
func (p *pool) hold(b schemas.BlockID) {
	if p.blocks[b].refs == 0 {
		p.cached.remove(b)
	}
	p.blocks[b].refs++
}

// drop removes a reference. A block without references is kept for reuse if it alone has its name:
// while another block with the same content is in use, keeping this one would gain nothing.
func (p *pool) drop(b schemas.BlockID) {
	at := &p.blocks[b]
	at.refs--
	switch {
	case at.refs > 0:
	case at.name != noName && at.twinNext == b:
		p.idled++
		at.idle = p.idled
		p.cached.add(b)
	default:
		p.unname(b)
		p.free = append(p.free, b)
	}
}

// name gives the content of block b, which is in use and has no name, its name: tokens after the
// prefix named parent. If other blocks have it too, the first that got it stays the findable one for
// as long as it is in use; an evictable one makes way for b and becomes free. The priority is that of the sequence.
func (p *pool) name(b schemas.BlockID, parent nameID, salt uint64, tokens []int32, priority int32) {
	hash := p.prefix.hash(parent, salt, tokens)
	n := p.prefix.find(parent, salt, hash, tokens)
	if n == noName {
		n = p.prefix.add(b, parent, salt, hash, tokens, priority)
		p.blocks[b].name, p.blocks[b].twinPrev, p.blocks[b].twinNext = n, b, b
		return
	}
	p.prefix.use(n, priority)
	first := p.prefix.names[n].block
	last := p.blocks[first].twinPrev
	p.blocks[b].name, p.blocks[b].twinPrev, p.blocks[b].twinNext = n, last, first
	p.blocks[last].twinNext = b
	p.blocks[first].twinPrev = b
	if p.blocks[first].refs == 0 {
		p.cached.remove(first)
		p.unname(first)
		p.free = append(p.free, first)
	}
}

// unname takes its name, if any, from block b. The next twin becomes the findable block; without
// twins the name is gone, and with it what continues the name before it.
func (p *pool) unname(b schemas.BlockID) {
	at := p.blocks[b]
	if at.name == noName {
		return
	}
	p.blocks[b].name = noName
	if at.twinNext == b {
		parent := p.prefix.names[at.name].parent
		p.prefix.remove(at.name)
		if before := p.prefix.names[parent]; before.block != noBlock && before.children == 0 && p.blocks[before.block].refs == 0 {
			p.cached.tip(before.block)
		}
		return
	}
	p.blocks[at.twinPrev].twinNext = at.twinNext
	p.blocks[at.twinNext].twinPrev = at.twinPrev
	if p.prefix.names[at.name].block == b {
		p.prefix.names[at.name].block = at.twinNext
	}
}

// setEvictor gives the evictable blocks to another policy, in the order in which they became evictable.
func (p *pool) setEvictor(e evictor) {
	var idle []schemas.BlockID
	for b := range p.fresh {
		if at := &p.blocks[b]; at.refs == 0 && at.name != noName {
			idle = append(idle, b)
		}
	}
	slices.SortFunc(idle, func(a, b schemas.BlockID) int { return cmp.Compare(p.blocks[a].idle, p.blocks[b].idle) })
	p.cached = e
	for _, b := range idle {
		e.add(b)
	}
}
