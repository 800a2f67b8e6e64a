package bus

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/troupe-engine/troupe/schemas"
)

// Group is an inline serial mailbox: handlers of all its actors run one at a time, on the goroutine
// of the caller, in order of arrival. An idle group costs a compare-and-swap. Actors of one group may
// call each other; the nested call runs at once. An actor that would wait for itself is refused with
// KindReentrant instead of hanging, also across mailboxes; only a cycle through another process is not
// seen, and ends at a deadline.
//
// A handler that panics leaves its group's state in doubt: the panic goes on to the caller, and from
// then on the group refuses every call with KindInternal, also if somebody recovers.
type Group struct {
	// WaitingMax bounds callers waiting for their turn; more get KindOverloaded. In process the waiting
	// callers own the messages they wait with; those that came over NATS are also bounded in bytes
	// (InboxBytesMax).
	WaitingMax int

	busy    atomic.Bool // fast path; true while somebody runs or waiters is not empty
	mu      sync.Mutex
	waiters []chan struct{}
	free    []chan struct{}
	// turns holds one context per nesting depth, for reuse. Only the current runner touches it.
	turns  [groupDepthMax]*turn
	broken atomic.Pointer[Actor] // whose handler panicked
}

// groupDepthMax bounds nested calls within a group: scheduler, memory and one to spare.
const groupDepthMax = 4

// GroupWaitingMax is the usual bound on callers waiting for a group.
const GroupWaitingMax = 4096

// NewGroup makes an idle group with the usual limit.
func NewGroup() *Group { return &Group{WaitingMax: GroupWaitingMax} }

func (g *Group) do(ctx context.Context, t task) error {
	crossed := false
	for outer := turnOf(ctx); outer != nil; outer = outer.outer() {
		if outer.mailbox == g {
			return g.nested(ctx, outer, crossed, t)
		}
		crossed = crossed || outer.crossed
	}
	if err := g.enter(ctx, t); err != nil {
		return err
	}
	defer g.leave()
	return g.run(ctx, 0, t)
}

// nested runs t inside outer, the group's latest turn. The caller is the group's runner, unless the call
// crossed to another goroutine since.
func (g *Group) nested(ctx context.Context, outer *turn, crossed bool, t task) error {
	if crossed {
		return reentrant(t.actor())
	}
	for o := outer; o != nil; o = o.outer() {
		if o.mailbox == g && o.holder == t.actor() {
			return reentrant(t.actor())
		}
	}
	if outer.depth+1 >= groupDepthMax {
		return schemas.Errorf(schemas.KindReentrant, "call", "calls within one group nest deeper than %d", groupDepthMax)
	}
	return g.run(ctx, outer.depth+1, t)
}

// run runs t. The caller is the group's runner.
func (g *Group) run(ctx context.Context, depth int, t task) error {
	if culprit := g.broken.Load(); culprit != nil {
		return schemas.Errorf(schemas.KindInternal, "call "+t.actor().Name(), "a handler of %s panicked earlier; the state it shares is in doubt", culprit.Name()).
			WithHint("restart the process, and report the panic in its log")
	}
	now := g.turns[depth]
	if now == nil || now.taken.Load() {
		now = &turn{mailbox: g, depth: depth}
		g.turns[depth] = now
	}
	now.Context, now.holder = ctx, t.actor()
	returned := false
	defer func() {
		if !returned { // a panic, or runtime.Goexit
			g.broken.CompareAndSwap(nil, t.actor())
		}
	}()
	t.run(now)
	returned = true
	if !now.taken.Load() {
		now.Context = context.Background() // keeps nothing of the call alive
	}
	return nil
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
		return overloaded("call "+t.actor().Name(), "%d callers are waiting already", g.WaitingMax)
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
	if !g.withdraw(ready) {
		// The turn was handed to us as we gave up: take it and pass it on.
		<-ready
		g.recycle(ready)
		g.leave()
	}
	return schemas.AsError(ctx.Err(), "wait for "+t.actor().Name())
}

// withdraw takes a waiter out of the queue; false means that it is not there any more.
func (g *Group) withdraw(ready chan struct{}) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, w := range g.waiters {
		if w == ready {
			g.waiters = append(g.waiters[:i], g.waiters[i+1:]...)
			return true
		}
	}
	return false
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
