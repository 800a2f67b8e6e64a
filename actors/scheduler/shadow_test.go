package scheduler

import (
	"bytes"
	"strings"
	"testing"

	"github.com/troupe-engine/troupe/schemas"
)

// TestAShadowChangesNothing: with any shadow, a history is what it was without, bit for bit.
func TestAShadowChangesNothing(t *testing.T) {
	decisions, reordered := uint64(0), uint64(0)
	for _, name := range append(Policies(), "nats:a", "nats:b?wait") {
		for seed := range uint64(max(*seeds/40, 3)) {
			journal := func(shadow string) (wires [][]byte, report *schemas.ShadowReport) {
				w := randomHistoryWith(t, seed, func(w *world) {
					w.journal = func(s *schemas.SchedulerStep) { wires = append(wires, wireOf(t, s)) }
					if shadow == "" {
						return
					}
					p, err := PolicyByName(shadow)
					if err != nil {
						t.Fatal(err)
					}
					w.core.Shadow(w.now, p)
				}, func(w *world) { // the shadow's questions take no part in the history's randomness
					live := w.questions[:0]
					for _, q := range w.questions {
						if q.Shadow {
							order := schemas.I32{}
							for i := range q.Request.Seq {
								order = append(order, int32(len(q.Request.Seq)-1-i))
							}
							w.core.ShadowRanked(w.now, &schemas.RankOutcome{Number: q.Request.Number, Shadow: true, Reply: &schemas.RankReply{Number: q.Request.Number, Order: order}})
							continue
						}
						live = append(live, q)
					}
					w.questions = live
				})
				return wires, w.core.ShadowReport()
			}
			without, _ := journal("")
			with, report := journal(name)
			if len(with) != len(without) {
				t.Fatalf("%s, seed %d: %d events with the shadow, %d without", name, seed, len(with), len(without))
			}
			for i := range with {
				if !bytes.Equal(with[i], without[i]) {
					t.Fatalf("%s, seed %d: event %d differs", name, seed, i)
				}
			}
			if report.Failed != "" {
				t.Errorf("%s, seed %d: %s", name, seed, report.Failed)
			}
			decisions, reordered = decisions+report.Decisions, reordered+report.Reordered
			if report.Agreed+report.Reordered != report.Decisions || len(report.Examples) > schemas.ShadowExamplesMax {
				t.Errorf("%s, seed %d: %+v", name, seed, report)
			}
		}
	}
	if decisions == 0 || reordered == 0 {
		t.Errorf("%d decisions, %d of them otherwise: nothing was tested", decisions, reordered)
	}
}

type panicking struct{ FCFS }

func (panicking) Key(s *Sequence, _ int64) int64 {
	if s.OutputTokens() > 1 {
		panic("a bug")
	}
	return 0
}

// TestAShadowThatPanicsIsEnded, and the engine goes on.
func TestAShadowThatPanicsIsEnded(t *testing.T) {
	w := newWorld(t, Config{ContextMax: 64, SequencesMax: 1, WaitingMax: 16, TokensStepMax: 16, BlockSize: 4, Blocks: 32, PipelineDepth: 2})
	w.core.Shadow(0, panicking{})
	for n := range uint32(3) {
		if err := w.submit(peersRequest(n + 1)); err != nil {
			t.Fatal(err)
		}
	}
	w.drain()
	w.check()
	if r := w.core.ShadowReport(); !strings.Contains(r.Failed, "a bug") || r.Decisions == 0 {
		t.Errorf("%+v", r)
	}
}

// TestShadowReport: five requests, the longest first, wait for one slot. The shortest-first shadow starts others, and
// predicts shorter waits.
func TestShadowReport(t *testing.T) {
	w := newWorld(t, Config{ContextMax: 200, SequencesMax: 1, WaitingMax: 16, TokensStepMax: 200, BlockSize: 4, Blocks: 200, PipelineDepth: 1})
	p, err := PolicyByName("shortest")
	if err != nil {
		t.Fatal(err)
	}
	ticks := int64(0)
	w.core.cfg.Stopwatch = func() int64 { ticks += 5; return ticks }
	w.core.Shadow(7e6, p)
	for n := range uint32(5) {
		r := &schemas.SubmitRequest{Request: schemas.NewRequestID(1, n+1), Choices: 1, Tokens: prompt(4, int32(n)), MaxTokens: int32(60 - 10*n),
			Sampling: schemas.SamplingParams{TopP: 1, Seed: uint64(n)}}
		if err := w.submit(r); err != nil {
			t.Fatal(err)
		}
	}
	w.drain()
	w.check()
	r := w.core.ShadowReport()
	if r.Policy != "shortest" || r.Live != "fcfs" || r.SinceMs != 7 || r.Started == 0 || r.Change > -0.1 || r.Change < -0.9 || r.FirstStep == 0 {
		t.Errorf("%+v", r)
	}
	if len(r.Examples) == 0 || r.Examples[0].LiveFirst[0] == 0 || r.CostNs == 0 || r.CostMaxNs != 5 {
		t.Errorf("%+v", r)
	}
	w.core.Shadow(8e6, nil)
	if r := w.core.ShadowReport(); r.Policy != "" || r.Decisions != 0 {
		t.Errorf("after its end: %+v", r)
	}
}
