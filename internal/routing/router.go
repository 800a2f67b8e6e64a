package routing

import (
	"cmp"
	"slices"

	"github.com/troupe-engine/troupe/schemas"
)

// ReplicasMax bounds the replicas a router knows.
const ReplicasMax = 4096

// PolicyDefault is what Options.Policy "" means.
const PolicyDefault = "prefix"

// Load is what a replica reports of itself.
type Load struct {
	Waiting      int32 // sequences queued
	Running      int32 // sequences in steps
	QueuedTokens int64 // prompt tokens that are still to be computed
	FreeBlocks   int32 // KV blocks that can be had, those with cached prefixes included
}

// Replica is what a router knows of one replica.
type Replica struct {
	Name         schemas.Instance
	Model        string
	Version      string // of the program
	BlockSize    int32  // tokens per KV block
	Blocks       int32  // KV blocks in all
	SequencesMax int32  // running at once
	Draining     bool   // takes no new requests
	Phase        string // of requests that it is for; "" is all
	Load         Load
}

// Request is what a decision depends on.
type Request struct {
	Model     string             // "" is any
	Version   string             // "" is any
	Session   string             // requests of a session prefer one replica; "" is none
	Prompt    int32              // tokens
	Keys      []uint64           // of the prompt's full blocks, see BlockKeys
	BlockSize int32              // that Keys were made with
	Avoid     []schemas.Instance // replicas that have failed the request
	Phase     string             // that the request is in: replicas for others do not take it; "" is any
	Chosen    schemas.Instance   // by a policy in another process; "" is none
}

// Ticket is a decision. Tell the router with Started and Done what becomes of the request.
type Ticket struct {
	Replica schemas.Instance
	Overlap int32 // of the prompt's blocks, those the replica probably has

	at       *replica
	computes int64 // prompt tokens
	state    ticketState
}

type ticketState int8

const (
	sent ticketState = iota
	started
	done
)

// Options configure a Router.
type Options struct {
	Policy string // a registered name; "" is PolicyDefault
	Seed   uint64 // of policies that draw lots
}

// Router knows the replicas and what it has sent them. It is not safe for concurrent use.
type Router struct {
	policy   Policy
	replicas []*replica // by name
	slots    []*replica // by slot of the index; nil is free
	index    index

	// Scratch of Route.
	candidates []Candidate
	wanted     []uint64
	depth      []int32
}

type replica struct {
	Replica
	slot   int
	hash   uint64 // of the name, for affinity
	own    int32  // requests of this router that are not done
	queued int64  // of these, prompt tokens that are still to be computed
	routed uint64 // requests, ever
}

// New makes a router without replicas.
func New(o Options) (*Router, error) {
	p, err := NewPolicy(cmp.Or(o.Policy, PolicyDefault), o.Seed)
	if err != nil {
		return nil, err
	}
	return &Router{policy: p}, nil
}

// Policy names what decides.
func (r *Router) Policy() string { return r.policy.Name() }

// SetPolicy decides by another policy from now on.
func (r *Router) SetPolicy(p Policy) { r.policy = p }

func (r *Router) find(name schemas.Instance) (int, bool) {
	return slices.BinarySearchFunc(r.replicas, name, func(a *replica, name schemas.Instance) int { return cmp.Compare(a.Name, name) })
}

// Set adds a replica, or takes a report of one that is known. The blocks that it holds stay.
func (r *Router) Set(s Replica) *schemas.Error {
	at, known := r.find(s.Name)
	if known {
		r.replicas[at].Replica = s
		return nil
	}
	if len(r.replicas) >= ReplicasMax {
		return schemas.Errorf(schemas.KindOverloaded, "route", "%d replicas are known already; the limit is %d", len(r.replicas), ReplicasMax)
	}
	slot := slices.Index(r.slots, nil)
	if slot < 0 {
		slot = len(r.slots)
		r.slots = append(r.slots, nil)
		r.index.grow(len(r.slots))
		r.wanted = make([]uint64, len(r.index))
		r.depth = make([]int32, len(r.index)*slotsPerTable)
	}
	n := &replica{Replica: s, slot: slot, hash: hashOf(string(s.Name))}
	r.slots[slot] = n
	r.replicas = slices.Insert(r.replicas, at, n)
	return nil
}

// Remove forgets a replica and its blocks, and reports whether it was known.
func (r *Router) Remove(name schemas.Instance) bool {
	at, known := r.find(name)
	if !known {
		return false
	}
	n := r.replicas[at]
	r.index.clear(n.slot)
	r.slots[n.slot] = nil
	r.replicas = slices.Delete(r.replicas, at, at+1)
	return true
}

