package memory

import (
	"slices"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

// Clone copies the core: what happens to the copy does not touch c. Messages are shared, since they do not change.
func (c *Core) Clone() *Core {
	d := *c
	copies := make(map[*sequence]*sequence, len(c.seqs))
	d.seqs = make(map[schemas.SeqID]*sequence, len(c.seqs))
	for id, s := range c.seqs {
		own := new(sequence)
		*own = *s
		own.output, own.table = slices.Clone(s.output), slices.Clone(s.table)
		copies[s], d.seqs[id] = own, own
	}
	d.grown = nil
	for _, s := range c.grown {
		if own := copies[s]; own != nil { // otherwise it was released since
			d.grown = append(d.grown, own)
		}
	}
	d.changes.recent = slices.Clone(c.changes.recent)
	d.pool = c.pool.clone(&d.changes)
	d.incoming, d.in, d.out = map[schemas.SeqID]*sequence{}, resolved{}, reply{}
	d.matched, d.eligible = nil, nil
	d.lost, d.straddle = slices.Clone(c.lost), slices.Clone(c.straddle)
	return &d
}

func (p *pool) clone(changes *changes) *pool {
	q := *p
	q.blocks, q.free = slices.Clone(p.blocks), slices.Clone(p.free)
	x := &q.prefix
	x.names, x.tokens, x.unused, x.heads = slices.Clone(x.names), slices.Clone(x.tokens), slices.Clone(x.unused), slices.Clone(x.heads)
	if x.changes != nil {
		x.changes = changes
	}
	q.cached = p.cached.clone(&q)
	return &q
}

func (l *lru) clone(*pool) evictor { return &lru{links: slices.Clone(l.links), size: l.size} }

func (r *ranked) clone(p *pool) evictor {
	return &ranked{pool: p, rankOf: r.rankOf, heap: slices.Clone(r.heap), at: slices.Clone(r.at), size: r.size}
}

// trials are the messages that can be tried on a copy of core.
func trials(core *Core) map[string]bus.Trial {
	return map[string]bus.Trial{
		"reserve": bus.TrialOf(func(r *schemas.ReserveRequest) (bus.Tried, error) {
			sandbox := core.Clone()
			reply, err := sandbox.Reserve(r)
			tried := bus.Tried{Reply: reply, State: sandbox.State()}
			if err != nil {
				return tried, err
			}
			return tried, nil
		}),
		"eviction": bus.TrialOf(func(r *schemas.PolicyRequest) (bus.Tried, error) {
			sandbox := core.Clone()
			if err := sandbox.choose(r.Name); err != nil {
				return bus.Tried{}, err
			}
			return bus.Tried{Reply: sandbox.evictions(), State: sandbox.State()}, nil
		}),
		"prefixes": bus.TrialOf(func(r *schemas.PrefixRequest) (bus.Tried, error) {
			return bus.Tried{Reply: core.Clone().Prefixes(r.Since)}, nil
		}),
	}
}
