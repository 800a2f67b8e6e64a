package scheduler

import (
	"testing"

	"github.com/troupe-engine/troupe/schemas"
)

// A step may be over before who handed its plan over gets to go on: its time is the device's all the same.
func TestAStepRunsWhileItsPlanIsHandedOver(t *testing.T) {
	for _, c := range []struct {
		name                   string
		host                   hostTime // of the planning, which ends at 1000
		called                 int64    // when its last call ended
		began, done            int64
		launch, wire, schedule int64 // as they should be when the result is known at 1100
		device                 int64
	}{
		{"in the call", hostTime{launch: 900}, 1000, 200, 900, 100, 200, 100, 700},
		{"while the answer is under way", hostTime{bus: 900}, 1000, 200, 900, 0, 300, 100, 700},
		{"in both", hostTime{launch: 500, bus: 400}, 1000, 200, 900, 100, 200, 100, 700},
		{"and who planned was held up after it", hostTime{launch: 10, bus: 20}, 100, 90, 900, 10, 210, 70, 810},
		{"afterwards", hostTime{launch: 500, bus: 400}, 1000, 1010, 1090, 510, 410, 100, 80},
	} {
		a := &account{}
		a.planned(c.called, 1000, c.host)
		a.steps = []schemas.StepID{1}
		a.computed(&schemas.StepResult{Step: 1, BeganNs: c.began, DoneNs: c.done, Ledger: schemas.Ledger{Device: c.done - c.began}}, 1100, c.host)
		if a.Device != c.device || a.Launch != c.launch || a.Bus != c.wire || a.Schedule != c.schedule {
			t.Errorf("%s: device %d, launch %d, bus %d, schedule %d; want %d, %d, %d, %d", c.name, a.Device, a.Launch, a.Bus, a.Schedule, c.device, c.launch, c.wire, c.schedule)
		}
		if sum := a.Device + a.Launch + a.Bus + a.Schedule + a.Memory + a.Serialize + a.Queue; sum > 1100 || sum < 1000 {
			t.Errorf("%s: the parts are %d of 1100 ns", c.name, sum)
		}
	}
}

// So it is when the result of the step before, which its sequence was not in, is known only after it began.
func TestAStepRunsWhileTheOneBeforeIsReported(t *testing.T) {
	c := &account{}
	c.planned(500, 500, hostTime{launch: 100, bus: 200})
	c.steps = []schemas.StepID{2}
	a := &Actor{accounts: map[schemas.SeqID]*account{1: c}}
	a.beginStep(Done{Result: &schemas.StepResult{Step: 1}}, 1000)
	if c.Queue != 500 {
		t.Errorf("it waited %d ns for another's step; want 500", c.Queue)
	}
	a.beginStep(Done{Result: &schemas.StepResult{Step: 2, BeganNs: 700, DoneNs: 1100, Ledger: schemas.Ledger{Device: 400}}}, 1200)
	if c.Queue != 200 || c.Launch != 100 || c.Device != 400 || c.Bus != 300 || c.Schedule != 200 {
		t.Errorf("queue %d, launch %d, device %d, bus %d, schedule %d; want 200, 100, 400, 300, 200", c.Queue, c.Launch, c.Device, c.Bus, c.Schedule)
	}
}
