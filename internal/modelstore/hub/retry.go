package hub

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/troupe-engine/troupe/schemas"
)

// Retry bounds the tries of one thing. Zero values are the defaults.
type Retry struct {
	AttemptsMax   int           // in a row without progress; 8
	DelayMin      time.Duration // before the second try; doubles with each; 500 ms
	DelayMax      time.Duration // 30 s
	RetryAfterMax time.Duration // a server that asks for a longer wait is not waited for; 5 min
}

func (r Retry) withDefaults() Retry {
	return Retry{cmp.Or(r.AttemptsMax, 8), cmp.Or(r.DelayMin, 500*time.Millisecond),
		cmp.Or(r.DelayMax, 30*time.Second), cmp.Or(r.RetryAfterMax, 5*time.Minute)}
}

// delay is how long to wait after n failures (n ≥ 1): exponential, at random between a half and the whole, so
// that clients that failed together do not come back together.
func (r Retry) delay(n int) time.Duration {
	d := r.DelayMax
	if shift := n - 1; shift < 30 {
		d = min(r.DelayMin<<shift, r.DelayMax)
	}
	return d/2 + rand.N(d/2+1)
}

// Do calls try until it succeeds, fails for good, or has failed AttemptsMax times in a row without progress.
// try says whether it got further than ever before. note, which may be nil, hears of each wait.
func (c *Client) Do(ctx context.Context, note func(err error, wait time.Duration), try func() (progress bool, err error)) error {
	for failures := 1; ; failures++ {
		progress, err := try()
		var t *transient
		if err == nil || !errors.As(err, &t) {
			return err
		}
		if progress {
			failures = 1
		}
		if failures >= c.retry.AttemptsMax {
			e := *t.err
			e.Detail += "; gave up after " + plural(failures, "try", "tries")
			return &e
		}
		wait := c.retry.delay(failures)
		if t.after > c.retry.RetryAfterMax {
			e := *t.err
			e.Detail += "; it asks to wait " + t.after.String()
			return &e
		}
		wait = max(wait, t.after)
		if note != nil {
			note(t.err, wait)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return schemas.AsError(context.Cause(ctx), "pull")
		}
	}
}
