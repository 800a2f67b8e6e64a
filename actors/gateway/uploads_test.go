package gateway

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/troupe-engine/troupe/schemas"
)

// state is how many bytes bodies may still take, and how many are being read.
func (u *uploads) state() (left int64, active int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.left, u.active.Len()
}

// slowBody sends all but the last byte of a body.
func slowBody(t *testing.T, address string, bytes int) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", bytes, strings.Repeat(" ", bytes-1))
	return conn
}

func TestBodiesShareABudget(t *testing.T) {
	e := startEngine(t, recite)
	g, server := startGateway(t, e, func(c *Config) { c.BodyBytesMax, c.ReadBytesMax = 1000, 1500 })
	slow := slowBody(t, server.Listener.Addr().String(), 1000)
	defer slow.Close()
	eventually(t, "most of the budget is taken", func() bool { left, _ := g.uploads.state(); return left == 501 })
	large := `{"prompt":"` + strings.Repeat("a", 600) + `"}`
	if resp, body := post(t, server, "/v1/completions", large); resp.StatusCode != 429 || resp.Header.Get("Retry-After") == "" {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	if resp, body := post(t, server, "/v1/completions", `{"prompt":"a"}`); resp.StatusCode != 200 {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	time.Sleep(uploadSlow)
	if resp, body := post(t, server, "/v1/completions", large); resp.StatusCode != 200 {
		t.Errorf("a slow body keeps others out: %d %s", resp.StatusCode, body)
	}
	_ = slow.SetReadDeadline(time.Now().Add(5 * time.Second))
	if line, err := bufio.NewReader(slow).ReadString('\n'); !strings.HasPrefix(line, "HTTP/1.1 408 ") {
		t.Errorf("the slow one got %q, %v", line, err)
	}
	eventually(t, "the budget is whole again", func() bool { left, active := g.uploads.state(); return left == 1500 && active == 0 })
}

// However many clients send slowly, one that does not is served.
func TestSlowBodiesMakeRoom(t *testing.T) {
	e := startEngine(t, recite)
	g, server := startGateway(t, e, func(c *Config) { c.ConnectionsMax = 8 })
	for range 8 {
		defer slowBody(t, server.Listener.Addr().String(), 100).Close()
	}
	eventually(t, "all bodies are being read", func() bool { _, active := g.uploads.state(); return active == 8 })
	if resp, body := post(t, server, "/v1/completions", `{"prompt":"a"}`); resp.StatusCode != 429 {
		t.Errorf("%d %s; want 429 while nobody is slow yet", resp.StatusCode, body)
	}
	time.Sleep(uploadSlow)
	for range 3 {
		if resp, body := post(t, server, "/v1/completions", `{"prompt":"a"}`); resp.StatusCode != 200 {
			t.Errorf("%d %s", resp.StatusCode, body)
		}
	}
}

func TestAnExpelledBodyIsNotWhole(t *testing.T) {
	u := &uploads{left: 100, max: 1}
	var up *upload
	up = u.begin(readFunc(func(p []byte) (int, error) {
		up.began = up.began.Add(-uploadSlow) // while it waits for its last byte
		if u.begin(strings.NewReader(""), func() {}) == nil {
			t.Error("a slow body did not make room")
		}
		return 1, io.EOF
	}), func() {})
	if body, err := io.ReadAll(up); !errors.Is(err, errExpelled) || len(body) > 0 || !errors.Is(up.end(), errExpelled) {
		t.Errorf("read %q, %v", body, err)
	}
	if left, active := u.state(); left != 100 || active != 1 {
		t.Errorf("%d bytes left, %d bodies; want 100 and the other one", left, active)
	}
}

type readFunc func(p []byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

// A full house serves whoever comes next in place of a connection without a request, but never of one with a request.
func TestConnectionsAreBounded(t *testing.T) {
	e := startEngine(t, nil)
	g, _ := startGateway(t, e, func(c *Config) { c.ConnectionsMax = 2 })
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, done := g.HTTPServer(), make(chan error)
	go func() { done <- server.Serve(g.Listener(plain)) }()
	dial := func(request string) *bufio.Reader {
		conn, err := net.Dial("tcp", plain.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprint(conn, request)
		return bufio.NewReader(conn)
	}
	closed := func(conn *bufio.Reader) bool { _, err := io.Copy(io.Discard, conn); return err == nil }
	healthy := func() bool {
		line, err := dial("GET /health HTTP/1.1\r\nHost: x\r\n\r\n").ReadString('\n')
		return err == nil && strings.HasPrefix(line, "HTTP/1.1 200")
	}
	one := dial("GET /health HTTP/1.1\r\nHost: x\r\n\r\n") // all of them keep their connections
	two := dial("GET /hea")                                // never says what it wants
	if _, err := one.Peek(1); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if !healthy() {
			t.Error("silent connections keep others out")
		}
	}
	if !closed(one) || !closed(two) {
		t.Error("the silent connections are still there")
	}
	stream := `{"prompt":"a","stream":true}`
	stream = fmt.Sprintf("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(stream), stream)
	three, four := dial(stream), dial(stream)
	first, second := (<-e.submitted).Request.Seq(0), (<-e.submitted).Request.Seq(0)
	if healthy() {
		t.Error("a connection was served although two requests are under way")
	}
	e.send(delta{seq: first, text: "end", tokens: 1, finish: schemas.FinishStop}, delta{seq: second, text: "end", tokens: 1, finish: schemas.FinishStop})
	for _, conn := range []*bufio.Reader{three, four} {
		for line := ""; !strings.Contains(line, "[DONE]"); {
			if line, err = conn.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
		}
	}
	eventually(t, "there is room again", healthy)
	_ = server.Shutdown(context.Background())
	<-done
}
