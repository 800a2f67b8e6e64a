package scheduler

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

// launchesMax bounds the plans on their way to compute: more than a pipeline holds, in the epoch at hand and some that were given up.
const launchesMax = 64

// launcher hands plans to a computation manager on another node, in order, outside of the scheduler's turn: results, and
// whoever asks the scheduler, do not wait for the network. With compute on this node a plan is a call within the turn.
type launcher struct {
	a      *Actor
	plans  chan *schemas.StepPlan
	newest atomic.Uint64 // epoch of the plan that was put in last
}

// put takes a plan, and says what the core is told next.
func (l *launcher) put(plan *schemas.StepPlan) Event {
	l.newest.Store(uint64(plan.Epoch))
	select {
	case l.plans <- plan:
		l.a.launchedPlan(plan)
		return More{}
	default:
		return Lost{schemas.Errorf(schemas.KindOverloaded, "step", "%d plans are on their way to compute, which does not answer", launchesMax)}
	}
}

// run delivers plans until the actor stops. When one is not taken, those after it in its epoch are not either.
func (l *launcher) run() {
	var lost schemas.Epoch
	for {
		var plan *schemas.StepPlan
		select {
		case plan = <-l.plans:
		case <-l.a.asking.Done():
			return
		}
		if plan.Epoch <= lost || uint64(plan.Epoch) < l.newest.Load() {
			continue
		}
		_, err := l.a.compute.Call(l.a.asking, plan)
		if err == nil || l.a.asking.Err() != nil {
			continue
		}
		lost = plan.Epoch
		time.Sleep(recoveryPause)
		bus.Run(l.a.group, l.a.actor, func(ctx context.Context) {
			if l.a.core.epoch == plan.Epoch {
				l.a.step(ctx, Lost{schemas.AsError(err, "step")})
			}
		})
	}
}
