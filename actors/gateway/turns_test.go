package gateway

import (
	"context"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/troupe-engine/troupe/schemas"
)

func TestTurnsKnowTheWait(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	turns := turns{slots: 4}
	near := func(what string, want time.Duration) {
		t.Helper()
		if got := turns.wait(now); got < want*8/10 || got > want*12/10 {
			t.Errorf("%s: a wait of %s, expected %s", what, got, want)
		}
	}
	// pass lets choices begin, and others end and come, at random moments.
	random := rand.New(rand.NewPCG(1, 2))
	pass := func(d, every time.Duration) {
		for end := now.Add(d); now.Before(end); now = now.Add(time.Duration(random.Float64() * 2 * float64(every))) {
			turns.begin(now)
			turns.change(-1, now)
			turns.change(1, now)
		}
	}
	near("nobody is there", 0)
	turns.change(3, now)
	pass(time.Second, 10*time.Millisecond)
	near("one slot is free", 0)
	turns.change(1, now)
	near("nobody has waited yet", 0)
	turns.change(50, now)
	pass(20*time.Second, 10*time.Millisecond)
	near("50 wait, 100 a second begin", 510*time.Millisecond)
	pass(20*time.Second, 50*time.Millisecond)
	near("20 a second begin", 2550*time.Millisecond)
	turns.change(-54, now)
	now = now.Add(time.Hour)
	near("all are gone", 0)
	turns.change(54, now)
	near("as many again, after an hour in which there was nothing to measure", 2550*time.Millisecond)
	now = now.Add(30 * time.Second)
	if got := turns.wait(now); got < 100*time.Second {
		t.Errorf("nothing has begun for 30 s, and 51 requests are expected to take only %s", got)
	}
}

// A request that would wait too long is refused, over HTTP and over NATS, and told when to come back. Once those before
// it are gone, it is welcome at once.
func TestLongWaitsAreRefused(t *testing.T) {
	e := startEngine(t, nil)
	e.info.SequencesMax = 1
	g, server := startGateway(t, e, func(c *Config) { c.WaitMax = 20 * time.Millisecond })
	ctx, leave := context.WithCancel(context.Background())
	defer leave()
	for range 2 { // one has its turn, the other waits
		stream(t, ctx, server.URL, "")
	}
	first := (<-e.submitted).Request.Seq(0)
	second := (<-e.submitted).Request.Seq(0)
	e.send(delta{seq: first, text: "a", tokens: 1})
	eventually(t, "the wait is too long", func() bool { return g.requests.waitsMax() > 5*time.Second || g.requests.refuse("") != nil })
	resp, body := post(t, server, "/v1/completions", `{"prompt":"a"}`)
	after, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
	if resp.StatusCode != http.StatusTooManyRequests || after < 1 || !strings.Contains(string(body), "for its turn; the limit is 20ms") {
		t.Errorf("%d, Retry-After %d, %s", resp.StatusCode, after, body)
	}
	m, err := client(t, e).Request("inf.v1.chat", []byte(`{`+hello+`}`), 5*time.Second)
	if err != nil || m.Header.Get("Retry-After") == "" || !strings.Contains(string(m.Data), "for its turn") {
		t.Errorf("over NATS: %v %s %v", m.Header, m.Data, err)
	}
	e.send(delta{seq: first, tokens: 2, finish: schemas.FinishStop}, delta{seq: second, tokens: 1, finish: schemas.FinishStop})
	eventually(t, "both are gone", func() bool { return g.requests.count() == 0 })
	e.play = recite
	if resp, body := post(t, server, "/v1/completions", `{"prompt":"a"}`); resp.StatusCode != 200 {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	settled(t, g, e)
}
