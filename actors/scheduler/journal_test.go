package scheduler

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/troupe-engine/troupe/schemas"
)

// journaled is one step of a core, as its journal has it.
type journaled struct {
	step *schemas.SchedulerStep
	wire []byte
}

func wireOf(t testing.TB, s *schemas.SchedulerStep) []byte {
	t.Helper()
	wire, err := schemas.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return wire
}

// TestReplay: from every checkpoint of a random history on, a core that is restored from its journal and told the same
// does the same, bit for bit.
func TestReplay(t *testing.T) {
	replayed, resumed := 0, 0
	histories := *seeds
	if testing.Short() {
		histories = min(histories, 50)
	}
	for seed := range uint64(histories) {
		var journal []journaled
		rng := rand.New(rand.NewPCG(seed, 2))
		w := randomHistoryWith(t, seed, func(w *world) {
			w.journal = func(s *schemas.SchedulerStep) { journal = append(journal, journaled{s, wireOf(t, s)}) }
		}, func(w *world) {
			if rng.IntN(15) == 0 {
				w.queue = nil // compute, too, gives up what is in flight
				w.event(CheckpointWanted{})
			}
			if rng.IntN(20) == 0 {
				w.event(CostsGiven{randomCosts(rng)})
			}
		})
		if w.core == nil {
			t.Fatal("no core")
		}
		var core *Core
		for i, j := range journal {
			var told schemas.SchedulerStep // what a reader of the journal has
			if err := schemas.Unmarshal(j.wire, &told); err != nil {
				t.Fatal(err)
			}
			if core != nil {
				event, err := EventOf(&told)
				if err != nil {
					t.Fatal(err)
				}
				fx := core.Step(told.NowNs, event)
				if got := wireOf(t, JournalOf(told.NowNs, event, &fx)); !bytes.Equal(got, j.wire) {
					t.Fatalf("seed %d, entry %d: the replay has\n%+v\nthe journal\n%+v", seed, i, JournalOf(told.NowNs, event, &fx), j.step)
				}
				if err := core.Check(); err != nil {
					t.Fatal(err)
				}
				replayed++
			}
			if told.Checkpoint != nil {
				var err error
				if core, err = Restore(ConfigOf(told.Checkpoint), told.Checkpoint, told.NowNs); err != nil {
					t.Fatal(err)
				}
				fx := core.Step(told.NowNs, More{})
				fx.Checkpoint = told.Checkpoint
				if got := wireOf(t, JournalOf(told.NowNs, CheckpointWanted{}, &fx)); !bytes.Equal(got, j.wire) {
					t.Fatalf("seed %d, entry %d: the restored core begins with\n%+v\nthe journal has\n%+v", seed, i, fx.Reserve, j.step.Reserve)
				}
				resumed += len(told.Checkpoint.Seqs)
			}
		}
	}
	if replayed < 1000 || resumed < 100 {
		t.Errorf("%d steps replayed, %d sequences resumed: too few to mean something", replayed, resumed)
	}
	t.Logf("%d steps replayed, %d sequences resumed", replayed, resumed)
}

// TestRestoreRefuses: a checkpoint that contradicts itself is an error that names the field.
func TestRestoreRefuses(t *testing.T) {
	for name, spoil := range map[string]func(*schemas.SchedulerCheckpoint){
		"request out of range": func(p *schemas.SchedulerCheckpoint) { p.Seqs[0].Request = 7 },
		"negative request":     func(p *schemas.SchedulerCheckpoint) { p.Seqs[0].Request = -1 },
		"sequence twice":       func(p *schemas.SchedulerCheckpoint) { p.Seqs = append(p.Seqs, p.Seqs[0]) },
		"another's request":    func(p *schemas.SchedulerCheckpoint) { p.Seqs[0].Seq += 1 << 20 },
		"no prompt":            func(p *schemas.SchedulerCheckpoint) { p.Requests[0].Tokens = nil },
		"no blocks":            func(p *schemas.SchedulerCheckpoint) { p.Info.Blocks = 0 },
		"negative memory":      func(p *schemas.SchedulerCheckpoint) { p.RecentlyDoneMax = -1 },
		"too many slots":       func(p *schemas.SchedulerCheckpoint) { p.Info.SequencesMax, p.Info.TokensStepMax = 1<<30, 1<<30 },
		"too many blocks":      func(p *schemas.SchedulerCheckpoint) { p.Info.Blocks = 1 << 30 },
		"bad sampling":         func(p *schemas.SchedulerCheckpoint) { p.Requests[0].Sampling.TopP = -1 },
		"short logprobs": func(p *schemas.SchedulerCheckpoint) {
			p.Seqs[0].PromptLogprobs = &schemas.TokenLogprobs{Width: 1, Tokens: schemas.I32{1}}
		},
		"bad costs":      func(p *schemas.SchedulerCheckpoint) { p.Costs = &schemas.StepCosts{Tokens: schemas.I32{1}} },
		"unknown policy": func(p *schemas.SchedulerCheckpoint) { p.Info.Policy = "none such" },
	} {
		p := (*schemas.SchedulerCheckpoint)(nil).Example()
		if _, err := Restore(ConfigOf(p), p, 1); err != nil {
			t.Fatal(err)
		}
		spoil(p)
		if _, err := Restore(ConfigOf(p), p, 1); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestEventOfRefuses(t *testing.T) {
	for _, s := range []*schemas.SchedulerStep{{}, {Event: "none such"}, {Event: schemas.EventSubmit}, {Event: schemas.EventCancel},
		{Event: schemas.EventGrant}, {Event: schemas.EventDone}, {Event: schemas.EventLost}, {Event: schemas.EventPolicy, Policy: "none such"},
		{Event: schemas.EventCosts, Costs: &schemas.StepCosts{RowNs: -1}}} {
		if e, err := EventOf(s); err == nil {
			t.Errorf("%+v is read as %T", s, e)
		}
	}
}
