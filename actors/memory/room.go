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
	for _, b := range from.takeover {
		c.lost[b] = -1 // s will hold it
	}
	room := c.pool.available() - from.revived
	chosen := c.chosen[:0]
	fits, yields := false, false
	for _, v := range c.victims(req) {
		if yields = v == s; yields {
			break
		}
		if len(v.table) == 0 || v.grantedAt == c.round || v.sourceAt == c.round || v == from.parent {
			continue
		}
		room += c.countLost(v)
		chosen = append(chosen, v)
		if fits = int64(room) >= need; fits {
			break
		}
	}
	c.chosen = chosen
	for _, v := range chosen {
		for _, b := range v.table {
			c.lost[b] = 0
		}
	}
	for _, b := range from.takeover {
		c.lost[b] = 0
	}
	if yields && len(s.table) > 0 && s.sourceAt != c.round {
		c.preempt(s)
	}
	return chosen, fits
}

// countLost marks the blocks of v as let go and counts those that nobody would hold any more.
func (c *Core) countLost(v *sequence) (n int32) {
	for _, b := range v.table {
		c.lost[b]++
		if c.lost[b] == c.pool.blocks[b].refs {
			n++
		}
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
