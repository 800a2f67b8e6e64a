package troupe

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
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

// answerOf is how long each token of one answer takes, but the first.
func answerOf(t *testing.T, tokens int) time.Duration {
	t.Helper()
	body := fmt.Sprintf(`{"prompt":"Once upon a time","max_tokens":%d,"stream":true,"ignore_eos":true}`, tokens)
	resp, err := http.Post(clientHubURL+"/v1/completions", "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var first, last time.Time
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if bytes.Contains(lines.Bytes(), []byte(`"text":"`)) {
			if last = time.Now(); first.IsZero() {
				first = last
			}
		}
	}
	if first.IsZero() {
		t.Fatal("no token came")
	}
	return last.Sub(first) / time.Duration(tokens-1)
}

// TestStepsOverANetwork measures what a network between scheduler and compute costs a step. Neither plans nor results wait for
// acknowledgements, so as many steps as the pipeline is deep share one round trip.
func TestStepsOverANetwork(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long")
	}
	const oneWay, tokens = time.Millisecond, 200
	for _, depth := range []int{1, 2, 4} {
		t.Run(fmt.Sprintf("depth %d", depth), func(t *testing.T) {
			t.Setenv(depthVariable, fmt.Sprint(depth))
			c := &netChaos{t: t, rng: rand.New(rand.NewPCG(1, 34)), wire: link.NewWire(1), parts: true}
			c.open(1)
			waitFor(t, "the compute answers", func() bool { return askHub(`{"prompt":"Once","max_tokens":1,"stream":true}`).text != "" })
			var took [2][]time.Duration
			for range 2 * *latencyRounds {
				for i, delay := range []time.Duration{0, oneWay} { // in turn: the machine may be busy
					c.wire.Set(0, delay, 0)
					took[i] = append(took[i], answerOf(t, tokens))
				}
			}
			for i := range took {
				slices.Sort(took[i])
			}
			near, far := took[0][len(took[0])/2], took[1][len(took[1])/2]
			t.Logf("a step takes %s, and over %s each way %s (medians)", near.Round(10*time.Microsecond), oneWay, far.Round(10*time.Microsecond))
			if depth > 1 && far-near > 2*oneWay {
				t.Errorf("a step over a round trip of %s takes %s longer: something waits for acknowledgements", 2*oneWay, far-near)
			}
		})
	}
}
