package memory

import (
	"fmt"
	"slices"

	"github.com/troupe-engine/troupe/schemas"
)

// Check returns the first broken invariant, nil if all hold between requests:
//
//   - every block is exactly one of free, evictable and used, and is used by as many tables as it counts;
//   - a sequence has exactly the blocks that its placed tokens need, and the one it writes next is its own;
//   - names, their blocks and their twins agree; an evictable block is the only one with its name;
//   - named blocks of a table are a prefix of it and hold the sequence's own tokens;
//   - every findable prefix can be reached from its first block (the eviction policy's part).
//
// It takes time in proportion to the pool and is meant for tests and for diagnosis.
func (c *Core) Check() error {
	refs := make([]int32, c.cfg.Blocks)
	for _, id := range c.sortedIDs() {
		s := c.seqs[id]
		if err := c.checkSequence(s, refs); err != nil {
			return fmt.Errorf("memory: sequence %s: %w", id, err)
		}
	}
	if err := c.checkBlocks(refs); err != nil {
		return fmt.Errorf("memory: %w", err)
	}
	if err := c.checkNames(); err != nil {
		return fmt.Errorf("memory: %w", err)
	}
	for b, n := range c.lost {
		if n != 0 {
			return fmt.Errorf("memory: block %d: scratch count %d left behind", b, n)
		}
	}
	return nil
}

func (c *Core) checkSequence(s *sequence, refs []int32) error {
	size := c.cfg.BlockSize
	if want := (int64(s.placed) + int64(size) - 1) / int64(size); int64(len(s.table)) != want {
		return fmt.Errorf("%d blocks for %d placed tokens, want %d", len(s.table), s.placed, want)
	}
	if s.computed > s.placed || s.named > s.computed/size || s.named*size > s.known() {
		return fmt.Errorf("placed %d, computed %d, known %d tokens but %d blocks named",
			s.placed, s.computed, s.known(), s.named)
	}
	parent := noName
	for i, b := range s.table {
		if b < 0 || int(b) >= len(refs) {
			return fmt.Errorf("entry %d is block %d of %d", i, b, len(refs))
		}
		if slices.Contains(s.table[:i], b) {
			return fmt.Errorf("block %d twice in the table", b)
		}
		refs[b]++
		n := c.pool.blocks[b].name
		if int32(i) < s.named {
			if n == noName || !c.pool.prefix.holds(n, parent, s.salt, c.blockTokens(s, int32(i))) {
				return fmt.Errorf("entry %d: block %d is not named by the sequence's tokens", i, b)
			}
			parent = n
		}
	}
	if s.placed%size != 0 {
		if b := s.table[len(s.table)-1]; c.pool.blocks[b].refs != 1 || c.pool.blocks[b].name != noName {
			return fmt.Errorf("block %d, to be written next, has %d holders and name %d",
				b, c.pool.blocks[b].refs, c.pool.blocks[b].name)
		}
	}
	return nil
}

func (c *Core) checkBlocks(refs []int32) error {
	p := c.pool
	isFree := make([]bool, len(p.blocks))
	for b := int(p.fresh); b < len(isFree); b++ {
		isFree[b] = true
	}
	for _, b := range p.free {
		if isFree[b] {
			return fmt.Errorf("block %d is free twice", b)
		}
		isFree[b] = true
	}
	evictable := int32(0)
	for i := range p.blocks {
		at := &p.blocks[i]
		if at.refs != refs[i] {
			return fmt.Errorf("block %d counts %d holders, %d tables list it", i, at.refs, refs[i])
		}
		if isFree[i] && (at.refs != 0 || at.name != noName) {
			return fmt.Errorf("block %d is free with %d holders and name %d", i, at.refs, at.name)
		}
		if at.refs == 0 && !isFree[i] {
			evictable++
			if at.name == noName || at.twinNext != schemas.BlockID(i) {
				return fmt.Errorf("block %d is evictable with name %d and twin %d", i, at.name, at.twinNext)
			}
		}
	}
	if evictable != p.cached.len() {
		return fmt.Errorf("%d blocks are evictable, the policy holds %d", evictable, p.cached.len())
	}
	return nil
}

func (c *Core) checkNames() error {
	p := c.pool
	used, children := int32(0), map[nameID]int32{}
	for i := range p.prefix.names {
		n, at := nameID(i), &p.prefix.names[i]
		if at.block == noBlock {
			continue
		}
		used++
		if !p.prefix.reachable(at) {
			return fmt.Errorf("block %d: the prefix before it is gone", at.block)
		}
		children[at.parent]++
		hash := p.prefix.hash(at.parent, at.salt, p.prefix.tokensOf(n))
		if p.prefix.find(at.parent, at.salt, hash, p.prefix.tokensOf(n)) != n {
			return fmt.Errorf("block %d: its content finds another name", at.block)
		}
		for b, steps := at.block, 0; ; steps++ {
			next := p.blocks[b].twinNext
			if p.blocks[b].name != n || p.blocks[next].twinPrev != b || steps > len(p.blocks) {
				return fmt.Errorf("block %d: broken ring of twins at block %d", at.block, b)
			}
			if b = next; b == at.block {
				break
			}
		}
	}
	for i := range p.prefix.names {
		if n := nameID(i); n != noName && p.prefix.names[n].children != children[n] {
			return fmt.Errorf("name %d counts %d that continue it, there are %d", n, p.prefix.names[n].children, children[n])
		}
	}
	if used != p.prefix.size() {
		return fmt.Errorf("%d names in use, %d taken", used, p.prefix.size())
	}
	return nil
}

// holds says whether name n stands for tokens after the prefix parent.
func (x *prefixIndex) holds(n, parent nameID, salt uint64, tokens []int32) bool {
	at := &x.names[n]
	return at.parent == parent && at.salt == salt && x.reachable(at) && slices.Equal(x.tokensOf(n), tokens)
}
