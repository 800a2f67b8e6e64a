package simulate

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/troupe-engine/troupe/internal/profile"
	"github.com/troupe-engine/troupe/internal/traces"
)

// sharedTrace finds a real workload next to the repository, or skips the test.
func sharedTrace(t testing.TB, name string) *traces.Trace {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("no go.mod above the test")
		}
		dir = filepath.Dir(dir)
	}
	path := filepath.Join(dir, "..", "shared", "traces", name)
	if _, err := os.Stat(path); err != nil {
		t.Skipf("SKIPPED: %s is missing, the real workload that this test needs", path)
	}
	trace, err := traces.Load(path, traces.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return trace
}

// quick is a device of an H100's kind: half a microsecond per token, 8 ms for a step.
func quick() *profile.Profile {
	return &profile.Profile{Version: profile.Version, Name: "quick", Terms: profile.Terms{
		Tokens: profile.Curve{X: []float64{1, 512, 2048}, Y: []float64{6e6, 14e6, 50e6}}, RowNs: 5e3, DecodeNs: 30, PrefillNs: 2}}
}

// TestPrefixHitsAreTheIdeal: with room for everything, the cores find every block of the Mooncake workloads that was
// there before, but for blocks of requests that run at the same time and ends shorter than a KV block.
func TestPrefixHitsAreTheIdeal(t *testing.T) {
	for name, ideal := range map[string]float64{"mooncake_conversation_trace.jsonl": 0.3664, "mooncake_synthetic_trace.jsonl": 0.6396} {
		trace := sharedTrace(t, name)
		cfg := DefaultConfig()
		cfg.Profile = quick()
		r, err := Run(context.Background(), cfg, trace)
		if err != nil {
			t.Fatal(err)
		}
		if math.Abs(r.PrefixHitRate-ideal) > 0.0005 || r.Completed != len(trace.Requests) {
			t.Errorf("%s: a hit rate of %.4f, want %.4f; %d of %d requests completed", name, r.PrefixHitRate, ideal, r.Completed, len(trace.Requests))
		}
	}
}

func synthetic(t testing.TB, n int, rate float64) *traces.Trace {
	t.Helper()
	lengths := func(text string) traces.Lengths {
		d, err := traces.ParseLengths(text)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	trace, err := (&traces.Synthetic{Requests: n, Rate: rate, Burstiness: 0.7, Input: lengths("lognormal:300,400"), Output: lengths("exponential:60"),
		Prefixes: 5, Prefix: lengths("uniform:50,400"), Seed: 7}).Trace()
	if err != nil {
		t.Fatal(err)
	}
	return trace
}

// TestTheSameRunTwice is the same to the last bit, with preemption, eviction and several replicas.
func TestTheSameRunTwice(t *testing.T) {
	trace := synthetic(t, 400, 40)
	for _, replicas := range []int{1, 3} {
		cfg := DefaultConfig()
		cfg.Profile, cfg.Replicas, cfg.KVBlocks, cfg.SequencesMax, cfg.Routing = quick(), replicas, 400, 32, "two-choices"
		var reports []*Report
		for range 2 {
			r, err := Run(context.Background(), cfg, trace)
			if err != nil {
				t.Fatal(err)
			}
			reports = append(reports, r)
		}
		if !reflect.DeepEqual(reports[0], reports[1]) {
			t.Errorf("%d replicas: two runs differ:\n%+v\n%+v", replicas, reports[0], reports[1])
		}
		if r := reports[0]; r.Completed+r.Failed != len(trace.Requests) || r.Evictions == 0 {
			t.Errorf("%d replicas: %d completed, %d failed, %d evictions of %d requests", replicas, r.Completed, r.Failed, r.Evictions, len(trace.Requests))
		}
	}
}

// TestOneRequestTakesWhatTheProfileSays: each step once, one after the other.
func TestOneRequestTakesWhatTheProfileSays(t *testing.T) {
	p := &profile.Profile{Terms: profile.Terms{Tokens: profile.Curve{X: []float64{0, 1000}, Y: []float64{1e6, 2e6}}},
		Serving: profile.Serving{RequestNs: 5e5, PromptNs: 100, ResultNs: 2e4, TokenNs: 3e5}}
	cfg := DefaultConfig()
	cfg.Profile = p
	r, err := Run(context.Background(), cfg, &traces.Trace{Requests: []traces.Request{{Input: 1000, Output: 4}}})
	if err != nil {
		t.Fatal(err)
	}
	// Prefill in chunks of 512 and 488 tokens, then three tokens, for which the device need not wait.
	ttft := 0.5 + 0.1 + (1 + 0.512) + (1 + 0.488) + 0.02 + 0.3
	if math.Abs(r.TTFT.Mean-ttft) > 1e-3 || math.Abs(r.TPOT.Mean-1.001) > 1e-3 || math.Abs(r.E2EL.Max-(ttft+3*1.001)) > 1e-3 {
		t.Errorf("TTFT %.4f, TPOT %.4f, E2EL %.4f ms; want %.4f, 1.001, %.4f", r.TTFT.Mean, r.TPOT.Mean, r.E2EL.Max, ttft, ttft+3*1.001)
	}
	if r.OutputTokens != 4 || r.Steps < 5 {
		t.Errorf("%d tokens in %d steps", r.OutputTokens, r.Steps)
	}
}
