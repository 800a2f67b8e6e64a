package troupe

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/troupe-engine/troupe/internal/soak"
	"github.com/troupe-engine/troupe/schemas"
)

// postFaults switches faults over HTTP.
func postFaults(t testing.TB, e *Engine, body string) *schemas.FaultsState {
	t.Helper()
	status, raw := debug(t, e, http.MethodPost, "/debug/faults", body)
	st := &schemas.FaultsState{}
	if err := json.Unmarshal(raw, st); err != nil || status != http.StatusOK {
		t.Fatalf("%s: status %d: %s %v", body, status, raw, err)
	}
	return st
}

// debug asks one of the debugging paths.
func debug(t testing.TB, e *Engine, method, path, body string) (int, []byte) {
	t.Helper()
	req, err := http.NewRequest(method, e.HTTPURL()+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, raw
}

// askNATS asks an actor in JSON.
func askNATS(t testing.TB, c *soak.Client, subject, body string) *nats.Msg {
	t.Helper()
	m := nats.NewMsg(subject)
	m.Header.Set("Content-Type", "application/json")
	m.Data = []byte(body)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	reply, err := c.Conn.RequestMsgWithContext(ctx, m)
	if err != nil {
		t.Fatalf("%s: %v", subject, err)
	}
	return reply
}

// TestRequestsEndOnceUnderEveryFault switches each kind of fault on while requests come over HTTP and NATS, whole and
// streamed: each ends once, with the answer that it would have had, or with an error that says why.
func TestRequestsEndOnceUnderEveryFault(t *testing.T) {
	qs := questions(t, 24)
	never := func(*soak.Ending) bool { return false }
	named := func(e *soak.Ending) bool { return e.Status >= 499 && e.Detail != "" }
	for name, n := range map[string]network{
		"in process": {attemptTimeMax: 60 * time.Millisecond, stepTimeMax: 2 * time.Second, stallTimeMax: 400 * time.Millisecond},
		"over NATS":  {remoteOnly: true, attemptTimeMax: 60 * time.Millisecond, stepTimeMax: 2 * time.Second, stallTimeMax: 400 * time.Millisecond},
	} {
		for _, c := range []struct {
			rule    string
			allowed func(*soak.Ending) bool
		}{
			{"drop inf.v1.> p=0.03", never},
			{"delay inf.v1.> p=0.2 delay=8ms", never},
			{"duplicate inf.v1.> p=0.2 delay=8ms", never},
			{"reorder inf.v1.> p=0.2 delay=8ms", never},
			{"error inf.v1.> p=0.002", named},
			{"out_of_blocks inf.v1.memory.reserve.> p=0.3", never},
			{"slow_device inf.v1.compute.execute.* p=0.3 delay=8ms", never},
		} {
			kind, _, _ := strings.Cut(c.rule, " ")
			t.Run(name+"/"+kind, func(t *testing.T) {
				e := openOn(t, n, func(o *Options) { o.EnableFaults = true })
				client := clientOf(t, e)
				client.Linger = 10 * time.Millisecond
				rule, bad := schemas.ParseFaultRule(c.rule)
				if bad != nil {
					t.Fatal(bad)
				}
				postFaults(t, e, string(marshal(t, schemas.FaultsRequest{Plan: &schemas.FaultPlan{Seed: 11, Rules: []schemas.FaultRule{*rule}}})))
				ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
				defer cancel()
				began := time.Now()
				wrong, again := askAll(ctx, t, client, qs, 1, c.allowed)
				for _, w := range wrong {
					t.Error(w)
				}
				state := e.node.FaultsState()
				if state.Rules[0].Faults == 0 {
					t.Errorf("no message suffered: %+v", state)
				}
				t.Logf("%d of %d messages", state.Rules[0].Faults, state.Rules[0].Messages)
				if err := json.Unmarshal(askNATS(t, client, schemas.Faults.Subject(schemas.Instance(e.node.ID())), `{"off":true}`).Data, state); err != nil || state.On {
					t.Fatalf("switched off: %+v, %v", state, err)
				}
				t.Logf("%d questions in %v; %d asked again", len(qs), time.Since(began).Round(time.Millisecond), again)
				if _, err := client.WaitQuiet(ctx); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// TestRefusedResultsComeAgain: while half of the results of steps are refused, answers are what they would have been, none
// waits until its step is given up, and no step is.
func TestRefusedResultsComeAgain(t *testing.T) {
	for name, n := range map[string]network{"in process": {}, "over NATS": {remoteOnly: true}} {
		t.Run(name, func(t *testing.T) {
			e := openOn(t, n, func(o *Options) { o.EnableFaults = true })
			const body = `{"prompt": "Once upon a time", "max_tokens": 60, "temperature": 0, "ignore_eos": true}`
			want := complete(t, e, body)
			epochOf := func() schemas.Epoch {
				s, err := clientOf(t, e).State(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				return s.Compute.Epoch
			}
			epoch := epochOf()
			postFaults(t, e, `{"plan":{"seed":3,"rules":[{"kind":"error","subject":"inf.v1.scheduler.step_done.*","probability":0.5}]}}`)
			began := time.Now()
			if got := complete(t, e, body); got != want {
				t.Errorf("%q, want %q", got, want)
			}
			if took := time.Since(began); took > 20*time.Second {
				t.Errorf("the answer took %v", took)
			}
			if f := e.node.FaultsState().Rules[0]; f.Faults < 10 {
				t.Errorf("%d of %d results were refused", f.Faults, f.Messages)
			}
			if now := epochOf(); now != epoch {
				t.Errorf("epoch %d, before %d: a step was given up", now, epoch)
			}
		})
	}
}

// Faults are an option that names the danger: without it there is nothing to switch.
func TestFaultsAreSwitchedOverHTTPAndNATS(t *testing.T) {
	plain := openEngine(t, nil)
	if status, body := debug(t, plain, http.MethodPost, "/debug/faults", `{"plan":{"rules":[{"kind":"drop","subject":"inf.v1.>","probability":1}]}}`); status != 422 || !strings.Contains(string(body), "--enable-faults") {
		t.Errorf("faults that are not enabled: %d %s", status, body)
	}
	e := openEngine(t, func(o *Options) { o.EnableFaults, o.APIKeys = true, "a-key-of-mine" })
	if status, body := debug(t, e, http.MethodPost, "/debug/faults", `{}`); status != 401 {
		t.Errorf("without the API key: %d %s", status, body)
	}

	e = openEngine(t, func(o *Options) { o.EnableFaults = true })
	client := clientOf(t, e)
	for _, c := range []struct {
		body, contains string
		status         int
	}{
		{`{}`, `"on":false`, 200},
		{`{"plan":{"seed":5,"rules":[{"kind":"error","subject":"inf.v1.scheduler.submit.*","probability":1,"count_max":1}]}}`, `"on":true,"seed":5`, 200},
		{`{"plan":{"rules":[{"kind":"melt","subject":"inf.v1.>","probability":1}]}}`, `plan.rules[0].kind`, 400},
		{`{"plan":{"rules":[]}}`, `plan.rules has 0 elements`, 400},
		{`{"plan":{"rules":[{"kind":"drop","subject":"inf.v1.>","probability":"x"}]}}`, `probability`, 400},
		{`{"plan":{"rules":[{"kind":"drop","subject":"inf.v1.>","probability":1}]},"off":true}`, `off is true beside a plan`, 400},
		{`{"plans":{}}`, `unknown field`, 400},
		{`nonsense`, `decode`, 400},
	} {
		if status, body := debug(t, e, http.MethodPost, "/debug/faults", c.body); status != c.status || !strings.Contains(string(body), c.contains) {
			t.Errorf("POST %s: %d %s; want %d with %s", c.body, status, body, c.status, c.contains)
		}
	}
	const body = `{"prompt": "x", "max_tokens": 2}`
	ending, err := client.Post(t.Context(), "/v1/completions", []byte(body), nil)
	if err != nil || ending.Status != 503 || !strings.Contains(ending.Detail, "failed on request: rule 0") {
		t.Errorf("the first request: %v %v; expected the fault by name", ending, err)
	}
	if ending, err = client.Request(t.Context(), "inf.v1.generate", []byte(body), false, nil); err != nil || !ending.OK() {
		t.Errorf("after the rule's one fault: %v %v", ending, err)
	}
	status, raw := debug(t, e, http.MethodGet, "/debug/faults", "")
	st := &schemas.FaultsState{}
	if err := json.Unmarshal(raw, st); err != nil || status != 200 || len(st.Recent) != 1 || st.Recent[0].Kind != schemas.FaultError || st.Rules[0].Faults != 1 || st.Rules[0].Messages != 2 {
		t.Errorf("what happened: %d %s %v", status, raw, err)
	}
	if status, raw := debug(t, e, http.MethodDelete, "/debug/faults", ""); status != 200 || !strings.Contains(string(raw), `"on":false`) {
		t.Errorf("DELETE: %d %s", status, raw)
	}
	refused := askNATS(t, client, schemas.Faults.Subject(schemas.Instance(e.node.ID())), `{"plan":{"rules":[{"kind":"drop","subject":"inf..v1","probability":1}]}}`)
	if refused.Header.Get(micro.ErrorCodeHeader) != "400" || !strings.Contains(string(refused.Data), "plan.rules[0].subject") {
		t.Errorf("a wrong subject over NATS: %v %s", refused.Header, refused.Data)
	}
}
