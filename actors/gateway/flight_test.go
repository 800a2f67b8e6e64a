package gateway

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/micro"

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

func TestTooManyRequestsAreRefusedAtOnce(t *testing.T) {
	e := startEngine(t, nil)
	g, server := startGateway(t, e, func(c *Config) { c.RequestsMax = 1 })
	ctx, leave := context.WithCancel(context.Background())
	defer leave()
	stream(t, ctx, server.URL, "")
	first := <-e.submitted
	began := time.Now()
	resp, body := post(t, server, "/v1/completions", `{"prompt":"a"}`)
	if resp.StatusCode != 429 || resp.Header.Get("Retry-After") != "1" || time.Since(began) > time.Second {
		t.Fatalf("%d %s after %s", resp.StatusCode, body, time.Since(began))
	}
	e.send(delta{seq: first.Request.Seq(0), tokens: 1, finish: schemas.FinishStop})
	eventually(t, "there is room again", func() bool { return g.requests.count() == 0 })
	e.play = recite
	if resp, body := post(t, server, "/v1/completions", `{"prompt":"a"}`); resp.StatusCode != 200 {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	settled(t, g, e)
}

// A client that does not read loses its request; another client's stream does not notice.
func TestSlowClientIsCancelledAlone(t *testing.T) {
	e := startEngine(t, nil)
	g, server := startGateway(t, e, func(c *Config) { c.QueueBytesMax = 1 << 20 })
	// A raw connection with small buffers that never reads.
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.(*net.TCPConn).SetReadBuffer(4096)
	body := `{"prompt":"a","stream":true}`
	fmt.Fprintf(conn, "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	slow := (<-e.submitted).Request.Seq(0)

	ctx, leave := context.WithCancel(context.Background())
	defer leave()
	_, events := stream(t, ctx, server.URL, "")
	other := (<-e.submitted).Request.Seq(0)
	nextData(events) // the role
	text := strings.Repeat("x", 64<<10)
	for n := int32(1); n <= 1000 && !e.isCancelled(slow); n++ {
		began := time.Now()
		e.send(delta{seq: slow, text: text, tokens: n}, delta{seq: other, text: "y", tokens: n})
		if took := time.Since(began); took > 2*time.Second {
			t.Fatalf("a batch waited %s for the slow client", took)
		}
		if data := nextData(events); !strings.Contains(data, `"content":"y"`) {
			t.Fatalf("the other stream got %q", data)
		}
	}
	if !e.isCancelled(slow) || e.isCancelled(other) {
		t.Fatalf("slow cancelled: %v, other: %v", e.isCancelled(slow), e.isCancelled(other))
	}
	e.send(delta{seq: other, tokens: 2000, finish: schemas.FinishStop})
	settled(t, g, e)
}

func TestOverflowNamesItsReason(t *testing.T) {
	e := startEngine(t, nil)
	g, server := startGateway(t, e, func(c *Config) { c.QueueBytesMax = 10 })
	ctx, leave := context.WithCancel(context.Background())
	defer leave()
	_, events := stream(t, ctx, server.URL, "")
	seq := (<-e.submitted).Request.Seq(0)
	nextData(events)
	e.send(delta{seq: seq, text: "far too much text", tokens: 1})
	if data := nextData(events); !strings.Contains(data, "does not read: more than 10 bytes") {
		t.Fatalf("got %q", data)
	}
	eventually(t, "the sequence is cancelled", func() bool { return e.isCancelled(seq) })
	settled(t, g, e)
}

func TestDrainLetsStreamsFinish(t *testing.T) {
	e := startEngine(t, nil)
	g, server := startGateway(t, e, nil)
	_, events := stream(t, context.Background(), server.URL, "")
	seq := (<-e.submitted).Request.Seq(0)
	drained := make(chan error)
	go func() { drained <- g.Drain(context.Background()) }()
	eventually(t, "new requests are refused", func() bool { _, err := g.ready(); return err != nil })
	for _, path := range []string{"/v1/completions", "/v1/chat/completions"} {
		resp, body := post(t, server, path, map[string]string{"/v1/completions": `{"prompt":"a"}`, "/v1/chat/completions": `{` + hello + `}`}[path])
		if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" || !strings.Contains(string(body), "shutting down") {
			t.Errorf("%s: %d %s", path, resp.StatusCode, body)
		}
	}
	m, err := client(t, e).Request("inf.v1.chat", []byte(`{`+hello+`}`), 5*time.Second)
	if err != nil || m.Header.Get(micro.ErrorCodeHeader) != "503" || m.Header.Get("Retry-After") == "" {
		t.Errorf("over NATS: %v %v", m, err)
	}
	e.send(delta{seq: seq, text: "end", tokens: 1, finish: schemas.FinishStop})
	if err := <-drained; err != nil {
		t.Error(err)
	}
	all := ""
	for data := nextData(events); data != ""; data = nextData(events) {
		all += data
	}
	if !strings.Contains(all, `"content":"end"`) || !strings.HasSuffix(all, "[DONE]") {
		t.Errorf("the stream was %s", all)
	}
	settled(t, g, e)
}

func TestDrainEndsWhatTakesTooLong(t *testing.T) {
	e := startEngine(t, nil)
	g, server := startGateway(t, e, nil)
	_, events := stream(t, context.Background(), server.URL, "")
	seq := (<-e.submitted).Request.Seq(0)
	nextData(events)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := g.Drain(ctx); err == nil || !strings.Contains(err.Error(), "1 requests were cancelled") {
		t.Errorf("drain returned %v", err)
	}
	if data := nextData(events); !strings.Contains(data, "shutting down; the answer is incomplete") {
		t.Errorf("the stream got %q", data)
	}
	eventually(t, "the sequence is cancelled", func() bool { return e.isCancelled(seq) })
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
	_, refused := g.ready()
	if refused == nil || refused.Kind != schemas.KindUnavailable || !strings.Contains(refused.Detail, "replica0 has not answered") {
		t.Fatalf("got %v", refused)
	}
}

func TestSlowBodyTimesOutAndLargeBodyIsRefused(t *testing.T) {
	e := startEngine(t, nil)
	_, server := startGateway(t, e, func(c *Config) { c.BodyTimeMax, c.BodyBytesMax = 50*time.Millisecond, 1000 })
	for _, c := range []struct{ request, want string }{
		{"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{", "HTTP/1.1 408 "},
		{"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n{", "HTTP/1.1 413 "},
		{"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n7d0\r\n" + strings.Repeat(" ", 2000) + "\r\n0\r\n\r\n", "HTTP/1.1 413 "},
		{"GET / HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 100<<10) + "\r\n\r\n", "HTTP/1.1 431 "},
	} {
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, c.request)
		_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		line, err := bufio.NewReader(conn).ReadString('\n')
		if !strings.HasPrefix(line, c.want) {
			t.Errorf("%.60q: got %q, %v; want %s", c.request, line, err, c.want)
		}
		conn.Close()
	}
}

func TestRequestThatTakesTooLong(t *testing.T) {
	e := startEngine(t, nil)
	g, server := startGateway(t, e, func(c *Config) { c.RequestTimeMax = 30 * time.Millisecond })
	resp, body := post(t, server, "/v1/completions", `{"prompt":"a"}`)
	if resp.StatusCode != 504 || !strings.Contains(string(body), "longer than 30ms") {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	r := <-e.submitted
	eventually(t, "the sequence is cancelled", func() bool { return e.isCancelled(r.Request.Seq(0)) })
	if left := r.DeadlineMs - time.Now().UnixMilli(); left > 30 {
		t.Errorf("the scheduler was given %d ms", left)
	}
	settled(t, g, e)
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
	faults := &bus.Faults{Seed: 1, Duplicate: 0.3, Delay: 0.3, DelayMax: 2 * time.Millisecond}
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

// What a streamed token costs from the tokenizer's batch to the client's socket, with 16 streams at once.
func BenchmarkStreamedToken(b *testing.B) {
	const streams, tokens = 16, 60
	e := startEngine(b, recite)
	_, server := startGateway(b, e, nil)
	b.ReportAllocs()
	for b.Loop() {
		var wait sync.WaitGroup
		for range streams {
			wait.Go(func() {
				resp, err := server.Client().Post(server.URL+"/v1/chat/completions", "application/json", strings.NewReader(fmt.Sprintf(`{%s,"max_tokens":%d,"stream":true}`, hello, tokens)))
				if err != nil {
					b.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			})
		}
		wait.Wait()
		for len(e.submitted) > 0 {
			<-e.submitted
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*streams*tokens), "ns/token")
}

func BenchmarkEvent(b *testing.B) {
	a := newAnswer("chatcmpl-0000000000000100", 1, &job{chat: true, stream: true, n: 1, model: "troupe-tiny", prompts: make([]schemas.EncodeRequest, 1)})
	s := &eventStream{}
	rows := []row{{text: " word"}}
	b.ReportAllocs()
	for b.Loop() {
		rows[0].tokens++
		events, _ := a.step(rows)
		s.add(events[0])
		s.buffer.Reset()
	}
}

func BenchmarkDeliver256Rows(b *testing.B) {
	e := startEngine(b, nil)
	g, _ := startGateway(b, e, nil)
	batch := batchOf()
	for range 256 {
		j := &job{n: 1, prompts: make([]schemas.EncodeRequest, 1)}
		f := g.newFlight(context.Background(), g.newRequestID(), j)
		if err := g.requests.admit(f); err != nil {
			b.Fatal(err)
		}
		defer func() { f.abort(nil); f.free(); g.requests.remove(f) }()
		one := batchOf(delta{seq: f.id.Seq(0), text: " word"})
		batch.Seq, batch.Text, batch.Tokens = append(batch.Seq, one.Seq...), append(batch.Text, one.Text...), append(batch.Tokens, 0)
		batch.IDs, batch.Finish, batch.Cached = append(batch.IDs, 0), append(batch.Finish, 0), append(batch.Cached, 0)
	}
	b.ReportAllocs()
	for b.Loop() {
		for i := range batch.Tokens {
			batch.Tokens[i]++
		}
		ack, err := g.requests.deliver(batch, time.Now(), g.metrics)
		if err != nil || len(ack.Forgotten) > 0 {
			b.Fatal(err, ack)
		}
		for _, p := range g.requests.parts {
			p.flight.take()
		}
	}
}
