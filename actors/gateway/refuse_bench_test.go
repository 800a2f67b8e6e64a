package gateway

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/troupe-engine/troupe/schemas"
)

// What a full server pays for a request that it refuses: on a connection that stays, and on one of its own.
func BenchmarkRefusal(b *testing.B) {
	e := startEngine(b, nil)
	g, _ := startGateway(b, e, func(c *Config) { c.RequestsMax = 1 })
	f := g.newFlight(b.Context(), g.newRequestID(), &job{api: completionAPI, serving: g.models.own, n: 1, prompts: make([]schemas.EncodeRequest, 1)})
	if err := g.requests.admit(f); err != nil {
		b.Fatal(err)
	}
	defer func() { f.abort(nil); f.free(); g.requests.remove(f) }()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	server := g.HTTPServer()
	go func() { _ = server.Serve(g.Listener(l)) }()
	defer server.Close()
	body := `{"prompt":[` + strings.Repeat("17,", 63) + `17],"max_tokens":64,"stream":true}`
	request := fmt.Appendf(nil, "POST /v1/completions HTTP/1.1\r\nHost: x\r\nUser-Agent: bench\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	connect := func() (net.Conn, *bufio.Reader) {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		return conn, bufio.NewReader(conn)
	}
	ask := func(conn net.Conn, from *bufio.Reader) {
		if _, err := conn.Write(request); err != nil {
			b.Fatal(err)
		}
		resp, err := http.ReadResponse(from, nil)
		if err != nil || resp.StatusCode != http.StatusTooManyRequests {
			b.Fatal(resp, err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
	}
	b.Run("kept", func(b *testing.B) {
		conn, from := connect()
		defer conn.Close()
		b.ReportAllocs()
		for b.Loop() {
			ask(conn, from)
		}
	})
	b.Run("new", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			conn, from := connect()
			ask(conn, from)
			conn.Close()
		}
	})
}
