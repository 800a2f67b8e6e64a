package bus

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/troupe-engine/troupe/schemas"
)

// task is one delivery. It runs once, or never.
type task interface {
	run(ctx context.Context)
	actor() *Actor
}

// Mailbox decides who runs an actor's handlers and when. do returns nil after t has run; any
// error means that t has not run and never will, except that a Loop or Pool whose caller gives up
// waiting may leave a started t to finish alone.
type Mailbox interface {
	do(ctx context.Context, t task) error
}

// Group is an inline serial mailbox: handlers of all its actors run one at a time, on the goroutine
// of the caller, in order of arrival. An idle group costs a compare-and-swap. Actors of one group may
// call each other; the nested call runs at once. An actor that would wait for itself is refused with
// KindReentrant instead of hanging.
type Group struct {
	// WaitingMax bounds callers waiting for their turn; more get KindOverloaded.
	WaitingMax int

	busy    atomic.Bool // fast path; true while somebody runs or waiters is not empty
	mu      sync.Mutex
	waiters []chan struct{}
	free    []chan struct{}
	// turns holds one context per nesting depth. Only the current runner touches it.
	turns [groupDepthMax]turn
}

// groupDepthMax bounds nested calls within a group: scheduler, memory and one to spare.
const groupDepthMax = 4

// GroupWaitingMax is the usual bound on callers waiting for a group.
const GroupWaitingMax = 4096

// NewGroup makes an idle group with the usual limit.
func NewGroup() *Group { return &Group{WaitingMax: GroupWaitingMax} }

// turn is the context a group's handlers run with. It marks the goroutine as the group's runner.
type turn struct {
	context.Context
	group  *Group
	outer  *turn
	holder *Actor
	depth  int
}

type turnKey struct{}

// waitedKey marks contexts that crossed into another mailbox while a group waits for the answer.
type waitedKey struct{}

func (t *turn) Value(key any) any {
	if _, ok := key.(turnKey); ok {
		return t
	}
	return t.Context.Value(key)
}

func (g *Group) do(ctx context.Context, t task) error {
	if outer, ok := ctx.Value(turnKey{}).(*turn); ok && outer != nil && outer.group == g {
		return g.nested(outer, t)
	}
	if waited, ok := ctx.Value(waitedKey{}).(*Group); ok && waited == g {
		return reentrant(t.actor())
	}
	if err := g.enter(ctx, t); err != nil {
		return err
	}
	defer g.leave()
	top := &g.turns[0]
	*top = turn{Context: ctx, group: g, holder: t.actor()}
	t.run(top)
	return nil
}

func (g *Group) nested(outer *turn, t task) error {
	for o := outer; o != nil; o = o.outer {
		if o.holder == t.actor() {
			return reentrant(t.actor())
		}
	}
	depth := outer.depth + 1
	if depth >= groupDepthMax {
		return schemas.Errorf(schemas.KindReentrant, "call", "calls within one group nest deeper than %d", groupDepthMax)
	}
	inner := &g.turns[depth]
	*inner = turn{Context: outer.Context, group: g, outer: outer, holder: t.actor(), depth: depth}
	t.run(inner)
	return nil
}

func reentrant(a *Actor) error {
	return schemas.Errorf(schemas.KindReentrant, "call", "%s is being called while it waits for this very call", a.Name()).
		WithHint("return first and let the other actor call later, or answer from your own state")
}

// enter waits until the caller is the runner.
func (g *Group) enter(ctx context.Context, t task) error {
	if g.busy.CompareAndSwap(false, true) {
		return nil
	}
	g.mu.Lock()
	// leave clears busy under mu when nobody waits, so this decides.
	if g.busy.CompareAndSwap(false, true) {
		g.mu.Unlock()
		return nil
	}
	if len(g.waiters) >= g.WaitingMax {
		g.mu.Unlock()
		return schemas.Errorf(schemas.KindOverloaded, "call "+t.actor().Name(), "%d callers are waiting already", g.WaitingMax)
	}
	var ready chan struct{}
	if last := len(g.free) - 1; last >= 0 {
		ready, g.free = g.free[last], g.free[:last]
	} else {
		ready = make(chan struct{}, 1)
	}
	g.waiters = append(g.waiters, ready)
	g.mu.Unlock()

	select {
	case <-ready:
		g.recycle(ready)
		return nil
	case <-ctx.Done():
	}
	g.mu.Lock()
	for i, w := range g.waiters {
		if w == ready {
			g.waiters = append(g.waiters[:i], g.waiters[i+1:]...)
			g.mu.Unlock()
			return schemas.AsError(ctx.Err(), "wait for "+t.actor().Name())
		}
	}
	g.mu.Unlock()
	// The turn was handed to us as we gave up: take it and pass it on.
	<-ready
	g.recycle(ready)
	g.leave()
	return schemas.AsError(ctx.Err(), "wait for "+t.actor().Name())
}

