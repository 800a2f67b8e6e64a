package troupe

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
)

var (
	hostileClients = flag.Int("hostile.clients", 300, "idle event streams of TestHostileClients; a tenth of it are slow, and so on")
	hostileProbes  = flag.Int("hostile.probes", 40, "requests that are timed before and during each attack")
)

const (
	hostileOK     = "HTTP/1.1 200"
	hostileEngine = "TROUPE_TEST_HOSTILE_ENGINE" // set in the process that serves
	// What an idle connection may cost: its buffers (4 KiB each way), its goroutines and net/http's state of both.
	hostileConnBytesMax = 64 << 10
	hostileBytesMax     = 64 << 20 // besides, for what the requests made grow: heap, caches
	// What hostile clients may cost others: as much time again, and the time slice of a busy machine.
	hostileRatioMax = 2
	hostileSlice    = 30 * time.Millisecond
	hostileDrip     = time.Second // between the bytes of slow clients
)

// TestHostileClients times a client's requests while others hold connections open in every way that costs a server
// something: the engine, in a process of its own, keeps its memory within bounds, answers what is wrong with 4xx,
// and the client hardly notices.
func TestHostileClients(t *testing.T) {
	if os.Getenv(hostileEngine) != "" {
		serveHostile(t)
		return
	}
	h := startHostile(t)
	slack := 1
	if raceEnabled { // the race detector takes so much more time and memory
		slack = 10
	}
	before := h.probe()
	memory := h.memory()
	t.Logf("alone: p50 %s, p95 %s; the engine has %d MiB", before.p50, before.p95, memory>>20)
	for _, attack := range []struct {
		name    string
		clients int
		attack  func(n int) (stop func())
	}{
		{"idle event streams", *hostileClients, h.idleStreams},
		{"headers that never end", *hostileClients / 10, h.slowHeaders},
		{"bodies that never end", *hostileClients / 10 * 4, h.slowBodies},
		{"the same, over HTTP/2", *hostileClients / 10 * 4, h.slowStreams},
		{"headers of 1 MB", 4, h.largeHeaders},
		{"deep JSON", 4, h.deepJSON},
		{"streams that are reset", 4, h.resets},
	} {
		stop := attack.attack(attack.clients)
		during := h.probe()
		grown := h.memory() - memory
		stop()
		t.Logf("%-24s %5d clients: p50 %s (%.2f times), p95 %s (%.2f times); %d MiB more", attack.name, attack.clients, during.p50,
			ratio(during.p50, before.p50), during.p95, ratio(during.p95, before.p95), grown>>20)
		if limit := before.p50*hostileRatioMax + hostileSlice*time.Duration(slack); during.p50 > limit {
			t.Errorf("%s: half the requests take more than %s; want at most %s", attack.name, during.p50, limit)
		}
		if limit := int64(slack) * int64(hostileBytesMax+*hostileClients*hostileConnBytesMax); grown > limit {
			t.Errorf("%s: the engine has grown by %d bytes; want at most %d", attack.name, grown, limit)
		}
	}
	after := h.probe()
	t.Logf("afterwards: p50 %s (%.2f times), p95 %s; the engine has %d MiB", after.p50, ratio(after.p50, before.p50), after.p95, h.memory()>>20)
}

// serveHostile is the engine: it serves until its standard input ends.
func serveHostile(t *testing.T) {
	opts := DefaultOptions()
	opts.HTTP, opts.NATSListen = "127.0.0.1:0", "none"
	e, err := Open(context.Background(), opts, zerolog.New(os.Stderr).Level(zerolog.ErrorLevel), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	fmt.Printf("serving %s\n", e.HTTPURL())
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// hostileWorld is an engine in another process and what its clients do to it.
type hostileWorld struct {
	t       *testing.T
	url     string
	address string
	pid     int
	good    *http.Client
}

func startHostile(t *testing.T) *hostileWorld {
	cmd := exec.Command(os.Args[0], "-test.run=^TestHostileClients$", "-test.count=1")
	cmd.Env = append(os.Environ(), hostileEngine+"=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the engine ended with %v", err)
		}
	})
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if url, ok := strings.CutPrefix(lines.Text(), "serving "); ok {
			go func() { _, _ = io.Copy(io.Discard, out) }()
			return &hostileWorld{t: t, url: url, address: strings.TrimPrefix(url, "http://"), pid: cmd.Process.Pid, good: &http.Client{Timeout: time.Minute}}
		}
	}
	t.Fatal("the engine did not start")
	return nil
}

