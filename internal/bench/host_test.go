package bench

import (
	"testing"
	"time"

	"github.com/troupe-engine/troupe/actors/memory"
	"github.com/troupe-engine/troupe/actors/scheduler"
	"github.com/troupe-engine/troupe/schemas"
)

// BenchmarkHostStep is what the cores of scheduler and memory take for a decode step of 64 sequences.
func BenchmarkHostStep(b *testing.B) {
	b.ReportAllocs()
	for done := 0; done < b.N; {
		done += hostSteps(b, newStepLoad(time.Millisecond, 2, 64, 1000), b.N-done)
	}
}

// hostSteps decodes at most limit steps of l on a device that takes no time.
func hostSteps(b *testing.B, l *stepLoad, limit int) (steps int) {
	b.StopTimer()
	s, err := scheduler.NewCore(l.schedulerConfig(), 1)
	if err != nil {
		b.Fatal(err)
	}
	m, err := memory.NewCore(l.memoryConfig())
	if err != nil {
		b.Fatal(err)
	}
	var queue []*schemas.StepPlan
	step := func(event scheduler.Event) {
		fx := s.Step(0, event)
		for fx.Reserve != nil || fx.Execute != nil {
			if fx.Execute != nil {
				queue = append(queue, fx.Execute)
				fx = s.Step(0, scheduler.More{})
				continue
			}
			reply, err := m.Reserve(fx.Reserve)
			if err != nil {
				b.Fatal(err)
			}
			fx = s.Step(0, scheduler.Granted{Reply: reply})
		}
	}
	for _, r := range l.requests() {
		step(scheduler.Submitted{Request: r})
	}
	for ; len(queue) > 0 && steps < limit; steps++ {
		plan := queue[0]
		queue = queue[1:]
		result := sample(plan)
		b.StartTimer()
		step(scheduler.Done{Result: result})
		b.StopTimer()
	}
	return steps
}
