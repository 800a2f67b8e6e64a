package scheduler

import (
	"math/rand/v2"
	"testing"

	"github.com/troupe-engine/troupe/schemas"
)

// loseStep has two sequences in a step and a third that waits for a slot when the step is lost with an error.
func loseStep(t *testing.T, err *schemas.Error) (*world, map[schemas.RequestID]*schemas.Error, *schemas.ReserveRequest) {
	t.Helper()
	w := newWorld(t, Config{ContextMax: 100, SequencesMax: 2, WaitingMax: 16, TokensStepMax: 32, BlockSize: 4, Blocks: 100, PipelineDepth: 1, RecoveriesMax: 3})
	for id := range uint32(3) {
		r := &schemas.SubmitRequest{Request: schemas.NewRequestID(1, id+1), Choices: 1, Tokens: prompt(4, int32(id)), MaxTokens: 9, Sampling: schemas.SamplingParams{TopP: 1}}
		if err := w.submit(r); err != nil {
			t.Fatal(err)
		}
	}
	w.finish() // the second comes into the next step
	fx := w.core.Step(w.core.now, Lost{err})
	ends := map[schemas.RequestID]*schemas.Error{}
	for _, e := range fx.Emit {
		if e.Finish == schemas.FinishError {
			ends[e.Seq.Request()] = e.Err
		}
	}
	return w, ends, fx.Reserve
}

func TestALostDeviceEndsAllSequencesAndIsNotAskedAgain(t *testing.T) {
	err := schemas.Errorf(schemas.KindDeviceLost, "forward", "it is gone")
	err.Step = 7
	w, ends, next := loseStep(t, err)
	if len(ends) != 3 || next != nil {
		t.Fatalf("%d sequences end, and %+v is asked for; want 3 and nothing", len(ends), next)
	}
	for id, e := range ends {
		waited := id == schemas.NewRequestID(1, 3)
		if e.Kind != schemas.KindDeviceLost || e.Request != id || (e.Step == 0) != waited {
			t.Errorf("%s ends with %v; a step is named by those in it alone", id, e)
		}
	}
	fx := w.core.Step(w.core.now, Submitted{&schemas.SubmitRequest{Request: schemas.NewRequestID(1, 9), Choices: 1, Tokens: prompt(4, 1), MaxTokens: 9, Sampling: schemas.SamplingParams{TopP: 1}}})
	if fx.Refused == nil || fx.Refused.Kind != schemas.KindDeviceLost || fx.Refused.Step != 0 || fx.Reserve != nil {
		t.Errorf("a new request: %+v", fx)
	}
}

func TestAStepWithoutMemoryEndsTheRequestThatItNames(t *testing.T) {
	err := schemas.Errorf(schemas.KindNoMemory, "forward", "it does not fit")
	err.Request = schemas.NewRequestID(1, 2)
	w, ends, next := loseStep(t, err)
	if e := ends[err.Request]; len(ends) != 1 || e == nil || next == nil {
		t.Errorf("%v end, and %+v is asked for; want the named one, and the others again", ends, next)
	}
	for _, s := range w.core.waiting {
		if s.recoveries != 0 {
			t.Errorf("%s is suspected", s.id)
		}
	}
	// One that is not there is nobody's: all that were in the step are suspected.
	err.Request = schemas.NewRequestID(1, 77)
	w, ends, _ = loseStep(t, err)
	suspected := 0
	for _, s := range w.core.waiting {
		suspected += int(s.recoveries)
	}
	if len(ends) != 0 || suspected != 2 {
		t.Errorf("%d end, %d are suspected; want none and 2", len(ends), suspected)
	}
}

// TestWhatBreaksStepsEndsAlone: of many sequences, in pools that are tight or not, one breaks every step in which it
// gets to a certain length. It fails, and all others come to the end that they have without it.
func TestWhatBreaksStepsEndsAlone(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 3))
		w := newWorld(t, Config{ContextMax: 64, SequencesMax: 1 + int32(rng.IntN(8)), WaitingMax: 32, TokensStepMax: 8 + int32(rng.IntN(32)), BlockSize: 4,
			Blocks: 17 + int32(rng.IntN(60)), PipelineDepth: 1 + int32(rng.IntN(3)), Policy: []string{"fcfs", "priority", "shortest"}[rng.IntN(3)]})
		poison, length := schemas.NewRequestID(1, 1+uint32(rng.IntN(6))), int32(rng.IntN(12))
		w.breaks = func(p *schemas.StepPlan) bool {
			for i, id := range p.Seq {
				if schemas.SeqID(id).Request() == poison && p.Start[i]+p.Count[i] >= length {
					return true
				}
			}
			return false
		}
		for n := range uint32(12) {
			r := &schemas.SubmitRequest{Request: schemas.NewRequestID(1, n+1), Choices: 1 + int32(rng.IntN(2)), Tokens: prompt(1+rng.IntN(20), int32(rng.IntN(3))),
				MaxTokens: 12 + int32(rng.IntN(12)), Priority: int32(rng.IntN(3)), Sampling: schemas.SamplingParams{TopP: 1, Seed: uint64(n)}}
			if err := w.submit(r); err != nil {
				t.Fatal(err)
			}
			if len(w.queue) > 0 && rng.IntN(2) == 0 {
				w.finish()
			}
		}
		w.drain()
		w.check()
		for id, a := range w.answers {
			if broke := a.finish == schemas.FinishError; broke != (id.Request() == poison) {
				t.Fatalf("seed %d: sequence %s ended with %s, %v; %s breaks steps", seed, id, a.finish, a.err, poison)
			}
		}
	}
}

// TestADeviceThatFailsEveryStepIsNotTriedWithEachSequence: what runs ends once a few of them have been tried alone.
func TestADeviceThatFailsEveryStepIsNotTriedWithEachSequence(t *testing.T) {
	w := newWorld(t, Config{ContextMax: 64, SequencesMax: 8, WaitingMax: 32, TokensStepMax: 64, BlockSize: 4, Blocks: 200, PipelineDepth: 2})
	for n := range uint32(8) {
		if err := w.submit(&schemas.SubmitRequest{Request: schemas.NewRequestID(1, n+1), Choices: 1, Tokens: prompt(4, 1), MaxTokens: 9, Sampling: schemas.SamplingParams{TopP: 1}}); err != nil {
			t.Fatal(err)
		}
	}
	w.finish()
	w.finish() // all run
	steps := int32(0)
	w.breaks = func(*schemas.StepPlan) bool { steps++; return true }
	w.drain()
	w.check()
	if want := w.cfg.RecoveriesMax + guiltyMax; steps != want {
		t.Errorf("%d steps were tried, want %d", steps, want)
	}
}
