package troupe

import (
	"bufio"
	"bytes"
	"flag"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/troupe-engine/troupe/internal/link"
)

var latencyRounds = flag.Int("latency.rounds", 3, "rounds of TestFirstTokenOverANetwork, of 20 requests for each latency")

// firstToken is how long a request takes to its first event with text.
func firstToken(t *testing.T) time.Duration {
	t.Helper()
	from := time.Now()
	resp, err := http.Post(clientHubURL+"/v1/completions", "application/json", strings.NewReader(`{"prompt":"Once upon a time","max_tokens":2,"stream":true,"ignore_eos":true}`))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if bytes.Contains(lines.Bytes(), []byte(`"text":"`)) {
			took := time.Since(from)
			for lines.Scan() { // the connection serves the next one
			}
			return took
		}
	}
	t.Fatal("no token came")
	return 0
}

// TestFirstTokenOverANetwork measures what a network between hub and replica costs the first token: one round trip, however
// long that is. The wire's own cost is in both figures.
func TestFirstTokenOverANetwork(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long")
	}
	c := &netChaos{t: t, rng: rand.New(rand.NewPCG(1, 33)), wire: link.NewWire(1)}
	c.open(1)
	waitFor(t, "the replica answers", func() bool { return askHub(`{"prompt":"Once","max_tokens":1,"stream":true}`).text != "" })
	delays := []time.Duration{0, time.Millisecond, 10 * time.Millisecond} // one way
	took := make([][]time.Duration, len(delays))
	for range *latencyRounds {
		for i, delay := range delays { // in turn: the machine may be busy
			c.wire.Set(0, delay, 0)
			for range 20 {
				took[i] = append(took[i], firstToken(t))
			}
		}
	}
	median := func(i int) time.Duration { slices.Sort(took[i]); return took[i][len(took[i])/2] }
	base := median(0)
	for i, delay := range delays[1:] {
		more := median(i+1) - base
		t.Logf("%s each way: the median first token comes %s later (%s without)", delay, more.Round(10*time.Microsecond), base.Round(10*time.Microsecond))
		if delay == 10*time.Millisecond && more > 35*time.Millisecond {
			t.Errorf("a round trip of 20 ms costs the first token %s: there is more than one before it", more)
		}
	}
}
