package compute

import (
	"context"
	"time"

	"github.com/troupe-engine/troupe/schemas"
)

// A result that is refused is sent again: its scheduler waits for it and, if it never comes, gives up the step and all that
// was in it. That scheduler takes a repeat for what it is.
const (
	resendFirst   = time.Millisecond // doubles with each refusal
	resendEvery   = 100 * time.Millisecond
	resendTimeMax = 10 * time.Second
)

// deliver sends a result until it is accepted. It gives up, with the last error, when the scheduler has begun a new epoch, when
// the result itself is at fault, after resendTimeMax, and when ctx ends.
func (a *Actor) deliver(ctx context.Context, send func(context.Context, *schemas.StepResult) error, r *schemas.StepResult) error {
	pause, until := resendFirst, time.Now().Add(resendTimeMax)
	for {
		err := send(ctx, r)
		if err == nil || time.Now().After(until) || schemas.Epoch(a.exec.newest.Load()) > r.Epoch {
			return err
		}
		switch e := schemas.AsError(err, "deliver"); e.Kind {
		case schemas.KindInvalid, schemas.KindUnsupported, schemas.KindTooLarge:
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
		pause = min(2*pause, resendEvery)
	}
}

// send calls the scheduler.
func (a *Actor) send(ctx context.Context, r *schemas.StepResult) error {
	_, err := a.done.Call(ctx, r)
	return err
}
