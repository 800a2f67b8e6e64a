package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// The definitions, on one request worked out by hand: four tokens in three events.
func TestMetricsAreVLLMs(t *testing.T) {
	cfg := DefaultServeConfig()
	cfg.Goodput = map[string]float64{"ttft": 15, "tpot": 10}
	slow := &outcome{request: &request{}, began: 5 * time.Millisecond, chunks: []time.Duration{20e6, 50e6}, input: 3, output: 2}
	fast := &outcome{request: &request{}, chunks: []time.Duration{10e6, 16e6, 34e6}, input: 7, output: 4}
	broken := &outcome{request: &request{}, err: fmt.Errorf("refused")}
	r := cfg.evaluate([]*outcome{slow, fast, broken}, 2*time.Second)
	raw, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(raw, &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]float64{"completed": 2, "failed": 1, "duration": 2, "total_input_tokens": 10, "total_output_tokens": 6,
		"request_throughput": 1, "output_throughput": 3, "total_token_throughput": 8, "request_goodput": 0.5, "max_concurrent_requests": 2,
		"mean_ttft_ms": 15, "median_ttft_ms": 15, "std_ttft_ms": 5, "p99_ttft_ms": 19.9,
		"mean_tpot_ms": (30 + 8) / 2.0, // (50-20)/1 and (34-10)/3
		"mean_itl_ms":  (30 + 6 + 18) / 3.0, "mean_e2el_ms": 42}
	for key, value := range want {
		if v, ok := got[key].(float64); !ok || math.Abs(v-value) > 1e-9 {
			t.Errorf("%s is %v, want %v", key, got[key], value)
		}
	}
	if got["request_rate"] != "inf" {
		t.Errorf("request_rate is %v, want inf", got["request_rate"])
	}
}

// Arrivals keep the rate exactly, and burstiness is the shape of the gamma distribution: intervals of
// shape k have a coefficient of variation of 1/√k.
func TestArrivals(t *testing.T) {
	const n, rate = 20001, 50.0
	for _, shape := range []float64{0.3, 1, 8} {
		at := arrivals(rand.New(rand.NewPCG(1, 2)), n, rate, shape)
		if got, want := at[n-1].Seconds(), (n-1)/rate; math.Abs(got-want) > 1e-3 {
			t.Errorf("shape %g: the last request arrives after %.3f s, want %.3f", shape, got, want)
		}
		var intervals []float64
		for i := 1; i < n; i++ {
			intervals = append(intervals, (at[i] - at[i-1]).Seconds())
		}
		got, want := deviation(intervals)/mean(intervals), 1/math.Sqrt(shape)
		if math.Abs(got/want-1) > 0.05 {
			t.Errorf("shape %g: coefficient of variation %.3f, want %.3f", shape, got, want)
		}
	}
	for i, at := range arrivals(rand.New(rand.NewPCG(1, 2)), 3, math.Inf(1), 1) {
		if at != 0 {
			t.Errorf("request %d of an infinite rate arrives after %s", i, at)
		}
	}
}

func TestTrace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "trace.csv")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\n2023-11-16 18:17:04.0319600,3180,8\n2024-05-10 00:00:00.009930+00:00,1,1\n")
	list, err := readTrace(path, 2)
	if err != nil || len(list) != 2 || list[1].at != 52*time.Millisecond || list[1].input != 3180 || list[1].output != 8 {
		t.Errorf("got %+v, %v", list, err)
	}
	if list, err = readTrace(path, 9); err != nil || len(list) != 3 {
		t.Errorf("the layout of 2024: %d requests, %v", len(list), err)
	}
	write("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,-1,10\n")
	if _, err := readTrace(path, 2); err == nil || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("a negative length: %v", err)
	}
}

// Streams as other servers write them: spaces, comments, long lines, errors in the middle.
func TestHTTPClientReadsStreams(t *testing.T) {
	for name, c := range map[string]struct {
		status         int
		body, err      string
		chunks, output int
	}{
		"compact":   {200, "data: {\"choices\":[{\"text\":\"a\"}],\"usage\":null}\n\ndata: {\"choices\":[],\"usage\":{\"completion_tokens\":2}}\n\ndata: [DONE]\n\n", "", 1, 2},
		"spaced":    {200, ": hi\n\ndata: {\"choices\": [{}]}\r\n\r\ndata: {\"choices\": [{}], \"usage\": {\"completion_tokens\": 3}}\n\ndata: [DONE]\n\n", "", 2, 3},
		"long line": {200, "data: {\"choices\":[{\"text\":\"" + strings.Repeat("x", 100_000) + "\"}]}\n\ndata: {\"choices\":[],\"usage\":{\"completion_tokens\":1}}\n\ndata: [DONE]\n\n", "", 1, 1},
		"error":     {200, "data: {\"choices\":[{}]}\n\ndata: {\"error\":{\"type\":\"server_error\",\"message\":\"boom\"}}\n\ndata: [DONE]\n\n", "boom", 1, 0},
		"broken":    {200, "data: {\"choices\":[{}]}\n\n", "broke off", 1, 0},
		"refused":   {429, "too much", "too much", 0, 0},
		"silent":    {200, "data: [DONE]\n\n", "no event", 0, 0},
		"no usage":  {200, "data: {\"choices\":[{}]}\n\ndata: [DONE]\n\n", "usage", 1, 0},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(c.status)
			_, _ = w.Write([]byte(c.body))
		}))
		client, o := newHTTPClient(server.URL), &outcome{request: &request{body: []byte("{}")}}
		client.send(context.Background(), o)
		switch {
		case c.err == "" && o.err != nil, c.err != "" && (o.err == nil || !strings.Contains(o.err.Error(), c.err)):
			t.Errorf("%s: error %v, want %q", name, o.err, c.err)
		case len(o.chunks) != c.chunks || o.output != c.output:
			t.Errorf("%s: %d events and %d tokens, want %d and %d", name, len(o.chunks), o.output, c.chunks, c.output)
		}
		client.close()
		server.Close()
	}
}

