package batch

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/troupe-engine/troupe/schemas"
)

const (
	backoffMin = 100 * time.Millisecond
	backoffMax = 5 * time.Second
	// attemptsMax is how often a line may break its connection, or be told to come back, by an engine that
	// answers otherwise.
	attemptsMax = 8
)

// asker gets answers out of an engine that may be busy, restarting or away.
type asker struct {
	transport Transport
	patience  time.Duration
	timeMax   time.Duration // for one request
	inFlight  atomic.Int64  // requests that wait for an answer or for their next attempt
	waiting   atomic.Int64  // of them, those that wait for a busy or absent engine

	mu      sync.Mutex
	answers uint64    // so far, whatever they say
	heard   time.Time // when the last one came
}

func newAsker(t Transport, cfg *Config) *asker {
	return &asker{transport: t, patience: cfg.Patience, timeMax: cfg.RequestTimeMax, heard: time.Now()}
}

// hear notes that the engine answers.
func (a *asker) hear() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answers++
	a.heard = time.Now()
}

// silence returns how long no answer came, since from at the earliest, and how many came so far.
func (a *asker) silence(from time.Time) (time.Duration, uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.heard.After(from) {
		from = a.heard
	}
	return time.Since(from), a.answers
}

// ask answers a task: with a response, or with what is wrong with this line alone. An error means that the run
// cannot go on: it was stopped, or the engine is gone for longer than the patience.
func (a *asker) ask(ctx context.Context, t *task) (*Response, *LineError, error) {
	a.inFlight.Add(1)
	defer a.inFlight.Add(-1)
	var alone time.Time // since when this is the only request, and refused
	trouble := trouble{asker: a}
	for backoff := backoffMin; ; backoff = min(2*backoff, backoffMax) {
		resp, err := a.once(ctx, t)
		if ctx.Err() != nil {
			return nil, nil, context.Cause(ctx)
		}
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			return nil, t.fail(CodeTimeout, "", "no answer within %s", a.timeMax), nil
		case errors.Is(err, errTooLarge):
			return nil, t.fail(CodeInvalidResponse, "", "the answer has more than %d bytes", responseBytesMax), nil
		case err == nil && resp.Status == http.StatusTooManyRequests:
			a.hear()
			if alone = a.aloneSince(alone); !alone.IsZero() && time.Since(alone) > a.patience {
				return resp, nil, nil // it will never fit
			}
		case err == nil && resp.Status != http.StatusServiceUnavailable:
			a.hear()
			return resp, nil, nil
		default:
			if trouble.hopeless(ctx) {
				if err != nil {
					return nil, t.fail(CodeConnection, "", "%d attempts failed although the engine is there: %v", attemptsMax, err), nil
				}
				return resp, nil, nil
			}
			if trouble.silent() > a.patience {
				return nil, nil, a.gone(resp, err)
			}
		}
		wait := backoff
		if resp != nil {
			wait = max(wait, resp.RetryAfter)
		}
		if err := a.sleep(ctx, wait); err != nil {
			return nil, nil, err
		}
	}
}

func (a *asker) gone(resp *Response, err error) error {
	if err == nil {
		err = fmt.Errorf("it says %d: %s", resp.Status, clip(resp.Body))
	}
	return schemas.Errorf(schemas.KindUnavailable, opPlan, "the engine has not answered for %s: %v", a.patience, err).
		WithHint("what is done is in the output; the same command goes on from there")
}

// trouble tells a line that breaks its connection from an engine that is away.
type trouble struct {
	asker   *asker
	since   time.Time
	answers uint64 // at the last attempt
	broken  int    // attempts that failed although the engine was there
}

// hopeless counts a failed attempt and reports whether more would be in vain.
func (b *trouble) hopeless(ctx context.Context) bool {
	_, answers := b.asker.silence(time.Now())
	alive := !b.since.IsZero() && answers > b.answers || b.asker.alive(ctx)
	if b.answers = answers; b.since.IsZero() {
		b.since = time.Now()
	}
	if alive {
		b.broken++
	}
	return b.broken >= attemptsMax
}

// silent is for how long the engine has not answered anything.
func (b *trouble) silent() time.Duration {
	d, _ := b.asker.silence(b.since)
	return d
}

// alive reports whether the engine says anything.
func (a *asker) alive(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, infoTimeMax)
	defer cancel()
	_, err := a.transport.Info(ctx)
	return err == nil
}

// aloneSince returns since when a refused request has been the only one; zero if it is not.
func (a *asker) aloneSince(since time.Time) time.Time {
	if a.inFlight.Load() > 1 {
		return time.Time{}
	}
	if since.IsZero() {
		return time.Now()
	}
	return since
}

// once makes one attempt.
func (a *asker) once(ctx context.Context, t *task) (*Response, error) {
	ctx, cancel := context.WithTimeout(ctx, a.timeMax)
	defer cancel()
	resp, err := a.transport.Ask(ctx, t.url, t.body)
	if err != nil && ctx.Err() != nil {
		err = ctx.Err() // however the transport puts it
	}
	return resp, err
}

// sleep waits a little more or less than d, so that what was refused together does not come back together.
func (a *asker) sleep(ctx context.Context, d time.Duration) error {
	a.waiting.Add(1)
	defer a.waiting.Add(-1)
	timer := time.NewTimer(d + time.Duration(rand.Int64N(int64(d)/2+1)))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
