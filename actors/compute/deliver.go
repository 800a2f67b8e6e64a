package compute

import (
	"context"
	"time"

	"github.com/troupe-engine/troupe/bus"
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
		if err == nil || time.Now().After(until) || !a.again(r, schemas.AsError(err, "deliver")) {
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

// again reports whether a result that was refused is to be sent again.
func (a *Actor) again(r *schemas.StepResult, err *schemas.Error) bool {
	switch err.Kind {
	case schemas.KindInvalid, schemas.KindUnsupported, schemas.KindTooLarge:
		return false
	}
	return schemas.Epoch(a.exec.newest.Load()) <= r.Epoch
}

// openResults prepares to send each result at once, whether or not those before have been acknowledged.
func (a *Actor) openResults() (err error) {
	if !a.cfg.ResultsAhead {
		return nil
	}
	a.results, err = bus.NewPipeline(a.done, bus.PipelineConfig[schemas.StepResult, schemas.Ack]{WindowMax: 2 * QueuedMax, TimeMax: resendTimeMax,
		Again: a.again, Done: func(r *schemas.StepResult, _ *schemas.Ack, err error) { a.delivered(r, err) }})
	return err
}

func (a *Actor) closeResults() {
	if a.results != nil {
		a.results.Close()
	}
}

// delivered takes note of what became of a result.
func (a *Actor) delivered(r *schemas.StepResult, err error) {
	if err != nil && a.ctx.Err() == nil {
		a.log.Error().Err(err).Uint64("step", uint64(r.Step)).Msg("a step's result could not be delivered")
	}
	if r.Error != nil && r.Error.Kind == schemas.KindDeviceLost && a.cfg.Lost != nil {
		a.lost.Do(func() { a.cfg.Lost(r.Error) })
	}
}

// send calls the scheduler.
func (a *Actor) send(ctx context.Context, r *schemas.StepResult) error {
	_, err := a.done.Call(ctx, r)
	return err
}
