package simulate

import (
	"cmp"
	"context"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/troupe-engine/troupe/actors/scheduler"
	"github.com/troupe-engine/troupe/internal/profile"
	"github.com/troupe-engine/troupe/internal/traces"
	"github.com/troupe-engine/troupe/schemas"
)

// ordering answers as a process does that orders rows by a key.
func ordering(key func(q *schemas.RankRequest, row int32) int32) Asker {
	return func(_ context.Context, q *scheduler.Question) *schemas.RankOutcome {
		order := make(schemas.I32, len(q.Request.Seq))
		for i := range order {
			order[i] = int32(i)
		}
		slices.SortFunc(order, func(a, b int32) int {
			return cmp.Or(cmp.Compare(key(q.Request, a), key(q.Request, b)), cmp.Compare(q.Request.Arrival[a], q.Request.Arrival[b]))
		})
		return &schemas.RankOutcome{Number: q.Request.Number, Reply: &schemas.RankReply{Number: q.Request.Number, Order: order}, TripNs: 123_456}
	}
}

var (
	byArrival = ordering(func(*schemas.RankRequest, int32) int32 { return 0 })
	shortest  = ordering(func(q *schemas.RankRequest, row int32) int32 { return q.MaxTokens[row] - q.Output[row] })
)

func simulated(t *testing.T, trace *traces.Trace, policy string, takes time.Duration, ask Asker) *Report {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Profile, cfg.SequencesMax, cfg.Policy, cfg.PolicyTime, cfg.Ask = quick(), 8, policy, takes, ask
	r, err := Run(t.Context(), cfg, trace)
	if err != nil {
		t.Fatal(err)
	}
	r.Config = Config{} // functions are never equal
	r.Series = nil      // an answer is an event, at which samples may be taken
	r.QueuePeak = 0
	return r
}

// TestAPolicyInAnotherProcess decides as it would in this one: by arrival what FCFS does, whether it is waited for or not, and
// shortest first what serves more of short requests sooner.
func TestAPolicyInAnotherProcess(t *testing.T) {
	trace := synthetic(t, 300, 25)
	fcfs := simulated(t, trace, "fcfs", 0, nil)
	for _, policy := range []string{"nats:x?wait", "nats:x"} {
		r := simulated(t, trace, policy, time.Nanosecond, byArrival)
		if k := r.Rank; k == nil || k.Answered < 100 || k.Answered != k.Asked || k.Ranked < 100 || k.Late+k.Invalid > 0 {
			t.Fatalf("%s: %+v", policy, k)
		}
		if r.Completed != 300 || r.Steps != fcfs.Steps || math.Abs(r.TTFT.Mean/fcfs.TTFT.Mean-1) > 1e-4 || math.Abs(r.E2EL.Max/fcfs.E2EL.Max-1) > 1e-4 {
			t.Errorf("%s by arrival is not fcfs: %d completed, %d steps, TTFT %.3f ms; fcfs %d, %d, %.3f", policy, r.Completed, r.Steps, r.TTFT.Mean, fcfs.Completed, fcfs.Steps, fcfs.TTFT.Mean)
		}
	}
	short := simulated(t, trace, "nats:x", time.Millisecond, shortest)
	if short.TTFT.Mean > 0.7*fcfs.TTFT.Mean {
		t.Errorf("shortest first has a mean TTFT of %.1f ms, fcfs %.1f", short.TTFT.Mean, fcfs.TTFT.Mean)
	}
	if again := simulated(t, trace, "nats:x", time.Millisecond, shortest); !reflect.DeepEqual(short, again) {
		t.Errorf("two runs differ: a mean TTFT of %g ms and one of %g", short.TTFT.Mean, again.TTFT.Mean)
	}
}

// TestALatePolicyDecidesNothing, and whoever waits for one pays for that.
func TestALatePolicyDecidesNothing(t *testing.T) {
	trace := synthetic(t, 200, 12)
	fcfs := simulated(t, trace, "fcfs", 0, nil)
	late := simulated(t, trace, "nats:x?limit=2ms", 3*time.Millisecond, func(context.Context, *scheduler.Question) *schemas.RankOutcome {
		t.Error("a policy was asked that cannot answer in time")
		return nil
	})
	k := late.Rank
	late.Rank = nil
	if k.Late < 20 || k.Late != k.Asked || k.Ranked > 0 || !reflect.DeepEqual(late, fcfs) {
		t.Errorf("%+v: a mean TTFT of %g ms, fcfs %g", k, late.TTFT.Mean, fcfs.TTFT.Mean)
	}
	cfg := DefaultConfig()
	cfg.Profile = &profile.Profile{Terms: profile.Terms{Tokens: profile.Curve{X: []float64{0, 1}, Y: []float64{1e6, 1e6}}}}
	cfg.Policy, cfg.Ask, cfg.PolicyTime = "nats:x?wait", byArrival, 4*time.Millisecond
	two := &traces.Trace{Requests: []traces.Request{{Input: 8, Output: 50}, {Input: 8, Output: 50}}}
	for _, c := range []struct {
		takes time.Duration
		tpot  float64 // ms: the device is done in 1 ms, and one step is planned while another runs
	}{{0, 1}, {500 * time.Microsecond, 1}, {4 * time.Millisecond, 4}} {
		if cfg.PolicyTime = c.takes; c.takes == 0 { // as long as it says
			c.takes = 123_456
		}
		r, err := Run(t.Context(), cfg, two)
		if err != nil {
			t.Fatal(err)
		}
		if math.Abs(r.TPOT.Mean-c.tpot) > 0.1*c.tpot {
			t.Errorf("answers of %s: a TPOT of %.2f ms, want %.0f", c.takes, r.TPOT.Mean, c.tpot)
		}
	}
}

// TestNobodyAnswers: a simulation of the fallback alone would be taken for one of the policy.
func TestNobodyAnswers(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Profile, cfg.Policy = quick(), "nats:x"
	trace := synthetic(t, 20, 100)
	if _, err := Run(t.Context(), cfg, trace); err == nil || schemas.AsError(err, "").Param != "policy" {
		t.Errorf("nobody to ask: %v", err)
	}
	for _, kind := range []schemas.Kind{schemas.KindUnavailable, schemas.KindTimeout} {
		cfg.Ask = func(_ context.Context, q *scheduler.Question) *schemas.RankOutcome {
			if cfg.PolicyTime > 0 && q.Limit != patience {
				t.Errorf("an answer may take %s", q.Limit)
			}
			return &schemas.RankOutcome{Number: q.Request.Number, Error: schemas.Errorf(kind, "rank", "no answer")}
		}
		if _, err := Run(t.Context(), cfg, trace); err == nil || !strings.Contains(err.Error(), "no answer") {
			t.Errorf("%v: %v", kind, err)
		}
	}
	cfg.PolicyTime = 0 // late as live
	if r, err := Run(t.Context(), cfg, trace); err != nil || r.Rank.Late == 0 || r.Completed != 20 {
		t.Errorf("measured: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cfg.Ask = func(_ context.Context, q *scheduler.Question) *schemas.RankOutcome {
		cancel()
		return &schemas.RankOutcome{Number: q.Request.Number, Error: schemas.Errorf(schemas.KindUnavailable, "rank", "the caller gave up")}
	}
	if _, err := Run(ctx, cfg, trace); err != context.Canceled {
		t.Errorf("cancelled: %v", err)
	}
	cfg.PolicyTime = -1
	if _, err := Run(t.Context(), cfg, trace); err == nil || schemas.AsError(err, "").Param != "policy-time" {
		t.Errorf("a negative time: %v", err)
	}
}
