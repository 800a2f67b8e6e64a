package measure

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe"
	"github.com/troupe-engine/troupe/internal/profile"
	"github.com/troupe-engine/troupe/internal/traces"
	"github.com/troupe-engine/troupe/schemas"
)

// TestLoadsCoverTheShapesOfSteps, and no request is larger than the context.
func TestLoadsCoverTheShapesOfSteps(t *testing.T) {
	for _, info := range []*schemas.EngineInfo{{ContextMax: 2048, SequencesMax: 64}, {ContextMax: 131072, SequencesMax: 256}, {ContextMax: 128, SequencesMax: 1}} {
		atOnce, longest := 0, int32(0)
		for _, l := range loads(info, rand.New(rand.NewPCG(1, 1))) {
			together, tokens := map[int64]int{}, 0
			for _, q := range l.trace.Requests {
				if q.Input < 1 || q.Output < 1 || q.Input+q.Output > info.ContextMax {
					t.Fatalf("%s: a request of %d and %d tokens in a context of %d", l.name, q.Input, q.Output, info.ContextMax)
				}
				together[q.ArrivalNs]++
				longest = max(longest, q.Input)
				tokens += int(q.Input)
				atOnce = max(atOnce, min(together[q.ArrivalNs], int(info.SequencesMax)))
			}
			if tokens > 4*prefillTokensMax {
				t.Errorf("%s: prompts of %d tokens", l.name, tokens)
			}
		}
		if atOnce < int(info.SequencesMax)/2 || longest < min(info.ContextMax/2, prefillTokensMax/3) {
			t.Errorf("context %d: at most %d at once, %d tokens", info.ContextMax, atOnce, longest)
		}
	}
}

func TestTimeAroundRequests(t *testing.T) {
	step := func(sampled int32, pairs int64, busy time.Duration) Step {
		return Step{Shape: profile.Shape{Sampled: sampled, PrefillPairs: pairs}, Busy: busy}
	}
	if got := around(Outcome{Sent: 10, First: 25}, []Step{step(0, 5, 6), step(1, 5, 4), step(1, 0, 3)}); got != 5 {
		t.Errorf("%v, want 5", got)
	}
	requests, prompt := servingOf([]lone{{10, 100}, {20, 300}, {30, 200}, {1000, 1200}, {2000, 2200}, {3000, 9200}})
	if requests != 200 || prompt != 1 {
		t.Errorf("%v and %v a token, want 200 and 1", requests, prompt)
	}
}

// TestALiveEngineIsWatched: every step that a request takes is seen, with its shape and a time.
func TestALiveEngineIsWatched(t *testing.T) {
	opts := troupe.DefaultOptions()
	opts.HTTP, opts.NATSListen, opts.Device = "none", "none", "cpu"
	e, err := troupe.Open(context.Background(), opts, zerolog.Nop(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	w, err := Watch(e.Node())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	trace := &traces.Trace{Requests: []traces.Request{{Input: 700, Output: 5}, {Input: 3, Output: 9}}}
	outcomes, took, err := Send(context.Background(), e, trace, 1)
	if err != nil {
		t.Fatal(err)
	}
	for i, o := range outcomes {
		if o.Err != nil || o.Tokens != int(trace.Requests[i].Output) || o.First <= o.Sent || o.Last < o.First || o.Last > took {
			t.Errorf("request %d: %+v", i, o)
		}
	}
	sampled, tokens := int32(0), int32(0)
	var steps []Step
	for deadline := time.Now().Add(20 * time.Second); sampled < 14 && time.Now().Before(deadline); {
		more, err := w.Take()
		if err != nil {
			t.Fatal(err)
		}
		steps = append(steps, more...)
		for _, s := range more {
			sampled, tokens = sampled+s.Shape.Sampled, tokens+s.Shape.Tokens
			if s.Busy <= 0 || s.Shape.Tokens < s.Shape.Rows {
				t.Errorf("step %+v", s)
			}
		}
	}
	if sampled < 14 || tokens < 703+4+8 || len(steps) < 9 {
		t.Errorf("%d steps with %d tokens, of which %d sampled", len(steps), tokens, sampled)
	}
}
