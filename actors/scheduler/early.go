package scheduler

import (
	"time"

	"github.com/troupe-engine/troupe/schemas"
)

// earlyTimeMax is how long results are refused because one before them is missing. A sender repeats that one at once when it hears
// of a refusal: what has not come by then was given up, or found no room to wait.
const earlyTimeMax = time.Second

// earlyResults refuses results that come while one before them is missing: computes on other nodes send results without waiting
// for the acknowledgement of the one before, and repeat what is missing when they hear of it. It comes soon, or never: then the
// core is told what there is, and gives up the epoch.
type earlyResults struct {
	missing schemas.StepID // 0: none
	since   time.Time
}

func (e *earlyResults) refuse(r *schemas.StepResult, missing schemas.StepID, now time.Time) *schemas.Error {
	if missing != e.missing {
		e.missing, e.since = missing, now
	}
	if missing == 0 || now.Sub(e.since) > earlyTimeMax {
		return nil
	}
	err := schemas.Errorf(schemas.KindOutOfOrder, "step result", "the result of step %d has yet to come", missing).WithParam("step")
	err.Step = r.Step
	return err
}

// missing is the step whose result must come before r is taken, or 0.
func (c *Core) missing(r *schemas.StepResult) schemas.StepID {
	if r.Epoch != c.epoch || r.Error != nil {
		return 0
	}
	for _, f := range c.flights[min(1, len(c.flights)):] {
		if f.step == r.Step {
			return c.flights[0].step
		}
	}
	return 0
}
