package scheduler

import (
	"testing"
	"time"

	"github.com/troupe-engine/troupe/schemas"
)

// TestRepeatedCheckpoints are due after the time or the bytes that were asked for last, and never if nobody did.
func TestRepeatedCheckpoints(t *testing.T) {
	var r repeatedCheckpoint
	now := time.Unix(1000, 0)
	if r.made(&schemas.CheckpointRequest{}, now, 0); r.due(now.Add(time.Hour), 1<<40) {
		t.Error("due, though nobody asked")
	}
	r.made(&schemas.CheckpointRequest{EveryMs: 5000, EveryBytes: 100}, now, 50)
	r.made(&schemas.CheckpointRequest{}, now, 50) // a recorder's; it changes nothing
	for _, c := range []struct {
		after time.Duration
		bytes int64
		due   bool
	}{{4 * time.Second, 149, false}, {5 * time.Second, 50, true}, {2 * time.Second, 150, true}} {
		if got := r.due(now.Add(c.after), c.bytes); got != c.due {
			t.Errorf("after %s and at %d bytes: due is %v", c.after, c.bytes, got)
		}
	}
	r.made(&schemas.CheckpointRequest{EveryMs: -1, EveryBytes: 7}, now, 0)
	if !r.due(now.Add(time.Hour), 7) || r.due(now.Add(time.Hour), 6) {
		t.Error("a negative time is not none")
	}
}
