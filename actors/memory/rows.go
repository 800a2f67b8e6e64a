package memory

import (
	"slices"

	"github.com/troupe-engine/troupe/schemas"
)

// grantRows goes through the rows in order. A row that is not granted leaves no trace, except that one
// that yields (see findRoom) loses its own blocks.
func (c *Core) grantRows(req *schemas.ReserveRequest) {
	c.out.begin(req.Step, len(req.Seq))
	budget := req.TokensMax
	c.starved = false
	for i, s := range c.in.rows {
		if req.WantMax[i] == 1 { // set aside by the scheduler
			c.grantRow(req, i, s, 1)
			continue
		}
		budget -= c.grantRow(req, i, s, min(req.WantMax[i], budget))
	}
	for i, s := range c.in.rows {
		if c.out.granted[i] == 0 { // its table as it is in the end: a later row may have taken it
			c.out.start[i], c.out.blockFrom[i] = s.placed, int32(len(s.table))
		}
	}
}

// start is how a row begins: for a sequence with blocks where it stands, for one without with what
// it can take over. Making one changes nothing.
type start struct {
	takeover []schemas.BlockID // blocks to share; valid until the next start
	cached   int32             // tokens in them that count as placed
	revived  int32             // of takeover, those that nobody uses now
	parent   *sequence         // the fork's source, if takeover is from there
	lookedUp int32             // tokens looked up in the prefix cache
}

// grantRow gives s places for its next want tokens, or nothing, and returns how many it gave.
//
// Known tokens are no limit to a running sequence: what a decode row will write is sampled on the
// device, and Learn tells its id later. They limit a row that starts, because the scheduler cannot
// know how much of its want the takeover covers.
//
// A sequence that lost its blocks earlier in this request is not granted: the row was planned for the
// place it had, and starting again at once would take blocks from where they were just made free.
func (c *Core) grantRow(req *schemas.ReserveRequest, i int, s *sequence, want int32) int32 {
	if want == 0 || s.preemptedAt == c.round {
		return 0
	}
	var from start
	room := want // tokens that there must be blocks for
	if len(s.table) == 0 {
		if c.starved {
			return 0 // it would take what an earlier row is waiting for
		}
		from = c.startOf(s)
		left := s.known() - from.cached
		// A prompt that the budget cuts into chunks is begun only if there are blocks for all of it.
		want, room = min(want, left), min(req.WantMax[i], left)
	}
	first := s.placed + from.cached // placed is 0 where cached is not
	if int64(first)+int64(room) > int64(c.capacity()) {
		return 0 // never fits, so nobody gives way for it: the scheduler's limits are wrong
	}
	// Copy-on-write: a partly filled block is shared only here, where a fork takes it over and goes on
	// writing it at once. So it is always the fork that gets a private copy, and whoever held the block
	// stays its only holder and writes in place. Check sees to it that this is so.
	copied := len(from.takeover) > 0 && first%c.cfg.BlockSize != 0
	blocksFor := func(tokens int32) int64 { // beyond those that s has or takes over
		size := int64(c.cfg.BlockSize)
		n := (int64(first)+int64(tokens)+size-1)/size - int64(len(s.table)+len(from.takeover))
		if copied {
			n++
		}
		return n
	}
	var victims []*sequence
	if n := blocksFor(room); n > int64(c.pool.available()-from.revived) {
		var ok bool
		if victims, ok = c.findRoom(req, i, s, from, n); !ok {
			c.starved = true
			return 0
		}
	}
	need := blocksFor(want)
	changed := len(s.table)
	c.takeOver(s, from) // before the victims let go of what it shares with them
	for _, v := range victims {
		c.preempt(v)
	}
	if copied {
		c.copyLast(s)
		need--
	}
	for range need {
		s.table = append(s.table, c.pool.alloc())
	}
	s.placed = first + want
	s.grantedAt = c.round
	c.grown = append(c.grown, s)
	c.out.grant(i, want, first, from.cached, changed, s.table[changed:])
	return want
}

// startOf says what s, which has no blocks, can take over: from its fork parent for its first row,
// else from the prefix cache. At least the last known token is left to compute: it yields the logits.
func (c *Core) startOf(s *sequence) start {
	if from, ok := c.startOfFork(s); ok {
		return from
	}
	if c.cfg.PrefixCacheOff {
		return start{}
	}
	from := start{takeover: c.match(s), lookedUp: s.known()}
	from.cached = int32(len(from.takeover)) * c.cfg.BlockSize
	for _, b := range from.takeover {
		if c.pool.blocks[b].refs == 0 {
			from.revived++
		}
	}
	return from
}

// startOfFork shares all of the parent's blocks up to the last prompt token, a partly filled one
// included. The parent must have placed these tokens in earlier steps, and they must be the same.
func (c *Core) startOfFork(s *sequence) (start, bool) {
	if s.fork == 0 {
		return start{}, false
	}
	parent, n := c.seqs[s.fork], len(s.prompt)-1
	if parent == nil || n == 0 || int64(parent.computed) < int64(n) || parent.salt != s.salt ||
		len(parent.prompt) < n || !slices.Equal(parent.prompt[:n], s.prompt[:n]) {
		return start{}, false
	}
	size := int(c.cfg.BlockSize)
	return start{takeover: parent.table[:(n+size-1)/size], cached: int32(n), parent: parent}, true
}

// match finds the blocks of the longest cached prefix of s: whole blocks, not the last known token.
func (c *Core) match(s *sequence) []schemas.BlockID {
	c.matched = c.matched[:0]
	parent, x := noName, &c.pool.prefix
	for i := range (s.known() - 1) / c.cfg.BlockSize {
		tokens := c.blockTokens(s, i)
		n := x.find(parent, s.salt, x.hash(parent, s.salt, tokens), tokens)
		if n == noName {
			break
		}
		c.matched = append(c.matched, x.names[n].block)
		parent = n
	}
	return c.matched
}

// takeOver makes the blocks of from the table of s.
func (c *Core) takeOver(s *sequence, from start) {
	for _, b := range from.takeover {
		c.pool.hold(b)
		if n := c.pool.blocks[b].name; n != noName {
			c.pool.prefix.use(n, s.priority)
		}
	}
	s.table = append(s.table, from.takeover...)
	s.fork = 0
	if len(from.takeover) > 0 {
		// Not what a partly filled block holds: its copy must not be copied on in this request.
		s.computed = from.cached - from.cached%c.cfg.BlockSize
	}
	c.queryTokens += uint64(from.lookedUp)
	if from.parent == nil {
		c.hitTokens += uint64(from.cached)
		s.named += int32(len(from.takeover))
		return
	}
	s.named = min(from.parent.named, from.cached/c.cfg.BlockSize)
	from.parent.sourceAt = c.round
}

// copyLast replaces the last block of s by a private copy.
func (c *Core) copyLast(s *sequence) {
	last := len(s.table) - 1
	source := s.table[last]
	s.table[last] = c.pool.alloc()
	c.pool.drop(source)
	c.out.copies = append(c.out.copies, int32(source), int32(s.table[last]))
	c.copies++
}
