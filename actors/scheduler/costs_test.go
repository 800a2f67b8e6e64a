package scheduler

import (
	"math/rand/v2"
	"testing"

	"github.com/troupe-engine/troupe/schemas"
)

// randomCosts are sometimes none.
func randomCosts(rng *rand.Rand) *schemas.StepCosts {
	if rng.IntN(4) == 0 {
		return nil
	}
	return &schemas.StepCosts{Profile: "random", Tokens: schemas.I32{1, 8}, TokensNs: []int64{rng.Int64N(1e6), rng.Int64N(1e7)}, RowNs: rng.Int64N(1e5), DecodePs: rng.Int64N(1e6)}
}

// tenMs is a device on which a step takes ten milliseconds and a prompt token one more.
func tenMs() *schemas.StepCosts {
	return &schemas.StepCosts{Profile: "test", Tokens: schemas.I32{0, 1000}, TokensNs: []int64{10e6, 1010e6}}
}

// TestDeadlinesByStepCosts: which deadlines can be met is known before any answer ended, by what steps cost.
func TestDeadlinesByStepCosts(t *testing.T) {
	const now = int64(1e9)
	cfg := Config{TokensStepMax: 100, SequencesMax: 8}
	sequence := func(prompt, output int32, deadlineMs int64) *Sequence {
		r := &schemas.SubmitRequest{Tokens: make(schemas.I32, prompt), MaxTokens: output, DeadlineMs: deadlineMs}
		return &Sequence{request: r, maxTokens: output, arrivedNs: now}
	}
	p := &Deadline{}
	late := func(s *Sequence) bool { return p.Key(s, now) >= now+deadlineMissedNs }
	tight := sequence(10, 50, now/1e6+100) // fifty steps of at least ten milliseconds do not fit into a hundred
	if late(tight) {
		t.Error("without costs nothing is known, yet a deadline is given up")
	}
	p.Costs(tenMs(), &cfg)
	if !late(tight) {
		t.Error("half a second of work is expected to fit into 100 ms")
	}
	if late(sequence(10, 50, now/1e6+2000)) {
		t.Error("half a second of work is not expected to fit into two seconds")
	}
	if !late(sequence(1000, 1, now/1e6+500)) {
		t.Error("a prompt that takes more than a second is expected to fit into 500 ms")
	}
	p.Costs(nil, &cfg)
	if late(tight) {
		t.Error("the costs were taken away, yet a deadline is given up")
	}
}

// TestWorkByStepCosts: how many prompt tokens count as one of output follows from the costs.
func TestWorkByStepCosts(t *testing.T) {
	var e expectation
	if got := e.promptTokensPerOutput(); got != prefillPerOutput {
		t.Errorf("%d prompt tokens count as one of output without costs", got)
	}
	cfg := Config{TokensStepMax: 100, SequencesMax: 8}
	e.set(tenMs(), &cfg)
	alone := e.promptTokensPerOutput() // a step of 11 ms against 110 ms for 100 tokens
	if alone != 10 {
		t.Errorf("%d prompt tokens count as one of output, want 10", alone)
	}
	e.refresh(make8())
	if got := e.promptTokensPerOutput(); got >= alone {
		t.Errorf("%d prompt tokens count as one of output of eight that share a step, %d of one alone", got, alone)
	}
	if huge := e.remainingNs(1<<31-1, 1<<31-1); huge < 0 {
		t.Errorf("the remaining time overflows: %d", huge)
	}
}

func make8() []*Sequence {
	list := make([]*Sequence, 8)
	for i := range list {
		list[i] = &Sequence{request: &schemas.SubmitRequest{Tokens: make(schemas.I32, 5)}}
	}
	return list
}

// TestCostsAreInTheCheckpoint, so that a restored core decides as this one does.
func TestCostsAreInTheCheckpoint(t *testing.T) {
	w := newWorld(t, Config{ContextMax: 32, SequencesMax: 2, WaitingMax: 8, TokensStepMax: 8, BlockSize: 4, Blocks: 16, PipelineDepth: 2, Policy: "deadline"})
	w.event(CostsGiven{tenMs()})
	fx, _ := w.event(CheckpointWanted{})
	if fx.Checkpoint.Costs == nil || ConfigOf(fx.Checkpoint).Costs.Profile != "test" {
		t.Fatalf("the checkpoint has costs %+v", fx.Checkpoint.Costs)
	}
	core, err := Restore(ConfigOf(fx.Checkpoint), fx.Checkpoint, w.now)
	if err != nil || !core.policy.(*Deadline).predict.expect.known() {
		t.Errorf("the restored policy knows no costs: %v", err)
	}
}
