package simulate

import (
	"github.com/troupe-engine/troupe/internal/routing"
	"github.com/troupe-engine/troupe/internal/traces"
	"github.com/troupe-engine/troupe/schemas"
)

// router spreads requests over replicas as the gateway does: the seam is package routing, whose registered policies all work
// here. It is told when requests start and end, and what replicas report.
type router struct {
	core    *routing.Router
	cfg     *Config
	blocks  int32
	numbers map[schemas.Instance]int
	tickets map[int]*routing.Ticket
	told    []told // by replica
	world   *world
}

// told is what a replica has reported.
type told struct {
	nextNs int64  // the time of its next report
	serial uint64 // of the changes of its prefixes that the router knows
}

// reportEveryNs is how often replicas report, as they do live (internal/cluster.ReportEvery).
const reportEveryNs = 200e6

func newRouter(w *world, blocks int32) (*router, error) {
	core, err := routing.New(routing.Options{Policy: w.cfg.Routing, Seed: w.cfg.Seed})
	if err != nil {
		return nil, err
	}
	r := &router{core: core, cfg: &w.cfg, blocks: blocks, numbers: map[schemas.Instance]int{}, tickets: map[int]*routing.Ticket{},
		told: make([]told, len(w.replicas)), world: w}
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

// route returns the number of the replica that gets request number n; refused is why none does, broken why the simulation ends.
func (r *router) route(n int, q *traces.Request, prompt schemas.I32) (to int, refused *schemas.Error, broken error) {
	size := int32(r.cfg.BlockSize)
	keys := routing.BlockKeys(nil, prompt, size, 0)
	request := &routing.Request{Session: q.User, Prompt: q.Input, Keys: keys, BlockSize: size}
	if question := r.core.Question(request, r.world.now); question != nil {
		answer, err := r.world.askRoute(question)
		if err != nil {
			return 0, nil, err
		}
		request.Chosen, _ = r.core.Answer(question, answer, r.world.now)
	}
	t, err := r.core.Route(request)
	if err != nil {
		return 0, err, nil
	}
	r.tickets[n] = t
	return r.numbers[t.Replica], nil, nil
}

func (r *router) started(n int) {
	if t := r.tickets[n]; t != nil {
		r.core.Started(t)
	}
}

func (r *router) done(n int) {
	if t := r.tickets[n]; t != nil {
		r.core.Done(t)
		delete(r.tickets, n)
	}
}

// report takes a report of a replica, if one is due: its load, and how its prefixes have changed.
func (r *router) report(p *engine) {
	at := &r.told[r.numbers[p.name]]
	if r.world.now < at.nextNs {
		return
	}
	at.nextNs = r.world.now + reportEveryNs
	if err := r.core.Set(r.state(p)); err != nil {
		panic("simulate: a replica's report is refused: " + err.Error()) // it was taken when the simulation began
	}
	changes := p.memory.Prefixes(at.serial)
	if at.serial = changes.Serial; changes.All {
		r.core.Reset(p.name, changes.Added)
	} else {
		r.core.Update(p.name, changes.Added, changes.Removed)
	}
}
