package scheduler

import (
	"slices"
	"strings"
	"testing"

	"github.com/troupe-engine/troupe/schemas"
)

// lastFirst orders by arrival, the latest first.
func lastFirst(q *Question) *schemas.RankOutcome {
	order := make(schemas.I32, len(q.Request.Seq))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortFunc(order, func(a, b int32) int { return int(q.Request.Arrival[b] - q.Request.Arrival[a]) })
	return &schemas.RankOutcome{Number: q.Request.Number, TripNs: 1000, Reply: &schemas.RankReply{Number: q.Request.Number, Order: order}}
}

func externalWorld(t *testing.T, policy string) *world {
	t.Helper()
	w := newWorld(t, Config{ContextMax: 64, SequencesMax: 1, WaitingMax: 100, TokensStepMax: 64, BlockSize: 4, Blocks: 64, PipelineDepth: 1, Policy: policy})
	w.now = 1e18
	w.policy = lastFirst
	return w
}

func submitShort(t *testing.T, w *world, numbers ...uint32) {
	t.Helper()
	for _, n := range numbers {
		if err := w.submit(&schemas.SubmitRequest{Request: schemas.NewRequestID(1, n), Choices: 1, Tokens: prompt(4, int32(n)), MaxTokens: 2,
			Sampling: schemas.SamplingParams{TopP: 1, Seed: uint64(n)}}); err != nil {
			t.Fatal(err)
		}
	}
}

// ends drains the world and returns the requests' numbers in the order in which they ended.
func ends(w *world) (order []uint32) {
	seen := map[schemas.SeqID]bool{}
	for len(w.queue) > 0 {
		for len(w.questions) > 0 {
			w.answerOne()
		}
		w.finish()
		for id, a := range w.answers {
			if a.ends > 0 && !seen[id] {
				seen[id] = true
				order = append(order, uint32(id.Request()>>8))
			}
		}
	}
	return order
}

// TestAnOrderFromAnotherProcess is used by the step after it came or, with wait, by the very step.
func TestAnOrderFromAnotherProcess(t *testing.T) {
	for _, name := range []string{"nats:a", "nats:a?wait"} {
		w := externalWorld(t, name)
		submitShort(t, w, 1, 2, 3, 4, 5)
		if got := ends(w); !slices.Equal(got, []uint32{1, 5, 4, 3, 2}) {
			t.Errorf("%s: they end in the order %v; want the last first, after the one that ran", name, got)
		}
		w.check()
		if st := w.core.Rank(); !st.Active || st.Answered != st.Asked || st.Answered < 4 || st.Fell != 0 || st.Ranked == 0 || st.TripMax != 1000 {
			t.Errorf("%s: %+v", name, st)
		}
	}
}

// TestAPolicyThatFails is replaced by its fallback, with one warning that says why, and comes back by itself.
func TestAPolicyThatFails(t *testing.T) {
	fail := func(kind schemas.Kind) func(*Question) *schemas.RankOutcome {
		return func(q *Question) *schemas.RankOutcome {
			return &schemas.RankOutcome{Number: q.Request.Number, Error: schemas.Errorf(kind, "rank", "it is %s", kind)}
		}
	}
	spoil := func(f func(r *schemas.RankReply)) func(*Question) *schemas.RankOutcome {
		return func(q *Question) *schemas.RankOutcome {
			o := lastFirst(q)
			f(o.Reply)
			return o
		}
	}
	for name, bad := range map[string]struct {
		answer func(*Question) *schemas.RankOutcome
		counts func(*schemas.RankState) uint64
		why    string
	}{
		"late":           {fail(schemas.KindTimeout), func(s *schemas.RankState) uint64 { return s.Late }, "deadline_exceeded"},
		"absent":         {fail(schemas.KindUnavailable), func(s *schemas.RankState) uint64 { return s.Absent }, "unavailable"},
		"an error":       {fail(schemas.KindInternal), func(s *schemas.RankState) uint64 { return s.Invalid }, "internal"},
		"too short":      {spoil(func(r *schemas.RankReply) { r.Order = r.Order[1:] }), func(s *schemas.RankState) uint64 { return s.Invalid }, "elements for"},
		"twice":          {spoil(func(r *schemas.RankReply) { r.Order[0] = r.Order[1] }), func(s *schemas.RankState) uint64 { return s.Invalid }, "came before"},
		"out of range":   {spoil(func(r *schemas.RankReply) { r.Order[0] = 1 << 30 }), func(s *schemas.RankState) uint64 { return s.Invalid }, "expected 0 to"},
		"another number": {spoil(func(r *schemas.RankReply) { r.Number++ }), func(s *schemas.RankState) uint64 { return s.Invalid }, "as in the question"},
	} {
		for _, policy := range []string{"nats:a", "nats:a?wait"} {
			w := externalWorld(t, policy)
			submitShort(t, w, 1, 2, 3)
			ends(w)
			var fell []*schemas.Error
			back := 0
			step := func(answer func(*Question) *schemas.RankOutcome, n uint32) {
				w.policy = answer
				w.now += 2 * rankPauseNs
				first := w.core.external.state.Fell
				submitShort(t, w, n, n+1, n+2)
				ends(w)
				if w.core.external.state.Fell > first {
					fell = append(fell, schemas.Errorf(schemas.KindInternal, "", "%s", w.core.external.state.Reason))
				}
				back = int(w.core.external.state.Returned)
			}
			step(bad.answer, 10)
			step(bad.answer, 20)
			if len(fell) != 1 || !strings.Contains(fell[0].Detail, bad.why) || w.core.external.state.Active {
				t.Errorf("%s, %s: it fell %v; want once, because of %q", policy, name, fell, bad.why)
			}
			if bad.counts(&w.core.external.state) < 2 {
				t.Errorf("%s, %s: %+v", policy, name, w.core.external.state)
			}
			step(lastFirst, 30)
			if back != 1 || !w.core.external.state.Active {
				t.Errorf("%s, %s: it did not come back: %+v", policy, name, w.core.external.state)
			}
			w.drain()
			w.check()
		}
	}
}