// memory is the engine's resident bytes.
func (h *hostileWorld) memory() int64 {
	out, err := exec.Command("ps", "-o", "rss=", "-p", strconv.Itoa(h.pid)).Output()
	kib, parseErr := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
	if err != nil || parseErr != nil {
		h.t.Skipf("SKIPPED: ps does not say how much memory a process of %s has: %v", runtime.GOOS, err)
	}
	return kib << 10
}

type latencies struct{ p50, p95 time.Duration }

func ratio(a, b time.Duration) float64 { return float64(a) / float64(b) }

// probe times a good client's requests, one after the other.
func (h *hostileWorld) probe() latencies {
	h.t.Helper()
	const body = `{"prompt":"Once upon a time","max_tokens":8,"temperature":0,"ignore_eos":true}`
	var took []time.Duration
	for range *hostileProbes {
		began := time.Now()
		resp, err := h.good.Post(h.url+"/v1/completions", "application/json", strings.NewReader(body))
		if err != nil {
			h.t.Fatal(err)
		}
		answer, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			h.t.Fatalf("a good client got %d %s %v", resp.StatusCode, answer, err)
		}
		took = append(took, time.Since(began))
		time.Sleep(10 * time.Millisecond)
	}
	slices.Sort(took)
	return latencies{took[len(took)/2], took[len(took)*95/100]}
}

// dial connects n clients that send the same bytes, and read the first peek bytes of what comes back.
func (h *hostileWorld) dial(n int, bytes string, peek int) []net.Conn {
	h.t.Helper()
	conns := make([]net.Conn, n)
	var all sync.WaitGroup
	places := make(chan struct{}, 64)
	for i := range conns {
		places <- struct{}{}
		all.Go(func() {
			defer func() { <-places }()
			conn, err := net.Dial("tcp", h.address)
			if err != nil {
				h.t.Error(err)
				return
			}
			_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
			_, _ = io.WriteString(conn, bytes)
			begin := make([]byte, peek)
			if _, err := io.ReadFull(conn, begin); err != nil || peek > 0 && string(begin) != hostileOK {
				h.t.Errorf("an idle client got %q, %v", begin, err)
			}
			conns[i] = conn
		})
	}
	all.Wait()
	return slices.DeleteFunc(conns, func(c net.Conn) bool { return c == nil })
}

func closeAll(conns []net.Conn) {
	for _, c := range conns {
		_ = c.Close()
	}
}

func hostilePost(path, header, body string, bytes int) string {
	return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\n\r\n%s", path, header, bytes, body)
}

// idleStreams are clients that asked for a stream, got it, and neither read nor leave.
func (h *hostileWorld) idleStreams(n int) func() {
	body := `{"prompt":"a","max_tokens":1,"stream":true}`
	var conns []net.Conn
	for len(conns) < n && !h.t.Failed() { // not more at once than the engine admits
		conns = append(conns, h.dial(min(n-len(conns), 256), hostilePost("/v1/completions", "", body, len(body)), len(hostileOK))...)
		for deadline := time.Now().Add(time.Minute); h.running() > 0; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				h.t.Fatalf("%d requests of idle clients are still running", h.running())
			}
		}
	}
	return func() { closeAll(conns) }
}