// The whole way, over both transports, against an engine in this process.
func TestServe(t *testing.T) {
	for _, transport := range []string{"http", "nats"} {
		cfg := DefaultServeConfig()
		cfg.Transport, cfg.NumPrompts, cfg.Warmup, cfg.MaxConcurrency, cfg.IgnoreEOS = transport, 6, 1, 3, true
		cfg.Ledger = true
		cfg.RandomInputLen, cfg.RandomOutputLen = 10, 8
		r, err := RunServe(context.Background(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		if r.Completed != 6 || r.Failed != 0 || r.InputTokens != 60 || r.OutputTokens != 48 || r.PeakConcurrent > 3 {
			t.Errorf("%s: %d completed, %d failed %q, %d and %d tokens, %d at once", transport, r.Completed, r.Failed, r.Errors, r.InputTokens, r.OutputTokens, r.PeakConcurrent)
		}
		if m := r.Requests; m == nil || m.Requests != 6 || m.MeanUs.Device <= 0 || m.MeanUs.Wall <= m.MeanUs.Device {
			t.Errorf("%s: the requests' ledger is %+v", transport, m)
		}
		fits(t, r)
	}
}

func TestCompare(t *testing.T) {
	cfg := DefaultServeConfig()
	cfg.NumPrompts, cfg.Warmup, cfg.IgnoreEOS, cfg.Compare, cfg.CompareRounds = 4, 1, true, []int{1, 4}, 2
	cfg.RandomInputLen, cfg.RandomOutputLen = 10, 8
	r, err := RunCompare(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range r.Levels {
		if l.Failed > 0 || l.OutputThroughput <= 0 || len(l.rounds) != 2 {
			t.Errorf("level %d: %+v", l.Concurrency, l)
		}
	}
	if r.Ratio <= 0 || r.Target != nil {
		t.Errorf("ratio %g, target %v; want a ratio and no target for 1 against 4", r.Ratio, r.Target)
	}
	fits(t, r)
}

func TestServeConfigIsRefused(t *testing.T) {
	for param, change := range map[string]func(*ServeConfig){
		"burstiness":          func(c *ServeConfig) { c.Burstiness = math.NaN() },
		"request-rate":        func(c *ServeConfig) { c.RequestRate = -1 },
		"random-range-ratio":  func(c *ServeConfig) { c.RandomRangeRatio = 1 },
		"dataset-path":        func(c *ServeConfig) { c.Dataset = "trace" },
		"goodput":             func(c *ServeConfig) { c.Goodput = map[string]float64{"itl": 1} },
		"compare-concurrency": func(c *ServeConfig) { c.Compare = []int{16} },
	} {
		cfg := DefaultServeConfig()
		change(&cfg)
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), param) {
			t.Errorf("%s: error %v does not name it", param, err)
		}
	}
}

// A profile taken while only labelled goroutines work is all theirs.
func TestProfileShare(t *testing.T) {
	burn := func(d time.Duration) {
		for end := time.Now().Add(d); time.Now().Before(end); {
		}
	}
	profile := profiled(func() {
		asClient(context.Background(), func(context.Context) { burn(300 * time.Millisecond) })
	})
	share, err := profileShare(profile)
	if err != nil || share < 0.8 {
		t.Errorf("share %.2f, %v; want nearly all", share, err)
	}
	if share, err = profileShare(profiled(func() { burn(200 * time.Millisecond) })); err != nil || share > 0.1 {
		t.Errorf("share %.2f, %v; want nearly none", share, err)
	}
	if _, err := profileShare([]byte("nonsense")); err == nil {
		t.Error("nonsense is read as a profile")
	}
}

// fits checks that a report fits a terminal.
func fits(t *testing.T, r interface{ WriteText(io.Writer) error }) {
	t.Helper()
	var out bytes.Buffer
	if err := r.WriteText(&out); err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(out.String(), "\n") {
		if n := utf8.RuneCountInString(line); n > 80 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
}
