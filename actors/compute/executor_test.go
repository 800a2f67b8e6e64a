package compute

import (
	"errors"
	"testing"

	"github.com/troupe-engine/troupe/schemas"
)

// TestPlansOfAnEpochThatIsOverAreNotRun: after a lost step, the plans queued before stand between the device and
// those that count.
func TestPlansOfAnEpochThatIsOverAreNotRun(t *testing.T) {
	x := &executor{tables: testTables()} // without a model: running anything would panic
	x.newest.Store(2)
	r := x.finish(x.start(twoRows()))
	if r.Error == nil || r.Error.Param != "epoch" || r.Error.Step != r.Step {
		t.Errorf("%v; want an error that names the epoch and the step", r.Error)
	}
	if len(x.tables.blocks[2]) == 0 {
		t.Error("the block tables were touched")
	}
}

// TestErrorsOfQueuing drives execute without a device behind the queue.
func TestErrorsOfQueuing(t *testing.T) {
	a := &Actor{exec: &executor{queue: make(chan *schemas.StepPlan, QueuedMax)}}
	plan := func(epoch schemas.Epoch, step schemas.StepID) error {
		_, err := a.execute(t.Context(), &schemas.StepPlan{Epoch: epoch, Step: step})
		return err
	}
	for step := range schemas.StepID(QueuedMax) {
		if err := plan(5, step+1); err != nil {
			t.Fatal(err)
		}
	}
	if err := plan(5, QueuedMax); err != nil {
		t.Errorf("a repeat: %v", err)
	}
	for name, c := range map[string]struct {
		err  error
		kind schemas.Kind
	}{"a full queue": {plan(5, 99), schemas.KindOverloaded}, "an epoch that is over": {plan(4, 99), schemas.KindInvalid}} {
		var e *schemas.Error
		if !errors.As(c.err, &e) || e.Kind != c.kind || e.Step != 99 {
			t.Errorf("%s: %v; want %s naming step 99", name, c.err, c.kind)
		}
	}
	<-a.exec.queue
	if err := plan(5, 99); err != nil {
		t.Errorf("asked again when there is room: %v", err)
	}
}

// TestPlansComeInOrder: a plan that says what it follows is taken after that one only.
func TestPlansComeInOrder(t *testing.T) {
	a := &Actor{exec: &executor{queue: make(chan *schemas.StepPlan, QueuedMax)}}
	for i, c := range []struct {
		epoch       schemas.Epoch
		step, after schemas.StepID
		early       bool
	}{
		{5, 2, 1, true}, // the first of an epoch is missing …
		{5, 1, 0, false},
		{5, 4, 2, true},
		{5, 2, 1, false},
		{5, 4, 2, false}, // … has come, and steps may be left out
		{5, 2, 1, false}, // a repeat
		{6, 7, 6, true},
		{5, 5, 4, false}, // what was refused began no epoch
		{6, 6, 0, false},
		{6, 7, 6, false},
		{6, 9, 0, false}, // whose sender waits for acknowledgements
	} {
		_, err := a.execute(t.Context(), &schemas.StepPlan{Epoch: c.epoch, Step: c.step, After: c.after})
		if early := errors.Is(err, &schemas.Error{Kind: schemas.KindOutOfOrder}); early != c.early || !early && err != nil {
			t.Errorf("plan %d, step %d of epoch %d: %v", i, c.step, c.epoch, err)
		}
	}
	want := []schemas.StepID{1, 2, 4, 5, 6, 7, 9}
	if len(a.exec.queue) != len(want) {
		t.Fatalf("%d plans are queued; expected %v", len(a.exec.queue), want)
	}
	for _, step := range want {
		if p := <-a.exec.queue; p.Step != step {
			t.Errorf("step %d is queued where %d was expected", p.Step, step)
		}
	}
}