// TestAQuestionThatIsLostIsAskedAgain: neither an answer nor an error comes.
func TestAQuestionThatIsLostIsAskedAgain(t *testing.T) {
	w := externalWorld(t, "nats:a")
	submitShort(t, w, 1, 2, 3)
	if len(w.questions) != 1 {
		t.Fatalf("%d questions; one at a time is asked", len(w.questions))
	}
	w.questions = nil
	w.now += rankLostNs + w.core.external.limit.Nanoseconds()
	if fx, _ := w.event(Tick{}); fx.PolicyFell == nil || fx.PolicyFell.Hint == "" {
		t.Errorf("the warning is %v", fx.PolicyFell)
	}
	if len(w.questions) != 1 {
		t.Errorf("%d questions after the loss", len(w.questions))
	}
	w.drain()
	w.check()
}

// TestADeadPolicyIsLeftAlone: it is not asked with every step.
func TestADeadPolicyIsLeftAlone(t *testing.T) {
	w := externalWorld(t, "nats:a")
	w.policy = nil
	submitShort(t, w, 1, 2, 3, 4, 5, 6, 7, 8)
	ends(w)
	w.check()
	if st := w.core.Rank(); st.Asked != 1 || st.Absent != 1 || st.Unranked == 0 || st.Ranked != 0 {
		t.Errorf("%+v", st)
	}
}

// TestWhatAPolicyIsTold: the columns, and no more rows than the limit.
func TestWhatAPolicyIsTold(t *testing.T) {
	w := externalWorld(t, "nats:a")
	w.core.cfg.WaitingMax = 10_000
	first := &schemas.SubmitRequest{Request: schemas.NewRequestID(1, 1), Choices: 1, Tokens: prompt(9, 1), MaxTokens: 20, Priority: 3, User: "ann",
		DeadlineMs: w.now/1e6 + 500, Sampling: schemas.SamplingParams{TopP: 1}}
	if err := w.submit(first); err != nil {
		t.Fatal(err)
	}
	w.now += 40e6
	w.finish()
	submitShort(t, w, 2)
	r := w.questions[0].Request
	if r.Version != 1 || r.SlotsFree != 0 || r.SequencesMax != 1 || r.NowMs != w.now/1e6 || len(r.Seq) != 2 || r.State[0] != schemas.RankRunning || r.State[1] != schemas.RankWaiting ||
		r.AgeMs[0] != 40 || r.Prompt[0] != 9 || r.Output[0] != 1 || r.Computed[0] < 9 || r.MaxTokens[0] != 20 || r.Priority[0] != 3 || r.DeadlineMs[0] != 460 ||
		r.DeadlineMs[1] != schemas.RankForever || r.User[0] != hashName("ann") || r.User[1] != 0 || r.Arrival[0] != 0 || r.Arrival[1] != 1 {
		t.Errorf("%+v", r)
	}
	w.questions = nil
	w.core.external.asked = nil
	for n := range uint32(schemas.RankRowsMax + 10) {
		submitShort(t, w, n+3)
		if len(w.questions) > 0 && n < schemas.RankRowsMax+9 {
			w.questions, w.core.external.asked = nil, nil
		}
	}
	r = w.questions[0].Request
	if len(r.Seq) != schemas.RankRowsMax || int(r.More) != len(w.core.waiting)+1-schemas.RankRowsMax {
		t.Errorf("%d rows, %d more; %d wait", len(r.Seq), r.More, len(w.core.waiting))
	}
}
