package simulate

import (
	"bytes"
	"context"
	"encoding/csv"
	"fmt"
	"image/color"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/troupe-engine/troupe/actors/memory"
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
// there before, but for a few of requests that run at the same time.
func TestPrefixHitsAreTheIdeal(t *testing.T) {
	if raceEnabled {
		t.Skip("SKIPPED under the race detector: one goroutine, some ten times as slow; the run without it covers this")
	}
	for name, ideal := range map[string]float64{"mooncake_conversation_trace.jsonl": 105710. / 288500, "mooncake_synthetic_trace.jsonl": 77953. / 121877} {
		trace := sharedTrace(t, name)
		cfg := DefaultConfig()
		cfg.Profile = quick()
		r, err := Run(context.Background(), cfg, trace)
		if err != nil {
			t.Fatal(err)
		}
		if math.Abs(r.PrefixHitRate-ideal) > 1e-4 || math.Abs(r.PrefixHitMax-ideal) > 1e-6 || r.Completed != len(trace.Requests) {
			t.Errorf("%s: a hit rate of %.5f, at most %.5f, want %.5f; %d of %d requests completed", name, r.PrefixHitRate, r.PrefixHitMax, ideal, r.Completed, len(trace.Requests))
		}
	}
}

func synthetic(t testing.TB, n int, rate float64) *traces.Trace {
	t.Helper()
	return sharing(t, n, rate, 5)
}

// sharing draws requests whose prompts begin with one of some prefixes.
func sharing(t testing.TB, n int, rate float64, prefixes int) *traces.Trace {
	t.Helper()
	lengths := func(text string) traces.Lengths {
		d, err := traces.ParseLengths(text)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	trace, err := (&traces.Synthetic{Requests: n, Rate: rate, Burstiness: 0.7, Input: lengths("lognormal:300,400"), Output: lengths("exponential:60"),
		Prefixes: prefixes, Prefix: lengths("uniform:50,400"), Seed: 7}).Trace()
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

// TestAStepAfterAPause takes longer, and no other: the device of the first request has not been idle for long.
func TestAStepAfterAPause(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Profile = &profile.Profile{Terms: profile.Terms{Tokens: profile.Curve{X: []float64{0, 1000}, Y: []float64{1e6, 1e6}}, ResumeNs: 7e5}}
	r, err := Run(context.Background(), cfg, &traces.Trace{Requests: []traces.Request{{Input: 10, Output: 3}, {ArrivalNs: 50e6, Input: 10, Output: 3}}})
	if err != nil {
		t.Fatal(err)
	}
	if math.Abs(r.TTFT.Max-1.7) > 1e-6 || math.Abs(r.TTFT.Mean-1.35) > 1e-6 || math.Abs(r.TPOT.Mean-1) > 1e-6 {
		t.Errorf("TTFT %.3f at most, %.3f on average, TPOT %.3f; want 1.7, 1.35, 1", r.TTFT.Max, r.TTFT.Mean, r.TPOT.Mean)
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

// TestNoEvictionBeatsBelady: in a pool too small for the shared prefixes, with requests that overlap.
func TestNoEvictionBeatsBelady(t *testing.T) {
	trace := synthetic(t, 600, 20)
	cfg := DefaultConfig()
	cfg.Profile = quick()
	if err := cfg.Set(trace, "kv-blocks", "4%"); err != nil {
		t.Fatal(err)
	}
	rates := map[string]float64{}
	for _, eviction := range append(memory.Evictions(), belady) {
		cfg.Eviction = eviction
		r, err := Run(context.Background(), cfg, trace)
		if err != nil {
			t.Fatal(err)
		}
		rates[eviction] = r.PrefixHitRate
	}
	for eviction, rate := range rates {
		if rate > rates[belady] {
			t.Errorf("%s finds %.4f, Belady %.4f", eviction, rate, rates[belady])
		}
	}
	if rates["lru"] == rates["lfu"] || rates["lru"] == 0 {
		t.Errorf("the policies do not differ: %v", rates)
	}
}

func TestWorkingSet(t *testing.T) {
	trace := &traces.Trace{Requests: []traces.Request{
		{Input: 100, Output: 1, Prompt: []traces.Segment{{ID: 1, Tokens: 64}, {ID: 2, Tokens: 36}}},
		{Input: 96, Output: 1, Prompt: []traces.Segment{{ID: 1, Tokens: 64}, {ID: 3, Tokens: 32}}},
		{Input: 40, Output: 1}}}
	if got := WorkingSet(trace, 16); got != 7+2+3 {
		t.Errorf("%d blocks, want 12", got)
	}
}

// TestRoutingByPrefixFindsMore than taking turns, since each replica then keeps its own prefixes.
func TestRoutingByPrefixFindsMore(t *testing.T) {
	trace := sharing(t, 600, 20, 100)
	rates := map[string]float64{}
	for _, routing := range []string{"round-robin", "prefix"} {
		cfg := DefaultConfig()
		cfg.Profile, cfg.Replicas, cfg.Routing = quick(), 4, routing
		r, err := Run(context.Background(), cfg, trace)
		if err != nil {
			t.Fatal(err)
		}
		rates[routing] = r.PrefixHitRate
		if len(r.PerReplica) != 4 || r.Completed != len(trace.Requests) {
			t.Errorf("%s: %d of %d requests on %d replicas", routing, r.Completed, len(trace.Requests), len(r.PerReplica))
		}
	}
	if rates["prefix"] <= rates["round-robin"] {
		t.Errorf("hit rates %v", rates)
	}
}

// TestWhatCannotBeSimulated is an error that names the setting.
func TestWhatCannotBeSimulated(t *testing.T) {
	trace := synthetic(t, 10, 10)
	for _, c := range []struct{ name, value, param string }{
		{"policy", "nats:mine", "policy"}, {"policy", "none", "policy"}, {"eviction", "clock", "Eviction"}, {"routing", "x", "routing"},
		{"sequences-max", "0", "sequences_max"}, {"tokens-step-max", "1", "tokens_step_max"}, {"pipeline-depth", "99", "pipeline_depth"},
		{"kv-blocks", "x", "kv-blocks"}, {"kv-blocks", "-3%", "kv-blocks"}, {"speed", "0", "speed"}, {"replicas", "9999", "replicas"}, {"colour", "red", "red"},
		{"profile", "nowhere.json", "nowhere"},
	} {
		cfg := DefaultConfig()
		cfg.Profile = quick()
		err := cfg.Set(trace, c.name, c.value)
		if err == nil {
			_, err = Run(context.Background(), cfg, trace)
		}
		if err == nil || !strings.Contains(fmt.Sprintf("%v %+v", err, err), c.param) && c.name != "colour" {
			t.Errorf("%s=%s: %v", c.name, c.value, err)
		}
	}
	for _, text := range []string{"", "policy", "colour=red", "policy=fcfs,,priority"} {
		if _, err := ParseSweep(text); err == nil {
			t.Errorf("sweep %q is taken", text)
		}
	}
	many := Sweep{Name: "seed"}
	for range RunsMax {
		many.Values = append(many.Values, "1")
	}
	if _, err := RunAll(context.Background(), DefaultConfig(), trace, []Sweep{{"policy", []string{"fcfs", "priority"}}, many}, nil); err == nil {
		t.Error("too many runs are run")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	cfg := DefaultConfig()
	cfg.Profile = quick()
	if _, err := Run(ctx, cfg, trace); err == nil {
		t.Error("a cancelled simulation goes on")
	}
}

// TestARequestThatCannotFitIsRefused and the rest goes on.
func TestARequestThatCannotFitIsRefused(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Profile, cfg.KVBlocks = quick(), 10
	r, err := Run(context.Background(), cfg, &traces.Trace{Requests: []traces.Request{{Input: 400, Output: 5}, {Input: 40, Output: 5}}})
	if err != nil || r.Failed != 1 || r.Completed != 1 || len(r.Errors) != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
}

// TestReportsOfSweeps are at most 80 columns wide, are CSV, HTML that is whole and pictures that can be read.
func TestReportsOfSweeps(t *testing.T) {
	trace := synthetic(t, 200, 30)
	cfg := DefaultConfig()
	cfg.Profile, cfg.Goodput = quick(), Limits{TTFT: 300, TPOT: 20}
	var sweeps []Sweep
	for _, text := range []string{"sequences-max=4,32", "kv_blocks=200,60%"} {
		s, err := ParseSweep(text)
		if err != nil {
			t.Fatal(err)
		}
		sweeps = append(sweeps, s)
	}
	outcomes, err := RunAll(context.Background(), cfg, trace, sweeps, nil)
	if err != nil || len(outcomes) != 4 {
		t.Fatal(len(outcomes), err)
	}
	var text, page, picture, lines bytes.Buffer
	for _, err := range []error{WriteTable(&text, sweeps, outcomes), outcomes[0].Report.WriteText(&text), WriteHTML(&page, sweeps, outcomes),
		WritePNG(&picture, sweeps, outcomes), WriteCSV(&lines, sweeps, outcomes)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for line := range strings.Lines(text.String()) {
		if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > 80 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	if rows, err := csv.NewReader(&lines).ReadAll(); err != nil || len(rows) != 5 || len(rows[0]) < 15 {
		t.Errorf("%d rows, %v", len(rows), err)
	}
	if n := strings.Count(page.String(), "<svg"); n != 7 || strings.Contains(page.String(), "NaN") || !strings.HasSuffix(page.String(), "</html>\n") {
		t.Errorf("%d plots in %d bytes", n, page.Len())
	}
	if strings.Contains(page.String(), "http://") || strings.Contains(page.String(), "https://") || strings.Contains(page.String(), "<script") {
		t.Error("the page needs something from elsewhere")
	}
	img, err := png.Decode(&picture)
	if err != nil {
		t.Fatal(err)
	}
	inked := map[color.Color]bool{}
	for x := range img.Bounds().Dx() {
		for y := range img.Bounds().Dy() / 4 {
			inked[img.At(x, y)] = true
		}
	}
	for i := range outcomes {
		if !inked[ink(i)] {
			t.Errorf("line %d is not in the picture", i)
		}
	}
}

func TestAxes(t *testing.T) {
	for _, c := range []struct{ high, top float64 }{{0, 1}, {0.4, 0.4}, {1, 1}, {7, 8}, {7273, 8000}, {99.5, 100}} {
		a := newAxis(0, c.high, false)
		if math.Abs(a.high-c.top) > 1e-9 || len(a.ticks) < 3 || len(a.ticks) > 7 {
			t.Errorf("to %g: an axis to %g with ticks %v", c.high, a.high, a.ticks)
		}
	}
	if a := newAxis(0.3, 42, true); a.low != 0.1 || math.Abs(a.high-100) > 1e-9 || len(a.ticks) != 4 || math.Abs(a.place(math.Sqrt(10))-0.5) > 1e-9 {
		t.Errorf("%+v", a)
	}
}

// BenchmarkAzure is the whole Azure conversation trace, 19,366 requests.
func BenchmarkAzure(b *testing.B) {
	benchmarkTrace(b, "AzureLLMInferenceTrace_conv.csv")
}

// BenchmarkMooncake is the whole Mooncake conversation trace, 12,031 requests.
func BenchmarkMooncake(b *testing.B) {
	benchmarkTrace(b, "mooncake_conversation_trace.jsonl")
}

func benchmarkTrace(b *testing.B, name string) {
	trace := sharedTrace(b, name)
	cfg := DefaultConfig()
	cfg.Profile = quick()
	for b.Loop() {
		if _, err := Run(context.Background(), cfg, trace); err != nil {
			b.Fatal(err)
		}
	}
}

func TestHits(t *testing.T) {
	for _, c := range []struct {
		input, cached, known int32
		found, total         float64
	}{
		{1000, 0, 0, 0, 2}, {1000, 512, 512, 1, 2}, {1000, 992, 1000, 2, 2}, {1000, 512 + 240, 1000, 1.5, 2},
		{520, 512, 520, 2, 2}, {520, 512, 512, 1, 2}, {1024, 1008, 1024, 2, 2}, {8, 0, 8, 1, 1}, {8, 0, 0, 0, 1}, {520, 0, 520, 0, 2},
	} {
		var h hits
		if h.add(c.input, c.cached, c.known, 512, 16); h.found != c.found || h.total != c.total {
			t.Errorf("%+v: %+v", c, h)
		}
	}
}