func (g *Group) recycle(ready chan struct{}) {
	g.mu.Lock()
	g.free = append(g.free, ready)
	g.mu.Unlock()
}

// leave hands the turn to the first waiter, or makes the group idle.
func (g *Group) leave() {
	g.mu.Lock()
	if len(g.waiters) == 0 {
		g.busy.Store(false)
		g.mu.Unlock()
		return
	}
	next := g.waiters[0]
	g.waiters = append(g.waiters[:0], g.waiters[1:]...)
	g.mu.Unlock()
	next <- struct{}{}
}

// Loop is a goroutine mailbox: one goroutine runs the handlers of its actors, in order of arrival,
// from a bounded queue. A full queue answers KindOverloaded; it never stalls the caller.
type Loop struct {
	queue chan *queued
	done  chan struct{}
	once  sync.Once
}

// LoopQueueMax is the usual bound on a loop's queue, in messages.
const LoopQueueMax = 4096

type queued struct {
	ctx      context.Context
	task     task
	finished chan error
}

// NewLoop starts the goroutine. Close ends it.
func NewLoop(queueMax int) *Loop {
	l := &Loop{queue: make(chan *queued, queueMax), done: make(chan struct{})}
	go l.serve()
	return l
}

func (l *Loop) serve() {
	for {
		select {
		case q := <-l.queue:
			if err := q.ctx.Err(); err != nil {
				q.finished <- schemas.AsError(err, "wait for "+q.task.actor().Name())
				continue
			}
			q.task.run(q.ctx)
			q.finished <- nil
		case <-l.done:
			return
		}
	}
}

func (l *Loop) do(ctx context.Context, t task) error {
	if outer, ok := ctx.Value(turnKey{}).(*turn); ok {
		ctx = context.WithValue(hideTurn{ctx}, waitedKey{}, outer.group)
	}
	q := &queued{ctx: ctx, task: t, finished: make(chan error, 1)}
	select {
	case l.queue <- q:
	default:
		return schemas.Errorf(schemas.KindOverloaded, "call "+t.actor().Name(), "%d messages are waiting already", cap(l.queue))
	}
	select {
	case err := <-q.finished:
		return err
	case <-ctx.Done():
		return schemas.AsError(ctx.Err(), "call "+t.actor().Name())
	case <-l.done:
		return schemas.Errorf(schemas.KindUnavailable, "call "+t.actor().Name(), "the actor has stopped")
	}
}

// Close ends the goroutine; queued messages get KindUnavailable.
func (l *Loop) Close() { l.once.Do(func() { close(l.done) }) }

// hideTurn keeps a context's deadline and values but not its claim to be a group's runner.
type hideTurn struct{ context.Context }

func (h hideTurn) Value(key any) any {
	if _, ok := key.(turnKey); ok {
		return (*turn)(nil)
	}
	return h.Context.Value(key)
}

// Pool is a concurrent mailbox: callers run handlers on their own goroutines, at most Concurrency at
// a time. For pure, heavy work such as encoding a prompt; handlers guard their own state.
type Pool struct{ tokens chan struct{} }

// NewPool admits concurrency handlers at a time.
func NewPool(concurrency int) *Pool { return &Pool{tokens: make(chan struct{}, concurrency)} }

func (p *Pool) do(ctx context.Context, t task) error {
	if outer, ok := ctx.Value(turnKey{}).(*turn); ok && outer != nil {
		ctx = context.WithValue(hideTurn{ctx}, waitedKey{}, outer.group)
	}
	select {
	case p.tokens <- struct{}{}:
	case <-ctx.Done():
		return schemas.AsError(ctx.Err(), "wait for "+t.actor().Name())
	}
	defer func() { <-p.tokens }()
	t.run(ctx)
	return nil
}
