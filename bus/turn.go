package bus

import (
	"context"
	"sync/atomic"

	"github.com/troupe-engine/troupe/schemas"
)

// turn is the context that a mailbox runs a handler with. Through it a call that the handler makes knows
// which mailboxes wait for its answer, however the context was wrapped in between.
type turn struct {
	context.Context
	mailbox Mailbox
	holder  *Actor
	depth   int  // of calls within one group
	crossed bool // the handler runs on another goroutine than its caller

	// taken says that somebody may look at the turn after the handler has returned: a context derived from
	// it, whose timer still fires, or another goroutine. Such a turn is not used again.
	taken atomic.Bool
}

type turnKey struct{}

// turnOf is the innermost turn that ctx comes from, or nil.
func turnOf(ctx context.Context) *turn {
	t, _ := ctx.Value(turnKey{}).(*turn)
	return t
}

// outer is the turn that t was called from, or nil.
func (t *turn) outer() *turn { return turnOf(t.Context) }

// Value answers for the turn itself and asks the caller's context for the rest.
func (t *turn) Value(key any) any {
	if _, ok := key.(turnKey); ok {
		return t
	}
	return t.Context.Value(key)
}

// Done is also the first thing that every context derived from t asks for.
func (t *turn) Done() <-chan struct{} {
	t.take()
	return t.Context.Done()
}

func (t *turn) take() {
	if !t.taken.Load() {
		t.taken.Store(true)
	}
}

// waits reports whether mailbox m waits for a call made with ctx.
func waits(m Mailbox, ctx context.Context) bool {
	for t := turnOf(ctx); t != nil; t = t.outer() {
		if t.mailbox == m {
			return true
		}
	}
	return false
}

func reentrant(a *Actor) error {
	return schemas.Errorf(schemas.KindReentrant, "call", "%s is being called while it waits for this very call", a.Name()).
		WithHint("return first and let the other actor call later, or answer from your own state")
}

// overloadRetryMs is when a caller that was refused may try again: a few steps later.
const overloadRetryMs = 100

func overloaded(op, format string, args ...any) *schemas.Error {
	e := schemas.Errorf(schemas.KindOverloaded, op, format, args...)
	e.RetryAfterMs = overloadRetryMs
	return e
}

func stopped(a *Actor) *schemas.Error {
	return schemas.Errorf(schemas.KindUnavailable, "call "+a.Name(), "the actor has stopped")
}
