package scheduler

import (
	"errors"
	"testing"
	"time"

	"github.com/troupe-engine/troupe/schemas"
)

// A result that comes before the one that is due is refused until its sender must have given that one up.
func TestResultsComeInOrder(t *testing.T) {
	c := &Core{epoch: 3, flights: []*flight{{step: 4}, {step: 6}, {step: 7}}}
	var e earlyResults
	at := time.Now()
	for i, r := range []struct {
		epoch schemas.Epoch
		step  schemas.StepID
		after time.Duration
		early bool
	}{
		{3, 6, 0, true},
		{3, 7, earlyTimeMax / 2, true},
		{3, 4, earlyTimeMax / 2, false}, // that was it
		{3, 6, 2 * earlyTimeMax, true},  // it is missed anew
		{2, 6, 2 * earlyTimeMax, false}, // an epoch that is over, a repeat and what was never planned are the core's business
		{3, 3, 2 * earlyTimeMax, false},
		{3, 5, 2 * earlyTimeMax, false},
		{3, 7, 3 * earlyTimeMax, true},
		{3, 6, 4*earlyTimeMax + 1, false}, // it does not come: the core gives up the epoch
	} {
		result := &schemas.StepResult{Epoch: r.epoch, Step: r.step}
		err := e.refuse(result, c.missing(result), at.Add(r.after))
		if (err != nil) != r.early || err != nil && (!errors.Is(err, &schemas.Error{Kind: schemas.KindOutOfOrder}) || err.Step != r.step) {
			t.Errorf("result %d, step %d of epoch %d: %v", i, r.step, r.epoch, err)
		}
	}
	failed := &schemas.StepResult{Epoch: 3, Step: 7, Error: schemas.Errorf(schemas.KindInternal, "step", "broken")}
	if c.missing(failed) != 0 {
		t.Error("a step that failed waits for those before it")
	}
}
