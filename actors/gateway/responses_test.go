package gateway

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/troupe-engine/troupe/schemas"
)

func TestResponseWhole(t *testing.T) {
	e := startEngine(t, say("Hello there."))
	g, server := startGateway(t, e, nil)
	resp, body := post(t, server, "/v1/responses", `{"input":"Hi","model":"fake","instructions":"Be kind.","max_output_tokens":20,"temperature":0.7,"top_p":0.9,
		"metadata":{"a":"b"},"store":true,"user":"u","text":{"format":{"type":"text"}},"reasoning":{"effort":"low"},"truncation":"disabled","seed":3}`)
	r := decode[schemas.Response](t, body)
	if resp.StatusCode != 200 || r.Status != "completed" || len(r.Output) != 1 || (*r.Output[0].Content)[0].Text != "Hello there." || r.Store || r.Temperature != 0.7 || r.Metadata["a"] != "b" {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	if r.Usage.OutputTokens != 4 || r.Usage.TotalTokens != r.Usage.InputTokens+4 || *r.Instructions != "Be kind." || *r.MaxOutputTokens != 20 {
		t.Errorf("%s", body)
	}
	if q := e.encodes[0]; string(q.Messages) != `[{"role":"system","content":"Be kind."},{"role":"user","content":"Hi"}]` {
		t.Errorf("%s", q.Messages)
	}
	if s := <-e.submitted; s.MaxTokens != 20 || s.Sampling.Seed != 3 || s.User != "u" {
		t.Errorf("%+v", s)
	}
	settled(t, g, e)
}

func TestResponseInput(t *testing.T) {
	input := `[{"role":"developer","content":"d"},{"type":"message","role":"user","content":[{"type":"input_text","text":"a"},{"type":"input_text","text":"b"}]},
		{"type":"reasoning","summary":[]},{"type":"message","id":"msg_1","role":"assistant","content":[{"type":"output_text","text":"c","annotations":[]}]},
		{"type":"function_call","call_id":"1","name":"f","arguments":"{\"x\":1}"},{"type":"function_call","call_id":"2","name":"g","arguments":""},
		{"type":"function_call_output","call_id":"1","output":"one"},{"type":"function_call_output","call_id":"2","output":[{"type":"input_text","text":"two"}]}]`
	got, err := messagesOfInput(&schemas.ResponsesRequest{Input: json.RawMessage(input)})
	if err != nil {
		t.Fatal(err)
	}
	want := `[{"content":"d","role":"developer"},{"content":"a\nb","role":"user"},
		{"content":"c","role":"assistant","tool_calls":[{"function":{"arguments":{"x":1},"name":"f"},"id":"1","type":"function"},{"function":{"arguments":{},"name":"g"},"id":"2","type":"function"}]},
		{"content":"one","role":"tool","tool_call_id":"1"},{"content":"two","role":"tool","tool_call_id":"2"}]`
	if want = strings.NewReplacer("\n", "", "\t", "").Replace(want); string(got) != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}

// events posts a request for a stream and returns its events; each must be named after its type and numbered.
func responseEvents(t *testing.T, url, body string) (list []*schemas.ResponseEvent) {
	t.Helper()
	resp, err := http.Post(url+"/v1/responses", "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i, block := range strings.Split(strings.TrimSuffix(readAll(resp), "\n\n"), "\n\n") {
		name, data, ok := strings.Cut(strings.TrimPrefix(block, "event: "), "\ndata: ")
		if !ok {
			t.Fatalf("block %q", block)
		}
		e := decode[schemas.ResponseEvent](t, []byte(data))
		if e.Type != name || e.SequenceNumber != i {
			t.Errorf("event %d: %s", i, block)
		}
		list = append(list, e)
	}
	return list
}

func kinds(events []*schemas.ResponseEvent) string {
	var names []string
	for i, e := range events {
		if i > 0 && events[i-1].Type == e.Type {
			continue // of several deltas one is enough
		}
		names = append(names, strings.TrimPrefix(e.Type, "response."))
	}
	return strings.Join(names, " ")
}

const messageKinds = "output_item.added content_part.added output_text.delta output_text.done content_part.done output_item.done"
const callKinds = "output_item.added function_call_arguments.delta function_call_arguments.done output_item.done"

func TestResponseStream(t *testing.T) {
	defer http.DefaultClient.CloseIdleConnections()
	e := startEngine(t, say("Hello there."))
	g, server := startGateway(t, e, nil)
	events := responseEvents(t, server.URL, `{"input":"Hi","stream":true}`)
	if got := kinds(events); got != "created in_progress "+messageKinds+" completed" {
		t.Errorf("%s", got)
	}
	text := ""
	for _, ev := range events {
		if ev.Delta != nil {
			text += *ev.Delta
		}
	}
	last := events[len(events)-1].Response
	if text != "Hello there." || (*last.Output[0].Content)[0].Text != text || last.Usage.OutputTokens != 4 || last.Status != "completed" || events[0].Response.Status != "in_progress" {
		t.Errorf("%q %+v", text, last)
	}

	e.play = say(twoCalls)
	tools := `,"tools":[{"type":"function","name":"f","parameters":{"type":"object"},"strict":true}]`
	events = responseEvents(t, server.URL, `{"input":"Hi","stream":true`+tools+`}`)
	if got := kinds(events); got != "created in_progress "+messageKinds+" "+callKinds+" "+callKinds+" completed" {
		t.Errorf("%s", got)
	}
	last = events[len(events)-1].Response
	_, body := post(t, server, "/v1/responses", `{"input":"Hi"`+tools+`}`)
	whole := decode[schemas.Response](t, body)
	for _, r := range []*schemas.Response{last, whole} {
		if o := r.Output; len(o) != 3 || o[1].Type != "function_call" || *o[1].Arguments != `{"a": 1}` || o[1].CallID == o[2].CallID || o[1].ID == o[2].ID || o[2].Status != "completed" {
			t.Errorf("%+v", o)
		}
	}
	if tools := e.encodes[len(e.encodes)-1].Tools; string(tools) != `[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}]` {
		t.Errorf("the template gets %s", tools)
	}

	e.play = recite // to the limit
	events = responseEvents(t, server.URL, `{"input":"Hi","stream":true,"max_output_tokens":2}`)
	last = events[len(events)-1].Response
	if events[len(events)-1].Type != "response.incomplete" || last.IncompleteDetails.Reason != "max_output_tokens" || last.Output[0].Status != "incomplete" {
		t.Errorf("%+v", last)
	}

	e.play = func(e *engine, r *schemas.SubmitRequest) {
		seq := r.Request.Seq(0)
		e.send(delta{seq: seq, text: "one", tokens: 1})
		e.send(delta{seq: seq, tokens: 1, finish: schemas.FinishError, err: schemas.Errorf(schemas.KindNoMemory, "reserve", "no blocks")})
	}
	events = responseEvents(t, server.URL, `{"input":"Hi","stream":true}`)
	last = events[len(events)-1].Response
	if events[len(events)-1].Type != "response.failed" || last.Error.Code != "server_error" || last.Status != "failed" {
		t.Errorf("%+v", last)
	}
	settled(t, g, e)
}

func TestResponseRefusals(t *testing.T) {
	e := startEngine(t, recite)
	_, server := startGateway(t, e, nil)
	for body, param := range map[string]string{
		`{}`:                                    "input",
		`{"input":[]}`:                          "input",
		`{"input":5}`:                           "input",
		`{"input":[{"role":"king"}]}`:           "input[0].role",
		`{"input":[{"role":"user"}]}`:           "input[0].content",
		`{"input":[{"type":"item_reference"}]}`: "input[0].type",
		`{"input":[{"type":"function_call"}]}`:  "input[0]",
		`{"input":[{"role":"user","content":[{"type":"input_image"}]}]}`:                       "input[0].content[0].type",
		`{"input":"a","previous_response_id":"resp_1"}`:                                        "previous_response_id",
		`{"input":"a","conversation":"c"}`:                                                     "conversation",
		`{"input":"a","background":true}`:                                                      "background",
		`{"input":"a","max_tokens":5}`:                                                         "max_tokens",
		`{"input":"a","max_output_tokens":0}`:                                                  "max_output_tokens",
		`{"input":"a","max_output_tokens":9999}`:                                               "max_output_tokens",
		`{"input":"a","include":["file_search_call.results"]}`:                                 "include[0]",
		`{"input":"a","tools":[{"type":"web_search"}]}`:                                        "tools[0].type",
		`{"input":"a","tools":[{"type":"function"}]}`:                                          "tools[0].name",
		`{"input":"a","text":{"format":{"type":"xml"}}}`:                                       "text.format.type",
		`{"input":"a","text":{"format":{"type":"json_schema"}}}`:                               "text.format.schema",
		`{"input":"a","text":{"format":{"type":"json_schema","name":"x","schema":{"bad":1}}}}`: "text.format",
		`{"input":"a","metadata":{"a":1}}`:                                                     "metadata.a",
	} {
		resp, got := post(t, server, "/v1/responses", body)
		d := decode[schemas.ErrorReply](t, got).Error
		if (resp.StatusCode != 400 && resp.StatusCode != 422) || d.Param == nil || (*d.Param != param && !strings.HasPrefix(param, "metadata")) {
			t.Errorf("%s: %d %s; want param %s", body, resp.StatusCode, got, param)
		}
	}
}

func TestResponseOverNATSAndClientThatLeaves(t *testing.T) {
	e := startEngine(t, say("Hello."))
	g, server := startGateway(t, e, nil)
	m, err := client(t, e).Request("inf.v1.responses", []byte(`{"input":"a"}`), 5*time.Second)
	if err != nil || !strings.Contains(string(m.Data), `"text":"Hello."`) {
		t.Errorf("%v %v", m, err)
	}
	<-e.submitted
	e.play = nil
	ctx, leave := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		req, _ := http.NewRequestWithContext(ctx, "POST", server.URL+"/v1/responses", strings.NewReader(`{"input":"a","stream":true}`))
		if resp, err := server.Client().Do(req); err == nil {
			readAll(resp)
		}
	}()
	r := <-e.submitted
	leave()
	<-done
	eventually(t, "the sequence is cancelled", func() bool { return e.isCancelled(r.Request.Seq(0)) })
	settled(t, g, e)
}
