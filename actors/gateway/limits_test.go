package gateway

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/micro"

	"github.com/troupe-engine/troupe/schemas"
)

func TestTooManyRequestsAreRefusedAtOnce(t *testing.T) {
	e := startEngine(t, nil)
	g, server := startGateway(t, e, func(c *Config) { c.RequestsMax = 1 })
	ctx, leave := context.WithCancel(context.Background())
	defer leave()
	stream(t, ctx, server.URL, "")
	first := <-e.submitted
	resp, body := post(t, server, "/v1/completions", `{"prompt":"a"}`) // the first does not end meanwhile
	if resp.StatusCode != 429 || resp.Header.Get("Retry-After") != "1" {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	// Not even the body is read: refusing must cost little. So it does not matter what is wrong with it.
	if resp, body := post(t, server, "/v1/completions", `{"prompt":`); resp.StatusCode != 429 {
		t.Fatalf("%d %s", resp.StatusCode, body)
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
		if took := time.Since(began); took > 20*time.Second {
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
	eventually(t, "new requests are refused", func() bool { return g.ready() != nil })
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

func TestSlowBodyTimesOutAndLargeBodyIsRefused(t *testing.T) {
	e := startEngine(t, nil)
	_, server := startGateway(t, e, func(c *Config) {
		c.HeaderTimeMax, c.BodyTimeMax, c.BodyBytesMax = 50*time.Millisecond, 50*time.Millisecond, 1000
	})
	for _, c := range []struct{ request, want string }{
		{"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{", "HTTP/1.1 408 "},
		{"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n{", "HTTP/1.1 413 "},
		{"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n7d0\r\n" + strings.Repeat(" ", 2000) + "\r\n0\r\n\r\n", "HTTP/1.1 413 "},
		{"GET / HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 100<<10) + "\r\n\r\n", "HTTP/1.1 431 "},
		{"GET / HTTP/1.1\r\nHost: x\r\n", ""}, // headers that never end: the connection is closed
	} {
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, c.request)
		_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		line, err := bufio.NewReader(conn).ReadString('\n')
		if !strings.HasPrefix(line, c.want) || (c.want == "" && !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET)) {
			t.Errorf("%.60q: got %q, %v; want %s", c.request, line, err, c.want)
		}
		conn.Close()
	}
}

// Most clients write all of a body before they read. They must get the refusal, not a broken connection.
func TestRefusedBodyIsReadToItsEnd(t *testing.T) {
	e := startEngine(t, nil)
	_, server := startGateway(t, e, func(c *Config) { c.BodyBytesMax, c.APIKeys = 1000, []string{"sk-first-key"} })
	const size = 16 << 20
	length := fmt.Sprintf("Content-Length: %d\r\n", size)
	for _, c := range []struct{ headers, body, want string }{
		{length + "Authorization: Bearer wrong\r\n", strings.Repeat(" ", size), "HTTP/1.1 401 "},
		{length + "Origin: https://evil.example\r\n", strings.Repeat(" ", size), "HTTP/1.1 403 "},
		{length, strings.Repeat(" ", size), "HTTP/1.1 413 "},
		{"Transfer-Encoding: chunked\r\n", fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", size, strings.Repeat(" ", size)), "HTTP/1.1 413 "},
		{"Content-Encoding: gzip\r\nContent-Length: 1000\r\n", strings.Repeat(" ", 1000), "HTTP/1.1 415 "},
		{length + "Expect: 100-continue\r\n", "", "HTTP/1.1 413 "},
	} {
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		key := "Authorization: Bearer sk-first-key\r\n"
		if strings.Contains(c.headers, "Authorization") {
			key = ""
		}
		if _, err := io.WriteString(conn, "POST /v1/completions HTTP/1.1\r\nHost: x\r\n"+c.headers+key+"\r\n"+c.body); err != nil {
			t.Errorf("%q: %v", c.headers, err)
		}
		if line, err := bufio.NewReader(conn).ReadString('\n'); !strings.HasPrefix(line, c.want) {
			t.Errorf("%q: got %q, %v; want %s", c.headers, line, err, c.want)
		}
		conn.Close()
	}
}

func TestRequestWithADeadlineOfItsOwn(t *testing.T) {
	e := startEngine(t, nil)
	g, server := startGateway(t, e, nil)
	resp, body := post(t, server, "/v1/completions", `{"prompt":"a","deadline_ms":40}`)
	if resp.StatusCode != 504 || !strings.Contains(string(body), "longer than 40ms") || !strings.Contains(string(body), "raise deadline_ms") {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	r := <-e.submitted
	if left := r.DeadlineMs - time.Now().UnixMilli(); left > 40 {
		t.Errorf("the scheduler was given %d ms", left)
	}
	eventually(t, "the sequence is cancelled", func() bool { return e.isCancelled(r.Request.Seq(0)) })
	if resp, body := post(t, server, "/v1/completions", `{"prompt":"a","deadline_ms":-1}`); resp.StatusCode != 400 || !strings.Contains(string(body), "deadline_ms") {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	settled(t, g, e)
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
