package simulate

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/troupe-engine/troupe/actors/memory"
	"github.com/troupe-engine/troupe/actors/scheduler"
	"github.com/troupe-engine/troupe/internal/routing"
	"github.com/troupe-engine/troupe/internal/traces"
	"github.com/troupe-engine/troupe/schemas"
)

// world is a simulation under way.
type world struct {
	cfg      Config
	trace    *traces.Trace
	replicas []*engine
	router   *router // nil with one replica
	now      int64   // nanoseconds since the beginning

	requests []progress
	next     int // request that comes next
	alive    int // requests that were sent and are not over
	metrics  *metrics
	resultNs int64
	tokenNs  int64

	asker      func(*scheduler.Question) *schemas.RankOutcome // for policies in other processes
	routeAsker func(*routing.Question) *routing.Answer
}

// progress is what a client has seen of a request. Times are the client's.
type progress struct {
	sent, first, last int64
	tokens, cached    int32
	replica           int32
	state             state
}

type state uint8

const (
	unsent state = iota
	sent
	answered
	refused // by the scheduler or the router
	failed
)

// checkEvery is how many events pass between looks at the context.
const checkEvery = 1 << 12

// Run simulates a workload. The trace is not changed; it must be in order of arrival, as traces.Collect leaves it.
func Run(ctx context.Context, cfg Config, t *traces.Trace) (*Report, error) {
	w, err := newWorld(cfg, t)
	if err != nil {
		return nil, err
	}
	w.asker = func(q *scheduler.Question) *schemas.RankOutcome { return cfg.Ask(ctx, q) }
	w.routeAsker = func(q *routing.Question) *routing.Answer { return cfg.AskRoute(ctx, q) }
	for events := 0; ; events++ {
		if events%checkEvery == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		more, err := w.event()
		if err != nil {
			return nil, cmp.Or(ctx.Err(), err)
		}
		if !more {
			break
		}
	}
	return w.report()
}

