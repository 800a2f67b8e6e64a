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

// Mailbox decides who runs an actor's handlers and when: [Group], [Loop] or [Pool]. do returns nil after t
// has run; an error means that t has not run and never will, except that a Loop whose caller gives up
// waiting leaves a started t to finish alone.
type Mailbox interface {
	do(ctx context.Context, t task) error
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
	turn
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
	defer l.Close() // also if a handler ends the goroutine
	for {
		select {
		case <-l.done:
			return
		default:
		}
		select {
		case q := <-l.queue:
			if err := q.Err(); err != nil {
				q.finished <- schemas.AsError(err, "wait for "+q.holder.Name())
				continue
			}
			q.task.run(&q.turn)
			q.finished <- nil
		case <-l.done:
			return
		}
	}
}

func (l *Loop) do(ctx context.Context, t task) error {
	if waits(l, ctx) {
		return reentrant(t.actor())
	}
	for outer := turnOf(ctx); outer != nil; outer = outer.outer() {
		outer.take() // the loop's goroutine sees it, perhaps for longer than the caller waits
	}
	q := &queued{task: t, finished: make(chan error, 1)}
	q.Context, q.mailbox, q.holder, q.crossed = ctx, l, t.actor(), true
	select {
	case <-l.done:
		return stopped(t.actor())
	default:
	}
	select {
	case l.queue <- q:
	default:
		return overloaded("call "+t.actor().Name(), "%d messages are waiting already", cap(l.queue))
	}
	select {
	case err := <-q.finished:
		return err
	case <-ctx.Done():
	case <-l.done:
	}
	select {
	case err := <-q.finished: // it finished as we gave up
		return err
	default:
	}
	if err := ctx.Err(); err != nil {
		return schemas.AsError(err, "call "+t.actor().Name())
	}
	return stopped(t.actor())
}

// Close ends the goroutine after the handler it runs now; waiting callers get KindUnavailable.
func (l *Loop) Close() { l.once.Do(func() { close(l.done) }) }

// Pool is a concurrent mailbox: callers run handlers on their own goroutines, at most a given number at
// a time. For pure, heavy work such as encoding a prompt; handlers guard their own state.
type Pool struct {
	// WaitingMax bounds callers waiting for their turn; more get KindOverloaded.
	WaitingMax int

	running chan struct{}
	waiting atomic.Int64
}

// PoolWaitingMax is the usual bound on callers waiting for a pool.
const PoolWaitingMax = 4096

// NewPool admits concurrency handlers at a time, with the usual limit on waiting callers.
func NewPool(concurrency int) *Pool {
	return &Pool{WaitingMax: PoolWaitingMax, running: make(chan struct{}, concurrency)}
}

func (p *Pool) do(ctx context.Context, t task) error {
	if waits(p, ctx) {
		// With every place taken by a handler that calls its own pool, all would wait forever.
		return reentrant(t.actor())
	}
	if err := p.enter(ctx, t); err != nil {
		return err
	}
	defer func() { <-p.running }()
	t.run(&turn{Context: ctx, mailbox: p, holder: t.actor()})
	return nil
}

func (p *Pool) enter(ctx context.Context, t task) error {
	select {
	case p.running <- struct{}{}:
		return nil
	default:
	}
	defer p.waiting.Add(-1)
	if p.waiting.Add(1) > int64(p.WaitingMax) {
		return overloaded("call "+t.actor().Name(), "%d callers are waiting already", p.WaitingMax)
	}
	select {
	case p.running <- struct{}{}:
		return nil
	case <-ctx.Done():
		return schemas.AsError(ctx.Err(), "wait for "+t.actor().Name())
	}
}
