package gateway

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

// settled fails the test unless the gateway ends up with nothing: no request, no session, no waiting text.
func settled(t *testing.T, g *Gateway, e *engine) {
	t.Helper()
	eventually(t, "no request and no session is left", func() bool { return g.requests.count() == 0 && e.openSessions() == 0 })
}

// stream starts a streamed chat and returns its events line by line.
func stream(t *testing.T, ctx context.Context, url, extra string) (*http.Response, *bufio.Scanner) {
	t.Helper()
	req, _ := http.NewRequestWithContext(ctx, "POST", url+"/v1/chat/completions", strings.NewReader(`{`+hello+`,"stream":true`+extra+`}`))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		resp.Body.Close()
		http.DefaultClient.CloseIdleConnections()
	})
	return resp, bufio.NewScanner(resp.Body)
}

func nextData(s *bufio.Scanner) string {
	for s.Scan() {
		if data, ok := strings.CutPrefix(s.Text(), "data: "); ok {
			return data
		}
	}
	return ""
}

func TestDisconnectCancelsAtOnce(t *testing.T) {
	e := startEngine(t, nil)
	g, server := startGateway(t, e, nil)
	for _, streamed := range []bool{true, false} {
		ctx, leave := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() {
			defer close(done)
			body := fmt.Sprintf(`{%s,"n":2,"stream":%v}`, hello, streamed)
			req, _ := http.NewRequestWithContext(ctx, "POST", server.URL+"/v1/chat/completions", strings.NewReader(body))
			if resp, err := server.Client().Do(req); err == nil {
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		}()
		r := <-e.submitted
		e.send(delta{seq: r.Request.Seq(0), text: "one", tokens: 1, finish: schemas.FinishStop}, delta{seq: r.Request.Seq(1), text: "one", tokens: 1})
		leave()
		<-done
		left := time.Now()
		eventually(t, "the unfinished choice is cancelled", func() bool { return e.isCancelled(r.Request.Seq(1)) })
		t.Logf("stream %v: cancelled %s after the client left", streamed, time.Since(left).Round(time.Microsecond))
		if e.isCancelled(r.Request.Seq(0)) {
			t.Error("the finished choice was cancelled too")
		}
		settled(t, g, e)
		if gone := e.send(delta{seq: r.Request.Seq(1), text: "two", tokens: 2}); len(gone) != 1 || gone[0] != uint64(r.Request.Seq(1)) {
			t.Errorf("forgotten: %v", gone)
		}
	}
}

func TestRepeatedAndLateBatchesChangeNothing(t *testing.T) {
	e := startEngine(t, nil)
	g, server := startGateway(t, e, nil)
	go func() {
		seq := (<-e.submitted).Request.Seq(0)
		one, two := delta{seq: seq, text: "one", tokens: 1}, delta{seq: seq, text: " two", tokens: 2}
		e.send(one)
		e.send(one) // repeated
		e.send(two)
		e.send(one) // late
		e.send(two, delta{seq: seq, text: " three", tokens: 3}, delta{seq: seq, text: "!", tokens: 3, finish: schemas.FinishStop})
		e.send(delta{seq: seq, text: "?", tokens: 4})
		e.send(delta{seq: seq, text: "?", tokens: 4, finish: schemas.FinishStop})
	}()
	_, body := post(t, server, "/v1/chat/completions", `{`+hello+`}`)
	c := decode[schemas.ChatCompletion](t, body)
	if c.Choices[0].Message.Content != "one two three!" || c.Usage.CompletionTokens != 3 {
		t.Fatalf("%s", body)
	}
	settled(t, g, e)
}

func TestMalformedBatchIsRefused(t *testing.T) {
	e := startEngine(t, nil)
	startGateway(t, e, nil)
	b := batchOf(delta{seq: 256, text: "x", tokens: 1})
	b.Cached = nil
	if _, err := e.gate.Call(context.Background(), b); schemas.AsError(err, "").Param != "cached" {
		t.Fatal(err)
	}
}

func TestEngineErrorsReachTheClient(t *testing.T) {
	e := startEngine(t, nil)
	g, server := startGateway(t, e, nil)
	broken := schemas.Errorf(schemas.KindInternal, "step", "the device is on fire")
	fail := func() {
		r := <-e.submitted
		e.send(delta{seq: r.Request.Seq(0), text: "one", tokens: 1}, delta{seq: r.Request.Seq(1), finish: schemas.FinishError, err: broken})
	}
	go fail()
	resp, body := post(t, server, "/v1/chat/completions", `{`+hello+`,"n":2}`)
	if resp.StatusCode != 500 || !strings.Contains(string(body), "on fire") {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	go fail()
	_, body = post(t, server, "/v1/chat/completions", `{`+hello+`,"n":2,"stream":true}`)
	if !strings.Contains(string(body), `"content":"one"`) || !strings.Contains(string(body), `data: {"error":{"message":"the device is on fire","type":"server_error"`) || !strings.HasSuffix(string(body), "data: [DONE]\n\n") {
		t.Errorf("%s", body)
	}
	settled(t, g, e)

	e.refuse = func(*schemas.SubmitRequest) *schemas.Error {
		err := schemas.Errorf(schemas.KindOverloaded, "submit", "the queue is full")
		err.RetryAfterMs = 2500
		return err
	}
	resp, body = post(t, server, "/v1/chat/completions", `{`+hello+`,"stream":true}`)
	if resp.StatusCode != 429 || resp.Header.Get("Retry-After") != "3" || !strings.Contains(string(body), `"type":"rate_limit_error"`) {
		t.Errorf("%d %v %s", resp.StatusCode, resp.Header, body)
	}
	settled(t, g, e)
}

// A request whose second prompt is refused must not leave the first one running.
func TestHalfSubmittedRequestIsTakenBack(t *testing.T) {
	e := startEngine(t, nil)
	g, server := startGateway(t, e, nil)
	count := 0
	e.refuse = func(*schemas.SubmitRequest) *schemas.Error {
		if count++; count > 1 {
			return schemas.Errorf(schemas.KindOverloaded, "submit", "the queue is full")
		}
		return nil
	}
	resp, body := post(t, server, "/v1/completions", `{"prompt":["a","b","c"]}`)
	if resp.StatusCode != 429 {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	first := (<-e.submitted).Request.Seq(0)
	eventually(t, "the first prompt is cancelled", func() bool { return e.isCancelled(first) })
	settled(t, g, e)
}

func TestNotReadyUntilTheEngineAnswers(t *testing.T) {
	node, err := bus.Start(bus.Options{Listen: "none"})
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	g, err := New(node, Config{Scheduler: "replica0", Tokenizer: "tokenizer0"})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Start(); err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	refused := g.ready()
	if refused == nil || refused.Kind != schemas.KindUnavailable || !strings.Contains(refused.Detail, "replica0 has not answered") {
		t.Fatalf("got %v", refused)
	}
}

// A scheduler that forgot a request (it was restarted) is asked again, and the answer goes on.
func TestStalledRequestIsSubmittedAgain(t *testing.T) {
	e := startEngine(t, nil)
	g, server := startGateway(t, e, func(c *Config) { c.StallTimeMax = 20 * time.Millisecond })
	go func() {
		seq := (<-e.submitted).Request.Seq(0)
		e.send(delta{seq: seq, text: "one", tokens: 1})
		again := <-e.submitted
		if again.Request.Seq(0) != seq {
			t.Errorf("%v was submitted instead of %v", again.Request, seq)
		}
		e.send(delta{seq: seq, text: "one", tokens: 1}, delta{seq: seq, text: " two", tokens: 2, finish: schemas.FinishLength})
	}()
	_, body := post(t, server, "/v1/completions", `{"prompt":"a"}`)
	if c := decode[schemas.Completion](t, body); c.Choices[0].Text != "one two" {
		t.Fatalf("%s", body)
	}
	settled(t, g, e)
}

func TestKeepAlive(t *testing.T) {
	e := startEngine(t, nil)
	g, server := startGateway(t, e, func(c *Config) { c.KeepAliveEvery = 5 * time.Millisecond })
	_, events := stream(t, context.Background(), server.URL, "")
	seq := (<-e.submitted).Request.Seq(0)
	for events.Scan() {
		if events.Text() == ": keep-alive" {
			break
		}
	}
	e.send(delta{seq: seq, text: "x", tokens: 1, finish: schemas.FinishStop})
	if data := nextData(events); !strings.Contains(data, `"content":"x"`) {
		t.Fatalf("got %q", data)
	}
	settled(t, g, e)
}

func TestManyStreamsAtOnce(t *testing.T) { manyStreams(t, startEngine(t, recite)) }

// Messages that come twice, late and in another order do not change a single answer.
func TestManyStreamsOverABadNetwork(t *testing.T) {
	faults := bus.LossyNetwork(1, 0, 0.3, 0.3, 2*time.Millisecond)
	manyStreams(t, startEngineOn(t, bus.Options{RemoteOnly: true, Faults: faults}, recite))
	t.Log(faults)
}

func manyStreams(t *testing.T, e *engine) {
	g, server := startGateway(t, e, nil)
	var wait sync.WaitGroup
	for range 64 {
		wait.Go(func() {
			resp, err := server.Client().Post(server.URL+"/v1/completions", "application/json", strings.NewReader(`{"prompt":"a b","max_tokens":30,"n":2,"stream":true}`))
			if err != nil {
				t.Error(err)
				return
			}
			text := map[int]string{}
			for _, line := range strings.Split(readAll(resp), "\n") {
				if data, ok := strings.CutPrefix(line, "data: {"); ok {
					c := decode[schemas.Completion](t, []byte("{"+data)).Choices[0]
					text[c.Index] += c.Text
				}
			}
			want := strings.Repeat("w0 w1 w2 w3 w4 w5 w6 w7 w8 w9 ", 3)
			if text[0] != want || text[1] != want {
				t.Errorf("got %v", text)
			}
		})
	}
	wait.Wait()
	e.playing.Wait() // a row's receipt may still be on its way
	// A late copy of an Encode opens a session again, which only the tokenizer's clock can close.
	eventually(t, "no request is left", func() bool { return g.requests.count() == 0 })
	server.Client().CloseIdleConnections()
}

// A sequence that was cancelled in the engine, by somebody else, ends the request.
func TestCancelledInTheEngine(t *testing.T) {
	e := startEngine(t, nil)
	g, server := startGateway(t, e, nil)
	go func() {
		r := <-e.submitted
		e.send(delta{seq: r.Request.Seq(0), tokens: 3, finish: schemas.FinishCancel})
	}()
	resp, body := post(t, server, "/v1/completions", `{"prompt":"a","n":2}`)
	if resp.StatusCode != 499 || !strings.Contains(string(body), "cancelled after 3 tokens") {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	settled(t, g, e)
}