// running is how many requests the engine has.
func (h *hostileWorld) running() int64 {
	resp, err := h.good.Get(h.url + "/debug/gateway/state")
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	var state struct {
		Running int64 `json:"running"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&state); err != nil {
		h.t.Fatal(err)
	}
	return state.Running
}

// drip sends a byte on every connection from time to time, until stop.
func (h *hostileWorld) drip(conns []net.Conn, b string) (stop func()) {
	over := make(chan struct{})
	var dripping sync.WaitGroup
	dripping.Go(func() {
		for {
			select {
			case <-over:
				return
			case <-time.After(hostileDrip):
			}
			for _, c := range conns {
				_, _ = io.WriteString(c, b) // the engine may have closed it
			}
		}
	})
	return func() {
		close(over)
		dripping.Wait()
		closeAll(conns)
	}
}

func (h *hostileWorld) slowHeaders(n int) func() {
	return h.drip(h.dial(n, "POST /v1/completions HTTP/1.1\r\nHost: x\r\nX-Slow: ", 0), "a")
}

func (h *hostileWorld) slowBodies(n int) func() {
	return h.drip(h.dial(n, hostilePost("/v1/completions", "", `{"prompt":"`, 1<<20), 0), "a")
}

// slowStreams are n bodies that never end, in as few connections as HTTP/2 allows.
func (h *hostileWorld) slowStreams(n int) func() {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols}
	ctx, leave := context.WithCancel(context.Background())
	var asking sync.WaitGroup
	for range n {
		body, slow := io.Pipe()
		asking.Go(func() {
			defer body.Close()
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url+"/v1/completions", body)
			if err != nil {
				h.t.Error(err)
				return
			}
			if resp, err := transport.RoundTrip(req); err == nil { // 408, after a while
				resp.Body.Close()
			}
		})
		asking.Go(func() {
			for _, err := io.WriteString(slow, `{"prompt":"`); err == nil; _, err = io.WriteString(slow, "a") {
				select {
				case <-ctx.Done():
				case <-time.After(hostileDrip):
				}
			}
		})
	}
	time.Sleep(time.Second) // for the streams to be there
	return func() {
		leave()
		asking.Wait()
		transport.CloseIdleConnections()
	}
}

// again lets n clients make requests, one after the other, until stop. Each must be refused with one of statuses, or
// have its connection closed.
func (h *hostileWorld) again(n int, request string, statuses ...string) (stop func()) {
	over := make(chan struct{})
	var attacking sync.WaitGroup
	for range n {
		attacking.Go(func() {
			for {
				select {
				case <-over:
					return
				default:
				}
				conn, err := net.Dial("tcp", h.address)
				if err != nil {
					h.t.Error(err)
					return
				}
				_ = conn.SetDeadline(time.Now().Add(time.Minute))
				_, _ = io.WriteString(conn, request) // the engine may answer before it has read all
				line, err := bufio.NewReader(conn).ReadString('\n')
				if err == nil && !slices.ContainsFunc(statuses, func(s string) bool { return strings.HasPrefix(line, "HTTP/1.1 "+s) }) {
					h.t.Errorf("answered with %q; want %v", line, statuses)
				}
				conn.Close()
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	return func() {
		close(over)
		attacking.Wait()
	}
}

func (h *hostileWorld) largeHeaders(n int) func() {
	return h.again(n, hostilePost("/v1/completions", "X-Large: "+strings.Repeat("a", 1<<20)+"\r\n", "{}", 2), "431")
}

func (h *hostileWorld) deepJSON(n int) func() {
	var body bytes.Buffer
	body.WriteString(`{"messages":`)
	body.WriteString(strings.Repeat("[", 500_000))
	return h.again(n, hostilePost("/v1/chat/completions", "", body.String(), body.Len()), "400")
}

// resets are clients that leave as soon as they have asked for much.
func (h *hostileWorld) resets(n int) func() {
	body := `{"prompt":"a","max_tokens":1000,"n":4,"stream":true,"ignore_eos":true}`
	return h.again(n, hostilePost("/v1/completions", "", body, len(body)), "200")
}
