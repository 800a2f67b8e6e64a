package simulate

import (
	"github.com/troupe-engine/troupe/internal/routing"
	"github.com/troupe-engine/troupe/internal/traces"
	"github.com/troupe-engine/troupe/schemas"
)

// Router spreads requests over replicas. It is told when requests start and end, and what replicas report.
type Router interface {
	// Route returns the number of the replica that gets request number n.
	Route(n int, q *traces.Request, prompt schemas.I32) (int, error)
	Started(n int)
	Done(n int)
	Report(r *engine)
}

// router is the gateway's: internal/routing.
type router struct {
	core    *routing.Router
	cfg     *Config
	blocks  int32
	numbers map[schemas.Instance]int
	tickets map[int]*ticket
	world   *world
}

type ticket struct {
	*routing.Ticket
	replica schemas.Instance
	keys    []uint64
}

func newRouter(w *world, blocks int32) (Router, error) {
	core, err := routing.New(routing.Options{Policy: w.cfg.Routing, Seed: w.cfg.Seed})
	if err != nil {
		return nil, err
	}
	r := &router{core: core, cfg: &w.cfg, blocks: blocks, numbers: map[schemas.Instance]int{}, tickets: map[int]*ticket{}, world: w}
	for i, replica := range w.replicas {
		r.numbers[replica.name] = i
		if err := core.Set(r.state(replica)); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (r *router) state(p *engine) routing.Replica {
	return routing.Replica{Name: p.name, Model: r.cfg.Profile.Origin.Model, BlockSize: int32(r.cfg.BlockSize), Blocks: r.blocks, SequencesMax: int32(r.cfg.SequencesMax),
		Load: routing.Load{Waiting: int32(p.load.waiting), Running: int32(p.load.running), QueuedTokens: p.load.queued, FreeBlocks: p.load.free + p.load.evictable}}
}

func (r *router) Route(n int, q *traces.Request, prompt schemas.I32) (int, error) {
	size := int32(r.cfg.BlockSize)
	keys := routing.BlockKeys(nil, prompt, size, 0)
	t, err := r.core.Route(&routing.Request{Session: q.User, Prompt: q.Input, Keys: keys, BlockSize: size})
	if err != nil {
		return 0, err
	}
	r.tickets[n] = &ticket{Ticket: t, replica: t.Replica, keys: keys}
	return r.numbers[t.Replica], nil
}

func (r *router) Started(n int) {
	if t := r.tickets[n]; t != nil {
		r.core.Started(t.Ticket)
		r.core.Update(t.replica, t.keys, nil)
	}
}

func (r *router) Done(n int) {
	if t := r.tickets[n]; t != nil {
		r.core.Done(t.Ticket)
		delete(r.tickets, n)
	}
}

func (r *router) Report(p *engine) {
	if err := r.core.Set(r.state(p)); err != nil {
		panic("simulate: a replica's report is refused: " + err.Error()) // it was taken when the simulation began
	}
}
