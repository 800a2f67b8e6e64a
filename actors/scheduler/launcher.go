package scheduler

import (
	"context"
	"time"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

// PlansAheadMax is a sensible bound on the plans on their way to compute: more than a pipeline holds, in the epoch at hand and
// some that were given up.
const PlansAheadMax = 64

// launcher hands plans to a computation manager on another node, in order, outside of the scheduler's turn, and without waiting
// for one to be acknowledged before the next goes out: results, whoever asks the scheduler, and the plans behind do not wait for
// the network. With compute on this node a plan is a call within the turn.
type launcher struct {
	a        *Actor
	pipeline *bus.Pipeline[schemas.StepPlan, schemas.PlanReply]

	// Owned by the group's turn: the plan that was put in last.
	epoch schemas.Epoch
	step  schemas.StepID

	lost schemas.Epoch // the last of which a plan was not taken; owned by the pipeline
}

func newLauncher(a *Actor, ahead int) (*launcher, error) {
	l := &launcher{a: a}
	var err error
	l.pipeline, err = bus.NewPipeline(a.compute, bus.PipelineConfig[schemas.StepPlan, schemas.PlanReply]{WindowMax: ahead, Done: l.answered})
	return l, err
}

// put takes a plan, and says what the core is told next.
func (l *launcher) put(plan *schemas.StepPlan) Event {
	sent := *plan // the plan is the core's, and in its journal
	if l.epoch == plan.Epoch {
		sent.After = l.step
	}
	if !l.pipeline.Put(&sent) {
		return Lost{schemas.Errorf(schemas.KindOverloaded, "step", "%d plans wait for compute, which does not answer", bus.PipelineQueueMax)}
	}
	l.epoch, l.step = plan.Epoch, plan.Step
	l.a.launchedPlan(plan)
	return More{}
}

// answered tells the core of an epoch's first plan that is not taken. Those after it are not either.
func (l *launcher) answered(plan *schemas.StepPlan, _ *schemas.PlanReply, err error) {
	if err == nil || plan.Epoch <= l.lost || l.a.asking.Err() != nil {
		return
	}
	l.lost = plan.Epoch
	time.Sleep(recoveryPause)
	bus.Run(l.a.group, l.a.actor, func(ctx context.Context) {
		if l.a.core.epoch == plan.Epoch {
			l.a.step(ctx, Lost{schemas.AsError(err, "step")})
		}
	})
}
