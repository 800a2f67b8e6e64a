package scheduler

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/troupe-engine/troupe/schemas"
)

func peersConfig() Config {
	return Config{ContextMax: 64, SequencesMax: 4, WaitingMax: 16, TokensStepMax: 16, BlockSize: 4, Blocks: 32, PipelineDepth: 2,
		StepTimeMaxMs: 1000}
}

func peersRequest(n uint32) *schemas.SubmitRequest {
	return &schemas.SubmitRequest{Request: schemas.NewRequestID(1, n), Choices: 2, Tokens: schemas.I32{1, 2, 3, 4, 5}, MaxTokens: 9,
		Sampling: schemas.SamplingParams{TopP: 1, Seed: uint64(n)}}
}

func TestAResultThatNeverComesIsGivenUp(t *testing.T) {
	w := newWorld(t, peersConfig())
	for n := range uint32(3) {
		if err := w.submit(peersRequest(n + 1)); err != nil {
			t.Fatal(err)
		}
	}
	w.finish() // the pipeline is under way
	epoch := w.core.epoch
	w.now += 1000e6
	w.event(Tick{})
	if w.core.epoch != epoch {
		t.Fatal("a step was given up before its time")
	}
	late := w.queue
	w.queue = nil
	w.now += 1e6
	if fx, _ := w.event(Tick{}); fx.Lost == nil || fx.Lost.Kind != schemas.KindTimeout || fx.Lost.Step == 0 {
		t.Errorf("lost by %v; expected a timeout that names the step", fx.Lost)
	}
	if w.core.epoch == epoch || w.core.count.stepErrors != 1 {
		t.Fatalf("epoch %d, %d step errors; expected a new epoch and one error", w.core.epoch, w.core.count.stepErrors)
	}
	// What comes after all is of no use.
	for _, p := range late {
		w.event(Done{&schemas.StepResult{Epoch: p.Epoch, Step: p.Step, Error: schemas.Errorf(schemas.KindInternal, "test", "late")}})
	}
	w.drain()
	w.check()
	for id, a := range w.answers {
		if a.finish == schemas.FinishError {
			t.Errorf("sequence %s failed after one lost step: %v", id, a.err)
		}
	}
}

// TestALatePlanIsRepeatedOnce: a compute that was restarted learns what it has missed, one that is slow is not
// bothered again.
func TestALatePlanIsRepeatedOnce(t *testing.T) {
	cfg := peersConfig()
	cfg.StepTimeMaxMs = 60_000
	w := newWorld(t, cfg)
	for n := range uint32(3) {
		if err := w.submit(peersRequest(n + 1)); err != nil {
			t.Fatal(err)
		}
	}
	oldest := w.queue[0]
	for _, at := range []struct {
		ms       int64
		repeated *schemas.StepPlan
	}{{1900, nil}, {2100, oldest}, {2200, nil}, {9000, nil}} {
		w.now = at.ms * 1e6
		if fx, _ := w.event(Tick{}); fx.Repeat != at.repeated {
			t.Errorf("after %d ms, %+v is repeated; want %+v", at.ms, fx.Repeat, at.repeated)
		}
	}
	w.finish()
	w.now += 2100e6
	if fx, _ := w.event(Tick{}); fx.Repeat != w.queue[0] {
		t.Errorf("the next plan is late, but %+v is repeated", fx.Repeat)
	}
	w.drain()
	w.check()
}

func TestADeviceThatNeverAnswersEndsEveryRequestWithAnError(t *testing.T) {
	w := newWorld(t, peersConfig())
	if err := w.submit(peersRequest(1)); err != nil {
		t.Fatal(err)
	}
	for range 16 {
		w.queue = nil
		w.now += 1001e6
		w.event(Tick{})
	}
	w.queue = nil
	w.check()
	for id, a := range w.answers {
		if a.finish != schemas.FinishError || a.err.Kind != schemas.KindTimeout || a.err.Hint == "" {
			t.Errorf("sequence %s ended with %s: %v; expected a timeout with a hint", id, a.finish, a.err)
		}
	}
}

// TestResultsThatDoNotFitThePlan hands the core every kind of wrong result: none may break an invariant or
// change what comes out in the end.
func TestResultsThatDoNotFitThePlan(t *testing.T) {
	for name, spoil := range map[string]func(r *schemas.StepResult){
		"no rows":        func(r *schemas.StepResult) { r.Row, r.Token = nil, nil },
		"a row missing":  func(r *schemas.StepResult) { r.Row, r.Token = r.Row[1:], r.Token[1:] },
		"a row twice":    func(r *schemas.StepResult) { r.Row, r.Token = append(r.Row, r.Row[0]), append(r.Token, 1) },
		"a negative row": func(r *schemas.StepResult) { r.Row[0] = -1 },
		"a row too many": func(r *schemas.StepResult) { r.Row, r.Token = append(r.Row, 1<<30), append(r.Token, 1) },
		"tokens missing": func(r *schemas.StepResult) { r.Token = nil },
		"tokens to spare": func(r *schemas.StepResult) {
			r.Token = append(r.Token, 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, peersConfig())
			if err := w.submit(peersRequest(1)); err != nil {
				t.Fatal(err)
			}
			spoiled := false
			for len(w.queue) > 0 {
				p := w.queue[0]
				w.queue = w.queue[1:]
				r := w.device.run(t, p)
				if !spoiled && len(r.Row) > 1 {
					spoil(r)
					spoiled = true
					w.queue = nil // the epoch is over
				}
				w.event(Done{r})
			}
			if !spoiled {
				t.Fatal("no step sampled two rows")
			}
			if w.core.count.stepErrors != 1 {
				t.Errorf("%d step errors, want 1", w.core.count.stepErrors)
			}
			w.check()
		})
	}
}

