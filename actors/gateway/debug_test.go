package gateway

import (
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

func TestDebug(t *testing.T) {
	e := startEngine(t, nil)
	_, server := startGateway(t, e, nil)
	for _, c := range []struct {
		method, path, kind, body string
		status                   int
		contains                 string
	}{
		{"GET", "/debug", "", "", 200, `"subject":"inf.v1.memory.reserve"`},
		{"GET", "/debug/gateway/state", "", "", 200, `"ready":true`},
		{"GET", "/debug/scheduler/state", "", "", 200, `"running":3`},
		{"GET", "/debug/scheduler/info", "", "", 200, `"context_max":64`},
		{"GET", "/debug/memory/state?instance=replica0", "", "", 200, `"used":5`},
		{"GET", "/debug/scheduler/policy", "", "", 200, `"active":"fcfs"`},
		{"POST", "/debug/scheduler/policy", "application/json", `{"name":"priority"}`, 200, `"active":"fcfspriority"`},
		{"POST", "/debug/scheduler/policy", "application/json", `{"name":"x"}`, 400, `there is no policy`},
		{"POST", "/debug/scheduler/policy", "application/json", `{"nome":"x"}`, 400, `unknown field`},
		{"POST", "/debug/scheduler/policy", "text/plain", `{"name":"priority"}`, 415, `expected application/json`},
		{"POST", "/debug/scheduler/state", "application/json", `{}`, 405, `can only be read`},
		{"GET", "/debug/scheduler/submit", "", "", 404, `there is no /debug/scheduler/submit`},
		{"GET", "/debug/compute/state", "", "", 503, `no responders`},
		{"GET", "/debug/memory/state?instance=a.b", "", "", 400, `expected a name`},
	} {
		req, _ := http.NewRequest(c.method, server.URL+c.path, strings.NewReader(c.body))
		req.Header.Set("Content-Type", c.kind)
		resp, err := server.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body := readAll(resp)
		if resp.StatusCode != c.status || !strings.Contains(body, c.contains) {
			t.Errorf("%s %s: %d %.300s; want %d with %s", c.method, c.path, resp.StatusCode, body, c.status, c.contains)
		}
	}
}

var family = regexp.MustCompile(`(?m)^# TYPE (\S+) (\S+)$`)

func TestMetrics(t *testing.T) {
	e := startEngine(t, recite)
	_, server := startGateway(t, e, nil)
	post(t, server, "/v1/completions", `{"prompt":"a b c","max_tokens":5,"n":2}`)
	post(t, server, "/v1/completions", `{"prompt":[]}`)
	resp, err := server.Client().Get(server.URL + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	text := readAll(resp)
	for _, line := range []string{
		`troupe_generation_tokens_total{model_name="fake"} 10`,
		`vllm:generation_tokens_total{model_name="fake"} 10`,
		`vllm:prompt_tokens_total{model_name="fake"} 3`,
		`vllm:request_success_total{finished_reason="length",model_name="fake"} 2`,
		`vllm:time_to_first_token_seconds_count{model_name="fake"} 2`,
		`vllm:inter_token_latency_seconds_count{model_name="fake"} 8`,
		`vllm:e2e_request_latency_seconds_count{model_name="fake"} 1`,
		`vllm:num_requests_running{model_name="fake"} 3`,
		`vllm:num_preemptions_total{model_name="fake"} 2`,
		`vllm:kv_cache_usage_perc{model_name="fake"} 0.5`,
		`vllm:prefix_cache_queries_total{model_name="fake"} 8`,
		`vllm:prefix_cache_hits_total{model_name="fake"} 4`,
		`troupe_gateway_errors_total{kind="invalid_argument"} 1`,
		`troupe_engine_up 1`,
	} {
		if !strings.Contains(text, "\n"+line+"\n") {
			t.Errorf("no line %s", line)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
	doc, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range family.FindAllStringSubmatch(text, -1) {
		if !strings.Contains(string(doc), "`"+m[1]+"`") {
			t.Errorf("docs/metrics.md does not list %s (%s)", m[1], m[2])
		}
	}
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if !strings.HasPrefix(p.Metric, prefixVLLM) { // the colon is theirs
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}
