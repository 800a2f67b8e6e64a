package compute

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/troupe-engine/troupe/schemas"
)

// TestRefusedResultsAreSentAgain until they are accepted, nobody waits for them any more, or it makes no sense.
func TestRefusedResultsAreSentAgain(t *testing.T) {
	refused := func(kind schemas.Kind) error { return schemas.Errorf(kind, "step_done", "refused") }
	for name, c := range map[string]struct {
		kind     schemas.Kind
		refusals int           // -1: always
		over     int           // a new epoch begins after so many calls; 0: none does
		stop     time.Duration // the actor stops; 0: it does not
		sent     func(calls int, took time.Duration) bool
		accepted bool
	}{
		"accepted at once":       {schemas.KindUnavailable, 0, 0, 0, func(n int, d time.Duration) bool { return n == 1 && d == 0 }, true},
		"accepted the 4th time":  {schemas.KindUnavailable, 3, 0, 0, func(n int, d time.Duration) bool { return n == 4 && d == 7*time.Millisecond }, true},
		"a full mailbox":         {schemas.KindOverloaded, 20, 0, 0, func(n int, d time.Duration) bool { return n == 21 && d < 2*time.Second }, true},
		"the epoch is over":      {schemas.KindUnavailable, -1, 5, 0, func(n int, _ time.Duration) bool { return n == 5 }, false},
		"the result is at fault": {schemas.KindInvalid, -1, 0, 0, func(n int, _ time.Duration) bool { return n == 1 }, false},
		"never accepted": {schemas.KindTimeout, -1, 0, 0, func(n int, d time.Duration) bool {
			return n > 90 && d >= resendTimeMax && d < resendTimeMax+time.Second
		}, false},
		"the actor stops": {schemas.KindUnavailable, -1, 0, time.Second, func(_ int, d time.Duration) bool { return d == time.Second }, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := &Actor{exec: &executor{}}
				a.exec.newest.Store(3)
				ctx, stop := context.WithCancel(context.Background())
				defer stop()
				if c.stop > 0 {
					time.AfterFunc(c.stop, stop)
				}
				calls, began := 0, time.Now()
				err := a.deliver(ctx, func(context.Context, *schemas.StepResult) error {
					if calls++; calls == c.over {
						a.exec.newest.Store(4)
					}
					if c.refusals >= 0 && calls > c.refusals {
						return nil
					}
					return refused(c.kind)
				}, &schemas.StepResult{Epoch: 3, Step: 9})
				if (err == nil) != c.accepted || !c.sent(calls, time.Since(began)) {
					t.Errorf("%v after %d calls and %v", err, calls, time.Since(began))
				}
			})
		})
	}
}