// Replicas lists what is known, by name.
func (r *Router) Replicas() []Replica {
	list := make([]Replica, len(r.replicas))
	for i, n := range r.replicas {
		list[i] = n.Replica
	}
	return list
}

// Update changes the blocks that a replica holds: first removed, then added. Unknown replicas are ignored.
func (r *Router) Update(name schemas.Instance, added, removed []uint64) {
	if at, known := r.find(name); known {
		r.index.remove(r.replicas[at].slot, removed)
		r.index.add(r.replicas[at].slot, added)
	}
}

// Reset replaces the blocks that a replica holds.
func (r *Router) Reset(name schemas.Instance, keys []uint64) {
	if at, known := r.find(name); known {
		r.index.clear(r.replicas[at].slot)
		r.index.add(r.replicas[at].slot, keys)
	}
}

// Held counts the blocks that a replica holds. It looks at all that are known: for debugging.
func (r *Router) Held(name schemas.Instance) int {
	if at, known := r.find(name); known {
		return r.index.size(r.replicas[at].slot)
	}
	return 0
}

// Route chooses a replica. The error says why none can take the request: KindNotFound if none has the model,
// KindUnavailable if those that have it do not take requests now.
func (r *Router) Route(q *Request) (*Ticket, *schemas.Error) {
	if err := r.collect(q); err != nil {
		return nil, err
	}
	c := &r.candidates[0]
	if len(r.candidates) > 1 {
		if home := r.home(q.Session); home >= 0 {
			c = &r.candidates[home]
		} else {
			c = &r.candidates[r.policy.Choose(q, r.candidates)]
		}
	}
	n := c.at
	n.own++
	n.routed++
	n.queued += c.Uncached
	return &Ticket{Replica: n.Name, Overlap: c.Overlap, at: n, computes: c.Uncached}, nil
}

// Takes reports whether some replica can take a request.
func (r *Router) Takes(q *Request) bool { return r.collect(q) == nil }

// collect finds who can take a request, and how much of its prompt they have.
func (r *Router) collect(q *Request) *schemas.Error {
	r.candidates = r.candidates[:0]
	clear(r.wanted)
	models, refused := 0, 0
	for _, n := range r.replicas {
		if q.Model != "" && n.Model != q.Model || q.Version != "" && n.Version != q.Version {
			continue
		}
		models++
		if n.Draining || q.Phase != "" && n.Phase != "" && n.Phase != q.Phase || slices.Contains(q.Avoid, n.Name) {
			refused++
			continue
		}
		if n.BlockSize == q.BlockSize {
			r.wanted[n.slot/slotsPerTable] |= 1 << (n.slot % slotsPerTable)
		}
		r.candidates = append(r.candidates, Candidate{Replica: &n.Replica, at: n})
	}
	switch {
	case len(r.candidates) > 0:
	case models == 0:
		return schemas.Errorf(schemas.KindNotFound, schemas.OpModel, "no replica serves the model %.80q", q.Model).WithParam("model").
			WithHint("`troupe nodes` lists what is served")
	default:
		return schemas.Errorf(schemas.KindUnavailable, "route", "all %d replicas with the model are draining or have failed the request", refused).
			WithHint("try again later; `troupe nodes` lists the replicas")
	}
	r.index.overlaps(q.Keys, r.wanted, r.depth)
	for i := range r.candidates {
		c := &r.candidates[i]
		n := c.at
		c.Overlap = r.depth[n.slot]
		// At least the last token is computed: its logits are wanted.
		c.Uncached = max(int64(q.Prompt)-int64(c.Overlap)*int64(n.BlockSize), min(1, int64(q.Prompt)))
		// A report is a moment old; what this router has sent is known exactly.
		c.Requests = max(n.Load.Waiting+n.Load.Running, n.own)
		c.Queued = max(n.Load.QueuedTokens, n.queued)
		c.Routed = n.routed
	}
	return nil
}

// Started says that the first token of a request has come.
func (r *Router) Started(t *Ticket) {
	if t.state == sent {
		t.state = started
		t.at.queued -= t.computes
	}
}

// Done says that a request is over, or has left the replica. Calling it again changes nothing.
func (r *Router) Done(t *Ticket) {
	r.Started(t)
	if t.state == started {
		t.state = done
		t.at.own--
	}
}
