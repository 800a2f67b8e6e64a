package gateway

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/troupe-engine/troupe/schemas"
)

func TestInsist(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busy, broken := schemas.Errorf(schemas.KindOverloaded, "call", "full"), errors.New("broken")
		calls := 0
		times := func(n int, then error) func() error {
			calls = 0
			return func() error {
				if calls++; calls <= n {
					return busy
				}
				return then
			}
		}
		if err := insist(t.Context(), times(20, nil)); err != nil || calls != 21 {
			t.Errorf("%d calls, %v; want 21 and success", calls, err)
		}
		if err := insist(t.Context(), times(1, broken)); err != broken || calls != 2 {
			t.Errorf("%d calls, %v; want 2: other errors are not repeated", calls, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		began := time.Now()
		if err := insist(ctx, times(1<<30, nil)); err != busy || time.Since(began) != 3*time.Second || calls < 6 || calls > 30 {
			t.Errorf("%d calls in %s, %v; want a few until the context ends", calls, time.Since(began), err)
		}
	})
}
