package memory

import "github.com/troupe-engine/troupe/schemas"

// changesMax bounds the changes of prefixes that are remembered. Whoever is further behind asks for everything.
const changesMax = 1 << 14

// changes remembers which prefixes were gained and lost lately, for routers. It is empty until somebody asks: a
// replica that works alone does not pay for it.
type changes struct {
	serial  uint64 // of the last change; 0 while nobody has asked
	recent  []change
	watched bool
}

type change struct {
	key   uint64
	added bool
}

// note remembers a change.
func (l *changes) note(key uint64, added bool) {
	if !l.watched {
		return
	}
	l.serial++
	if len(l.recent) == changesMax {
		l.recent = append(l.recent[:0], l.recent[changesMax/2:]...)
	}
	l.recent = append(l.recent, change{key, added})
}

// forget says that all prefixes are gone, and with them the use of their history.
func (l *changes) forget() {
	l.serial++
	l.recent = l.recent[:0]
}

// since returns the net changes after a serial, or false if they are not remembered.
func (l *changes) since(serial uint64) (added, removed schemas.U64, ok bool) {
	behind := l.serial - serial
	if serial == 0 || serial > l.serial || behind > uint64(len(l.recent)) {
		return nil, nil, false
	}
	last := map[uint64]int{} // position of a key's last change
	recent := l.recent[len(l.recent)-int(behind):]
	for i, c := range recent {
		last[c.key] = i
	}
	for i, c := range recent {
		switch {
		case last[c.key] != i:
		case c.added:
			added = append(added, c.key)
		default:
			removed = append(removed, c.key)
		}
	}
	return added, removed, true
}

// Prefixes tells how the findable prefixes have changed since an earlier reply's serial, or, for 0 or one too long
// ago, what they are. From the first call on, changes are remembered.
func (c *Core) Prefixes(since uint64) *schemas.PrefixReply {
	reply := &schemas.PrefixReply{Available: c.pool.available()}
	if !c.changes.watched {
		c.changes.watched = true
		c.changes.forget() // earlier changes were not noted
	}
	reply.Serial = c.changes.serial
	var ok bool
	if reply.Added, reply.Removed, ok = c.changes.since(since); ok {
		return reply
	}
	reply.All, reply.Added, reply.Removed = true, nil, nil
	for i := range c.pool.prefix.names {
		if len(reply.Added) == schemas.PrefixKeysMax {
			break
		}
		if at := &c.pool.prefix.names[i]; at.block != noBlock {
			reply.Added = append(reply.Added, at.key)
		}
	}
	return reply
}
