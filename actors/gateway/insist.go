package gateway

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/troupe-engine/troupe/schemas"
)

// Pauses between attempts of insist.
const (
	insistAfterMin = 5 * time.Millisecond
	insistAfterMax = 500 * time.Millisecond
)

// insist repeats a call until its receiver is not overloaded, or ctx ends. When thousands of clients leave at once, so
// many sequences are given up that not every call finds room in a mailbox; but one that is not given up runs for nobody.
func insist(ctx context.Context, call func() error) error {
	for after := insistAfterMin; ; after = min(2*after, insistAfterMax) {
		err := call()
		if err == nil || schemas.AsError(err, "").Kind != schemas.KindOverloaded {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(after/2 + rand.N(after)):
		}
	}
}
