package scheduler

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/troupe-engine/troupe/internal/dump"
	"github.com/troupe-engine/troupe/schemas"
)

// TestWhatACopyDoesChangesNothing: at every turn of random histories a copy of the core is told anything at all, and not a
// byte of the core changes; told the same as the core, the copy does the same.
func TestWhatACopyDoesChangesNothing(t *testing.T) {
	stepped, compared := 0, 0
	for seed := range uint64(min(*seeds, 60)) {
		rng := rand.New(rand.NewPCG(seed, 3))
		number := uint32(0)
		randomHistoryWith(t, seed, func(*world) {}, func(w *world) {
			if rng.IntN(4) > 0 {
				return
			}
			before := dump.Of(w.core)
			sandbox := w.core.Clone()
			for range 1 + rng.IntN(6) {
				number++
				sandbox.Step(w.now, anyEvent(rng, w, number))
				if err := sandbox.Check(); err != nil {
					t.Fatalf("seed %d: the copy: %v", seed, err)
				}
				stepped++
			}
			if after := dump.Of(w.core); after != before {
				t.Fatalf("seed %d: the core was\n%s\nand is\n%s", seed, before, after)
			}
			if stateless := w.core.dynamic == nil && w.core.external == nil; !stateless || len(w.queue) == 0 {
				return
			}
			same, event := w.core.Clone(), Tick{}
			var live []byte
			listening := w.journal
			w.journal = func(s *schemas.SchedulerStep) {
				if live == nil {
					live = wireOf(t, s)
				}
			}
			fx := same.Step(w.now, event)
			w.event(event)
			w.journal = listening
			if got := wireOf(t, JournalOf(w.now, event, &fx)); !bytes.Equal(got, live) {
				t.Fatalf("seed %d: the copy does %x, the core %x", seed, got, live)
			}
			compared++
		})
	}
	if stepped < 100 || compared < 50 {
		t.Errorf("%d events told to copies, %d compared: the histories test little", stepped, compared)
	}
}

// anyEvent draws what a copy may be told: sense and nonsense.
func anyEvent(rng *rand.Rand, w *world, number uint32) Event {
	switch rng.IntN(6) {
	case 0:
		return Submitted{randomRequest(rng, 1<<20+number, nil, w.core.contextMax)}
	case 1:
		r := &schemas.CancelRequest{Finish: schemas.FinishCancel}
		for id := range w.core.alive {
			r.Seq = append(r.Seq, uint64(id))
		}
		slices.Sort(r.Seq)
		return Cancelled{r}
	case 2:
		r := &schemas.StepResult{Epoch: w.core.epoch, Step: w.core.step}
		if len(w.core.flights) > 0 {
			f := w.core.flights[0]
			r.Step = f.step
			for i, sampled := range f.sampled {
				if sampled {
					r.Row, r.Token = append(r.Row, int32(i)), append(r.Token, int32(rng.IntN(worldVocab)))
				}
			}
		}
		return Done{r}
	case 3:
		return Lost{schemas.Errorf(schemas.KindInternal, "test", "lost")}
	case 4:
		return PolicyChosen{&Fair{}}
	}
	return Tick{}
}
