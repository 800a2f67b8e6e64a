package bench

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// The definitions, on a load worked out by hand: phases of one second, of which the first 0.5 s are its ramp.
func TestOverloadIsEvaluated(t *testing.T) {
	const second = time.Second
	answered := func(at time.Duration, events ...time.Duration) *outcome {
		return &outcome{request: &request{at: at}, began: at + time.Millisecond, chunks: events, output: 2 * len(events)}
	}
	refused := func(at, took time.Duration, retryAfter bool) *outcome {
		return &outcome{request: &request{at: at}, began: at, refusal: took, retryAfter: retryAfter, err: errors.New("429")}
	}
	r := &OverloadRound{Peak: 8, PeakCPU: 2, OverloadCPU: 1.6}
	r.evaluate([]*outcome{
		answered(0, 10e6, 20e6),                               // calm: 10 ms
		answered(second+600e6, 100e6, 200e6, 500e6),           // two of three events within [1.5 s, 2 s)
		refused(second+700e6, 2e6, true),                      // overloaded
		refused(2*second+30e6, 4e6, false),                    // 30 ms after the overload
		answered(2*second+40e6, 50e6),                         // it waited for the queue
		answered(2*second+90e6, 12e6),                         // nobody waits any more
		{request: &request{at: 2.5e9}, err: errors.New("no")}, // neither answered nor refused
	}, second/2, second)
	want := OverloadRound{Peak: 8, Throughput: 8, Share: 1, Completed: 4, Refused: 2, WithoutRetryAfter: 1, Failed: 1, Error: "no",
		PeakCPU: 2, OverloadCPU: 1.6, CPUShare: 1.25, RefusedP50Ms: 3, RefusedP99Ms: 3.98, RecoveryMs: 30, QueueMs: 40, CalmTTFTMs: 10, LateP99Ms: 1}
	if math.Abs(r.RefusedP99Ms-want.RefusedP99Ms) < 1e-9 {
		r.RefusedP99Ms = want.RefusedP99Ms
	}
	if *r != want {
		t.Errorf("got  %+v\nwant %+v", *r, want)
	}
	report := &OverloadReport{Factor: 10, Rounds: []OverloadRound{*r}, Targets: DefaultOverloadConfig().Targets}
	report.summarize()
	if report.Share != 1 || report.Passed {
		t.Errorf("share %g, passed %v; want 1, and not passed for the failure", report.Share, report.Passed)
	}
	report.Rounds[0].Failed, report.Rounds[0].WithoutRetryAfter = 0, 0
	if report.summarize(); !report.Passed {
		t.Error("a round within all targets did not pass")
	}
	fits(t, report)
}

func TestPhasesKeepTheirRates(t *testing.T) {
	times := phases(rand.New(rand.NewPCG(1, 2)), 10*time.Second, 100, 1000)
	first := 0
	for i, at := range times {
		if i > 0 && at < times[i-1] {
			t.Fatalf("arrival %d is earlier than the one before", i)
		}
		if at < 10*time.Second {
			first++
		}
	}
	if rest := len(times) - first; math.Abs(float64(first)-1000) > 100 || math.Abs(float64(rest)-10000) > 300 {
		t.Errorf("%d and %d arrivals; want 1000 and 10000, give or take three deviations", first, rest)
	}
}

// The whole way. What an overloaded engine keeps is a question for a quiet machine; that it answers or refuses
// everything, and says when to come back, is not.
func TestOverload(t *testing.T) {
	cfg := DefaultOverloadConfig()
	cfg.Phase, cfg.Rounds, cfg.Factor, cfg.Warmup, cfg.MaxConcurrency = time.Second, 1, 8, 1, 8
	cfg.RandomInputLen, cfg.RandomOutputLen = 8, 16
	cfg.Engine.RequestsMax, cfg.Engine.SequencesMax = 8, 8
	r, err := RunOverload(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if o := r.Rounds[0]; o.Failed > 0 || o.WithoutRetryAfter > 0 || o.Refused == 0 || o.Completed == 0 || o.Share <= 0 {
		t.Errorf("%+v", o)
	}
	for name, m := range map[string]*LedgerMean{"peak": r.Rounds[0].PeakRequests, "overload": r.Rounds[0].OverloadRequests} {
		if m == nil || m.Requests == 0 {
			t.Errorf("%s: no ledgers", name)
			continue
		}
		sum := 0.0
		for _, part := range m.MeanUs.Parts() {
			sum += part.Us
		}
		if math.Abs(sum-m.MeanUs.Wall) > m.MeanUs.Wall/100 || m.MeanUs.Device <= 0 {
			t.Errorf("%s: the parts add up to %.0f µs of %.0f: %+v", name, sum, m.MeanUs.Wall, m.MeanUs)
		}
	}
	fits(t, r)
}

func TestOverloadConfigIsRefused(t *testing.T) {
	for param, change := range map[string]func(*OverloadConfig){
		"factor":           func(c *OverloadConfig) { c.Factor = math.NaN() },
		"phase-time":       func(c *OverloadConfig) { c.Phase = 0 },
		"rounds":           func(c *OverloadConfig) { c.Rounds = 0 },
		"max-concurrency":  func(c *OverloadConfig) { c.MaxConcurrency = 0 },
		"random-input-len": func(c *OverloadConfig) { c.RandomInputLen = 0 },
	} {
		cfg := DefaultOverloadConfig()
		change(&cfg)
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), param) {
			t.Errorf("%s: error %v does not name it", param, err)
		}
	}
}