func newWorld(cfg Config, t *traces.Trace) (*world, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	blocks, err := cfg.blocks(t)
	if err != nil {
		return nil, err
	}
	s := &cfg.Profile.Serving
	w := &world{cfg: cfg, trace: t, requests: make([]progress, len(t.Requests)), metrics: newMetrics(),
		resultNs: int64(s.ResultNs), tokenNs: int64(s.TokenNs)}
	if cfg.RecordedPace && cfg.Pace == nil {
		w.cfg.Pace = cfg.Profile.Player(cfg.Seed)
	}
	context := cfg.contextMax(t)
	for i := range cfg.Replicas {
		r := &engine{world: w, name: schemas.Instance(fmt.Sprintf("replica%d", i))}
		if r.scheduler, err = scheduler.NewCore(cfg.scheduler(r.name, context, blocks), 1); err != nil {
			return nil, err
		}
		if r.memory, err = memory.NewCore(cfg.memory(blocks, w.future())); err != nil {
			return nil, err
		}
		r.load.free, r.load.total = blocks, blocks
		w.replicas = append(w.replicas, r)
	}
	if cfg.Replicas > 1 {
		if w.router, err = newRouter(w, blocks); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// future is what Belady's eviction needs, and nothing else.
func (w *world) future() memory.Future {
	if w.cfg.Eviction != belady {
		return nil
	}
	return newFuture(w)
}

// event does what comes next; false when all is done. Of things at the same time, steps finish before answers and requests
// come.
func (w *world) event() (bool, error) {
	arrival := w.arrival()
	var first *engine
	due := int64(math.MaxInt64)
	for _, r := range w.replicas {
		if at := r.due(); at < due {
			first, due = r, at
		}
	}
	switch {
	case first != nil && due <= arrival:
		w.now = max(w.now, due)
		if err := first.proceed(); err != nil {
			return false, err
		}
		if w.router != nil {
			w.router.report(first)
		}
	case arrival != math.MaxInt64:
		w.now = max(w.now, arrival)
		if err := w.submit(); err != nil {
			return false, err
		}
	default:
		return false, w.stuck()
	}
	w.metrics.sample(w)
	return true, nil
}

// arrival is when the next request reaches the scheduler; MaxInt64 if none is due before something else happens.
func (w *world) arrival() int64 {
	if w.next == len(w.trace.Requests) {
		return math.MaxInt64
	}
	if limit := w.cfg.MaxConcurrency; limit > 0 && w.alive >= limit {
		return math.MaxInt64
	}
	return w.sentAt(w.next) + w.requestNs(w.next)
}

// sentAt is when a client sends a request: at its time, or later if there are too many at once.
func (w *world) sentAt(n int) int64 {
	at := w.trace.Requests[n].ArrivalNs
	if w.cfg.Speed != 1 {
		at = int64(float64(at) / w.cfg.Speed)
	}
	if w.cfg.MaxConcurrency > 0 {
		at = max(at, w.now-w.requestNs(n))
	}
	return at
}

func (w *world) requestNs(n int) int64 {
	s := &w.cfg.Profile.Serving
	ns := int64(s.RequestNs + s.PromptNs*float64(w.trace.Requests[n].Input))
	if w.router != nil && w.cfg.ExternalRouting() {
		ns += w.cfg.PolicyTime.Nanoseconds()
	}
	return ns
}

// submit sends the next request.
func (w *world) submit() error {
	n := w.next
	p := &w.requests[n]
	p.state, p.sent = sent, w.sentAt(n)
	w.next++
	w.alive++
	q := &w.trace.Requests[n]
	prompt := q.PromptTokens(make([]int32, 0, q.Input), vocabulary, n)
	if w.router != nil {
		to, err, broken := w.router.route(n, q, prompt)
		if broken != nil {
			return broken
		}
		if err != nil {
			w.refuse(n, err)
			return nil
		}
		p.replica = int32(to)
	}
	err, broken := w.replicas[p.replica].submit(n, prompt)
	if broken != nil {
		return broken
	}
	if err != nil {
		w.refuse(n, err)
	}
	return nil
}

func (w *world) refuse(n int, err *schemas.Error) {
	w.requests[n].state = refused
	w.alive--
	w.metrics.refused(err)
	if w.router != nil {
		w.router.done(n)
	}
}

// take hands tokens to the clients.
func (w *world) take(r *engine, now int64, rows []scheduler.Emission) {
	at := now + w.tokenNs
	for i := range rows {
		e := &rows[i]
		n := indexOf(e.Seq)
		p := &w.requests[n]
		if e.Token >= 0 {
			w.token(r, n, p, e, at)
		}
		switch e.Finish {
		case schemas.FinishNone:
			continue
		case schemas.FinishError:
			p.state = failed
			w.metrics.refused(e.Err)
		default:
			p.state = answered
		}
		if p.tokens == 0 { // it ended before it began
			r.load.waiting--
			r.load.queued -= int64(w.trace.Requests[n].Input)
		} else {
			r.load.running--
		}
		w.alive--
		if w.router != nil {
			w.router.done(n)
		}
	}
}

func (w *world) token(r *engine, n int, p *progress, e *scheduler.Emission, at int64) {
	if p.tokens == 0 {
		p.first, p.cached = at, e.Cached
		w.metrics.prompt += int64(w.trace.Requests[n].Input)
		w.metrics.cached += int64(e.Cached)
		r.load.waiting--
		r.load.running++
		r.load.queued -= int64(w.trace.Requests[n].Input)
		if w.router != nil {
			w.router.started(n)
		}
	} else {
		w.metrics.interval(at - p.last)
	}
	p.tokens++
	p.last = at
	w.metrics.tokens++
}

// stuck is an error if anything is left to do: the cores neither run it nor give it up.
func (w *world) stuck() error {
	if n := slices.IndexFunc(w.requests, func(p progress) bool { return p.state == sent }); n >= 0 {
		return schemas.Errorf(schemas.KindInternal, "simulate", "request %d neither runs nor ends: %d prompt tokens and %d of output, a pool of %d blocks",
			n, w.trace.Requests[n].Input, w.trace.Requests[n].Output, w.replicas[0].load.total)
	}
	return nil
}
