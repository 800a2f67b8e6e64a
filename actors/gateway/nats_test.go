package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"github.com/vmihailenco/msgpack/v5"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

// client connects from outside the process, as users do.
func client(t *testing.T, e *engine) *nats.Conn {
	t.Helper()
	c, err := nats.Connect(e.node.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func withTimeout(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestNATSWhole(t *testing.T) {
	e := startEngine(t, recite)
	g, _ := startGateway(t, e, nil)
	c := client(t, e)
	for _, subject := range []string{"inf.v1.chat", "inf.v1.chat.gateway0"} {
		m, err := c.Request(subject, []byte(`{`+hello+`,"max_tokens":2}`), 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if got := decode[schemas.ChatCompletion](t, m.Data); got.Choices[0].Message.Content != "w0 w1 " || got.Usage.TotalTokens != 5 || got.ID != "chatcmpl-"+m.Header.Get(bus.HeaderRequestID) {
			t.Fatalf("%s %v", m.Data, m.Header)
		}
	}
	body, _ := msgpack.Marshal(map[string]any{"prompt": []int{1, 2}, "max_tokens": 2})
	m, err := c.Request("inf.v1.generate", body, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := msgpack.Unmarshal(m.Data, &got); err != nil || m.Header.Get("Content-Type") != "application/msgpack" {
		t.Fatal(err, m.Header)
	}
	choice := got["choices"].([]any)[0].(map[string]any)
	if choice["text"] != "w0 w1 " || choice["finish_reason"] != "length" || got["object"] != "text_completion" {
		t.Fatalf("%v", got)
	}
	m, err = c.Request("inf.v1.models", nil, 5*time.Second)
	if err != nil || decode[schemas.ModelList](t, m.Data).Data[1].Root != "fake" {
		t.Fatalf("%s %v", m.Data, err)
	}
	settled(t, g, e)
}

// What `nats req --wait-for-empty` sees: numbered messages, then an empty one with headers.
func TestNATSStream(t *testing.T) {
	e := startEngine(t, recite)
	g, _ := startGateway(t, e, nil)
	c := client(t, e)
	inbox := c.NewInbox()
	sub, err := c.SubscribeSync(inbox)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.PublishRequest("inf.v1.chat", inbox, []byte(`{`+hello+`,"max_tokens":3,"stream":true,"stream_options":{"include_usage":true}}`)); err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	var last *schemas.ChatChunk
	for n := uint64(1); ; n++ {
		m, err := sub.NextMsgWithContext(withTimeout(t))
		if err != nil {
			t.Fatal(err)
		}
		if len(m.Data) == 0 {
			if m.Header.Get(bus.HeaderEnd) != "done" || m.Header.Get(micro.ErrorHeader) != "" {
				t.Fatalf("the end marker is %v", m.Header)
			}
			break
		}
		last = decode[schemas.ChatChunk](t, m.Data)
		if last.Seq != n || (n == 1) != (m.Header.Get(bus.HeaderRequestID) == last.ID) {
			t.Fatalf("message %d: %s %v", n, m.Data, m.Header)
		}
		for _, choice := range last.Choices {
			if choice.Delta.Content != nil {
				text.WriteString(*choice.Delta.Content)
			}
		}
	}
	if text.String() != "w0 w1 w2 " || last.Usage == nil || last.Usage.Usage.CompletionTokens != 3 {
		t.Fatalf("%q %+v", text.String(), last)
	}
	settled(t, g, e)
}

// bus.StreamReader asks for flow control; the stream is longer than its window.
func TestNATSStreamWithCreditInMsgpack(t *testing.T) {
	e := startEngine(t, func(e *engine, r *schemas.SubmitRequest) {
		for n := int32(1); n <= 3*bus.StreamWindow; n++ {
			finish := schemas.FinishNone
			if n == 3*bus.StreamWindow {
				finish = schemas.FinishStop
			}
			e.send(delta{seq: r.Request.Seq(0), text: "x", tokens: n, finish: finish})
		}
	})
	g, _ := startGateway(t, e, nil)
	body, _ := msgpack.Marshal(map[string]any{"prompt": "a", "stream": true})
	r, err := bus.OpenStream(client(t, e), "inf.v1.generate", body, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	text := ""
	for {
		b, err := r.Next(withTimeout(t))
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		var event struct {
			Choices []struct{ Text string }
		}
		d := msgpack.NewDecoder(strings.NewReader(string(b)))
		d.SetCustomStructTag("json")
		var generic map[string]any
		if err := d.Decode(&generic); err != nil {
			t.Fatal(err)
		}
		asJSON, _ := json.Marshal(generic)
		event = *decode[struct {
			Choices []struct{ Text string }
		}](t, asJSON)
		text += event.Choices[0].Text
	}
	if text != strings.Repeat("x", 3*bus.StreamWindow) || !strings.HasPrefix(r.ID, "cmpl-") {
		t.Fatalf("%d characters, id %q", len(text), r.ID)
	}
	settled(t, g, e)
}

func TestNATSRefusals(t *testing.T) {
	e := startEngine(t, nil)
	g, _ := startGateway(t, e, nil)
	c := client(t, e)
	for _, r := range []struct{ subject, body, code, about string }{
		{"inf.v1.chat", `{"messages":[]}`, "400", `"param":"messages"`},
		{"inf.v1.chat", ``, "400", `the body is empty`},
		{"inf.v1.chat", `{` + hello + `,"temperature":-1}`, "400", `"param":"temperature"`},
		{"inf.v1.chat", `{` + hello + `,"model":"x"}`, "404", `"code":"model_not_found"`},
		{"inf.v1.generate", `{"prompt":"a","suffix":"x","stream":true}`, "422", `"code":"unsupported_parameter"`},
		{"inf.v1.cancel", `{}`, "400", `"param":"id"`},
		{"inf.v1.cancel", `{"id":"chatcmpl-xyz"}`, "400", `"param":"id"`},
	} {
		m, err := c.Request(r.subject, []byte(r.body), 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if m.Header.Get(micro.ErrorCodeHeader) != r.code || m.Header.Get(micro.ErrorHeader) == "" || !strings.Contains(string(m.Data), r.about) {
			t.Errorf("%s %s: got %v %s; want %s with %s", r.subject, r.body, m.Header, m.Data, r.code, r.about)
		}
	}
	s, err := bus.OpenStream(c, "inf.v1.chat", []byte(`{"messages":[],"stream":true}`), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Next(withTimeout(t)); schemas.AsError(err, "").Kind != schemas.KindInvalid || schemas.AsError(err, "").Param != "messages" {
		t.Errorf("got %v", err)
	}
	if err := c.Publish("inf.v1.chat", []byte(`{`+hello+`}`)); err != nil { // wants no answer: dropped
		t.Fatal(err)
	}
	settled(t, g, e)
	if len(e.submitted) != 0 {
		t.Error("a refused request reached the scheduler")
	}
}

func TestNATSReceiverThatLeaves(t *testing.T) {
	e := startEngine(t, nil)
	g, _ := startGateway(t, e, nil)
	for _, streamed := range []string{"true", "false"} {
		c, err := nats.Connect(e.node.URL())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.SubscribeSync("leaver"); err != nil {
			t.Fatal(err)
		}
		if err := c.PublishRequest("inf.v1.generate", "leaver", []byte(`{"prompt":"a","stream":`+streamed+`}`)); err != nil {
			t.Fatal(err)
		}
		seq := (<-e.submitted).Request.Seq(0)
		c.Close()
		eventually(t, "the sequence is cancelled", func() bool { return e.isCancelled(seq) })
		settled(t, g, e)
	}
}

func TestNATSCancelByID(t *testing.T) {
	e := startEngine(t, nil)
	g, server := startGateway(t, e, nil)
	c := client(t, e)
	cancel := func(id string) bool {
		m, err := c.Request("inf.v1.cancel", []byte(`{"id":"`+id+`"}`), 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		return decode[schemas.CancelClientReply](t, m.Data).Cancelled
	}
	s, err := bus.OpenStream(c, "inf.v1.chat", []byte(`{`+hello+`,"stream":true}`), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Next(withTimeout(t)); err != nil || !strings.HasPrefix(s.ID, "chatcmpl-") {
		t.Fatal(err, s.ID)
	}
	seq := (<-e.submitted).Request.Seq(0)
	if !cancel(s.ID) {
		t.Error("nothing was cancelled")
	}
	if _, err := s.Next(withTimeout(t)); !errors.Is(err, &schemas.Error{Kind: schemas.KindCanceled}) {
		t.Errorf("the stream ended with %v", err)
	}
	eventually(t, "the sequence is cancelled", func() bool { return e.isCancelled(seq) })
	if cancel(s.ID) || cancel("chatcmpl-ffffff0000000100") {
		t.Error("what was over was cancelled again")
	}
	// Requests over HTTP can be cancelled too.
	resp, events := stream(t, context.Background(), server.URL, "")
	if !cancel(resp.Header.Get("X-Request-Id")) {
		t.Error("nothing was cancelled")
	}
	nextData(events)
	if data := nextData(events); !strings.Contains(data, `"code":"canceled"`) {
		t.Errorf("the stream got %q", data)
	}
	settled(t, g, e)
}

// An id leads to the gateway that made it, whichever is asked.
func TestNATSCancelFindsTheOwner(t *testing.T) {
	e := startEngine(t, nil)
	startGateway(t, e, nil)
	other, server := startGateway(t, e, func(c *Config) { c.Instance = "gateway1" })
	c := client(t, e)
	resp, _ := stream(t, context.Background(), server.URL, "")
	m, err := c.Request("inf.v1.cancel.gateway0", []byte(`{"id":"`+resp.Header.Get("X-Request-Id")+`"}`), 5*time.Second)
	if err != nil || !decode[schemas.CancelClientReply](t, m.Data).Cancelled {
		t.Fatalf("%s %v", m.Data, err)
	}
	settled(t, other, e)
}

func TestNATSDirectoryShowsSchemasAndExamples(t *testing.T) {
	e := startEngine(t, nil)
	startGateway(t, e, nil)
	m, err := client(t, e).Request("$SRV.INFO.api", nil, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	info := decode[micro.Info](t, m.Data)
	seen := map[string]bool{}
	for _, ep := range info.Endpoints {
		seen[ep.Subject] = true
		if ep.Subject != "inf.v1.chat" {
			continue
		}
		if !strings.Contains(ep.Metadata["request_schema"], `"temperature"`) || !json.Valid([]byte(ep.Metadata["event_schema"])) {
			t.Errorf("%v", ep.Metadata)
		}
		f, err := fieldsOfJSON([]byte(ep.Metadata["request_example"]))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseChat(f, &Config{Defaults: schemas.SamplingParams{TopP: 1}}); err != nil {
			t.Errorf("the example is refused: %v", err)
		}
	}
	for _, verb := range []string{"chat", "generate", "models", "cancel"} {
		if !seen["inf.v1."+verb] || !seen["inf.v1."+verb+".gateway0"] {
			t.Errorf("%s is not listed: %v", verb, seen)
		}
	}
}