// TestRepliesThatDoNotFitTheQuestion changes one number of memory's answer at random, over and over.
func TestRepliesThatDoNotFitTheQuestion(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 1))
		w := newWorld(t, peersConfig())
		fx := w.core.Step(0, Submitted{peersRequest(1)})
		for step := 0; fx.Reserve != nil && step < 40; step++ {
			reply, err := w.memory.Reserve(fx.Reserve)
			if err != nil {
				t.Fatal(err)
			}
			bad := *reply
			columns := []*schemas.I32{&bad.Granted, &bad.Start, &bad.Cached, &bad.BlockFrom, &bad.BlockCount, &bad.Blocks}
			column := columns[rng.IntN(len(columns))]
			*column = append(schemas.I32(nil), *column...)
			switch at := rng.IntN(max(1, len(*column))); {
			case len(fx.Reserve.Seq) > 0 && rng.IntN(8) == 0:
				bad.Preempted = schemas.U64{fx.Reserve.Seq[rng.IntN(len(fx.Reserve.Seq))]}
			case rng.IntN(4) == 0 || len(*column) == 0:
				*column = append(*column, rng.Int32())
			case rng.IntN(2) == 0:
				(*column)[at] = -rng.Int32N(10)
			default:
				(*column)[at] += rng.Int32()
			}
			fx = w.core.Step(0, Granted{&bad})
			for fx.Execute != nil {
				fx = w.core.Step(0, More{})
			}
			if err := w.core.Check(); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			if n := w.core.count.cached; n > 1<<32 {
				t.Fatalf("seed %d: %d tokens are said to come from the cache", seed, n)
			}
		}
	}
}

// TestAResultThatIsLeftOutIsNotWaitedFor: compute could not deliver one result, but the next. Taken as it comes,
// it would give the sequences the wrong tokens.
func TestAResultThatIsLeftOutIsNotWaitedFor(t *testing.T) {
	w := newWorld(t, peersConfig())
	if err := w.submit(peersRequest(1)); err != nil {
		t.Fatal(err)
	}
	w.finish()
	if len(w.queue) != 2 {
		t.Fatalf("%d steps are in flight, want 2", len(w.queue))
	}
	w.device.run(t, w.queue[0])
	r := w.device.run(t, w.queue[1])
	w.queue = nil // the epoch is over
	w.event(Done{r})
	if w.core.count.stepErrors != 1 {
		t.Errorf("%d step errors, want 1", w.core.count.stepErrors)
	}
	w.drain()
	w.check()
}

// TestARepeatAfterTheFirstChoiceEnded must not start a request again that still runs.
func TestARepeatAfterTheFirstChoiceEnded(t *testing.T) {
	w := newWorld(t, peersConfig())
	w.core.recent.max = 0 // forgotten since
	r := peersRequest(1)
	if err := w.submit(r); err != nil {
		t.Fatal(err)
	}
	w.finish()
	w.event(Cancelled{&schemas.CancelRequest{Seq: schemas.U64{uint64(r.Request.Seq(0))}, Finish: schemas.FinishCancel}})
	w.submit(r)
	w.drain()
	w.check()
}

func TestADeadlineFarAwayIsNotOver(t *testing.T) {
	w := newWorld(t, peersConfig())
	r := peersRequest(1)
	r.DeadlineMs = math.MaxInt64
	if err := w.submit(r); err != nil {
		t.Fatal(err)
	}
	w.event(Tick{})
	w.drain()
	w.check()
	for id, a := range w.answers {
		if a.err != nil {
			t.Errorf("sequence %s: %v", id, a.err)
		}
	}
}

// TestASequenceThatGetsOnSurvivesAnyNumberOfLostSteps: it is not what breaks them.
func TestASequenceThatGetsOnSurvivesAnyNumberOfLostSteps(t *testing.T) {
	w := newWorld(t, peersConfig())
	r := peersRequest(1)
	if err := w.submit(r); err != nil {
		t.Fatal(err)
	}
	for range 2 * w.cfg.RecoveriesMax {
		for before := w.core.count.tokens; w.core.count.tokens < before+uint64(r.Choices); {
			w.finish()
		}
		w.lose()
	}
	w.drain()
	w.check()
	for id, a := range w.answers {
		if a.err != nil {
			t.Errorf("sequence %s: %v", id, a.err)
		}
	}
}
