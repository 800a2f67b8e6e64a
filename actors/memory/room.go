package memory

import "github.com/troupe-engine/troupe/schemas"

// findRoom chooses the victims whose blocks let row i of s have need blocks beyond what it takes over.
// They go one at a time in the order of Victims until the row fits. If it never does, nobody is
// preempted for it. Passed over are sequences that
//
//   - have no blocks,
//   - were granted in this request: their rows are in the step being planned,
//   - are the source of a fork in this request, this row's included. So the block a copy reads is held
//     to the end of the request, no block is both source and destination of copies, and the device
//     may make the copies in any order.
//
// When the row's own sequence comes up before the row fits, it yields: it alone loses its blocks, if
// it has any and is not the source of a fork, and is not granted.
func (c *Core) findRoom(req *schemas.ReserveRequest, i int, s *sequence, from start, need int64) ([]*sequence, bool) {
	if req.MayPreempt[i] == 0 {
		return nil, false
	}
	yields := false
	held := int64(0)
	eligible := c.eligible[:0]
	for _, v := range c.victims(req) {
		if yields = v == s; yields {
			break
		}
		if len(v.table) > 0 && v.grantedAt != c.round && v.sourceAt != c.round && v != from.parent {
			eligible = append(eligible, v)
			held += int64(len(v.table))
		}
	}
	c.eligible = eligible
	lacking := need - int64(c.pool.available()-from.revived)
	if held >= lacking { // else not even if they shared nothing
		if n := c.countVictims(eligible, from, lacking); n > 0 {
			return eligible[:n], true
		}
	}
	if yields && len(s.table) > 0 && s.sourceAt != c.round {
		c.preempt(s)
	}
	return nil, false
}

// countVictims returns how many of the victims, in order, have to let go so that lacking blocks, at
// least one, lose their last holder; 0 if all do not suffice. It changes nothing.
func (c *Core) countVictims(victims []*sequence, from start, lacking int64) int {
	for _, b := range from.takeover {
		c.lost[b] = -1 // the row will hold it
	}
	n := 0
	for ; n < len(victims) && lacking > 0; n++ {
		for _, b := range victims[n].table {
			c.lost[b]++
			if c.lost[b] == c.pool.blocks[b].refs {
				lacking--
			}
		}
	}
	for _, v := range victims[:n] {
		for _, b := range v.table {
			c.lost[b] = 0
		}
	}
	for _, b := range from.takeover {
		c.lost[b] = 0
	}
	if lacking > 0 {
		return 0
	}
	return n
}

// preempt takes the blocks of s. Those that can be found by prefix stay cached, so that s, which
// memory keeps knowing, often starts again where it was.
func (c *Core) preempt(s *sequence) {
	c.dropTable(s)
	s.preemptedAt = c.round
	c.out.preempted = append(c.out.preempted, uint64(s.id))
	c.preemptions++
}
