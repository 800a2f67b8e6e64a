package troupe

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/internal/soak"
	"github.com/troupe-engine/troupe/schemas"
)

// extraOf is what the last object of an answer says in its field troupe.
type extraOf struct {
	Object   string         `json:"object"`
	Troupe   *schemas.Extra `json:"troupe"`
	Error    any            `json:"error"`
	Response *struct {      // of an event of /v1/responses
		Troupe *schemas.Extra `json:"troupe"`
	} `json:"response"`
}

// subjects are where NATS clients ask what HTTP clients ask at paths.
var subjects = map[string]string{"/v1/chat/completions": "inf.v1.chat", "/v1/completions": "inf.v1.generate", "/v1/responses": "inf.v1.responses",
	"/v1/embeddings": "inf.v1.embed"}

// askLedger asks for an answer and its ledger, and says how long that took the client.
func askLedger(t testing.TB, e *Engine, c *soak.Client, path string, body map[string]any, overHTTP bool) (*schemas.RequestLedger, time.Duration) {
	t.Helper()
	body["troupe"] = map[string]any{"ledger": true}
	raw := marshal(t, body)
	stream, _ := body["stream"].(bool)
	var objects [][]byte
	began := time.Now()
	switch {
	case overHTTP:
		resp, err := http.Post(e.HTTPURL()+path, "application/json", bytes.NewReader(raw))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		all, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%d %s %v", resp.StatusCode, all, err)
		}
		if !stream {
			objects = [][]byte{all}
			break
		}
		for lines := bufio.NewScanner(bytes.NewReader(all)); lines.Scan(); {
			if data, ok := strings.CutPrefix(lines.Text(), "data: {"); ok {
				objects = append(objects, []byte("{"+data))
			}
		}
	case stream:
		r, err := bus.OpenStream(c.Conn, subjects[path], raw, map[string][]string{"Content-Type": {"application/json"}})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		for {
			object, err := r.Next(t.Context())
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			objects = append(objects, object)
		}
	default:
		objects = [][]byte{askNATS(t, c, subjects[path], string(raw)).Data}
	}
	took := time.Since(began)
	for i, object := range objects {
		var x extraOf
		if err := json.Unmarshal(object, &x); err != nil || x.Error != nil {
			t.Fatalf("%s: %v", object, err)
		}
		if x.Response != nil {
			x.Troupe = x.Response.Troupe
		}
		last := i == len(objects)-1
		if (x.Troupe != nil) != last {
			t.Fatalf("object %d of %d has the ledger: %v; expected it in the last: %s", i+1, len(objects), x.Troupe != nil, object)
		}
		if last {
			return x.Troupe.Ledger, took
		}
	}
	t.Fatal("no answer")
	return nil, 0
}

// addsUp holds a ledger to its promise: parts that are not negative and add up to the wall time within 1 %.
func addsUp(t testing.TB, name string, l *schemas.RequestLedger) {
	t.Helper()
	sum := 0.0
	for _, p := range l.Parts() {
		if p.Us < 0 || math.IsNaN(p.Us) {
			t.Errorf("%s: %s is %v µs", name, p.Name, p.Us)
		}
		sum += p.Us
	}
	if math.Abs(sum-l.Wall) > l.Wall/100 {
		t.Errorf("%s: the parts add up to %.0f µs of %.0f: %+v", name, sum, l.Wall, l)
	}
}

// TestLedgersAddUp: over HTTP and NATS, whole and streamed, chat and completions, in process and with every actor behind NATS.
func TestLedgersAddUp(t *testing.T) {
	for name, n := range map[string]network{"in process": {}, "over NATS": {remoteOnly: true}} {
		t.Run(name, func(t *testing.T) {
			e := openOn(t, n, nil)
			c := clientOf(t, e)
			complete(t, e, `{"prompt": "warm up", "max_tokens": 4}`)
			for _, overHTTP := range []bool{true, false} {
				for _, stream := range []bool{true, false} {
					for path, body := range map[string]map[string]any{
						"/v1/completions":      {"prompt": []string{"Once upon a time", "The king"}, "n": 2, "max_tokens": 60, "ignore_eos": true},
						"/v1/chat/completions": {"messages": []any{map[string]any{"role": "user", "content": "Tell me a story."}}, "max_tokens": 120, "ignore_eos": true},
						"/v1/responses":        {"input": "Tell me a story.", "max_output_tokens": 120, "seed": 3},
						"/v1/embeddings":       {"input": slices.Repeat([]string{strings.Repeat("Once upon a time ", 40)}, 16)},
					} {
						if path == "/v1/embeddings" {
							if stream {
								continue // there are no streams of them
							}
						} else {
							body["stream"] = stream
						}
						l, took := askLedger(t, e, c, path, body, overHTTP)
						addsUp(t, path, l)
						if l.Device < l.Wall/20 || l.Tokenize == 0 || l.Bus == 0 || l.Gateway == 0 || l.Launch == 0 || l.Schedule == 0 || l.Memory == 0 || l.Detokenize == 0 {
							t.Errorf("%s: a part is missing: %+v", path, l)
						}
						if n.remoteOnly != (l.Serialize > 0) || stream != (l.Send > 0) {
							t.Errorf("%s, stream %v: serialize %v µs, send %v µs", path, stream, l.Serialize, l.Send)
						}
						if us := float64(took.Microseconds()); l.Wall > us {
							t.Errorf("%s: the wall time is %.0f µs, the client waited %.0f", path, l.Wall, us)
						}
						if l.Idle > l.Wall/4 { // it is not where the rest is put; machines that do other things leave gaps
							t.Errorf("%s: nobody accounts for %.0f of %.0f µs: %+v", path, l.Idle, l.Wall, l)
						}
						t.Logf("http %v stream %v %s: client %v, %+v", overHTTP, stream, path, took, *l)
					}
				}
			}
			if answer, err := c.Post(t.Context(), "/v1/completions", []byte(`{"prompt": "x", "troupe": {"leger": true}}`), nil); err != nil || answer.Status != 400 || !strings.Contains(answer.Detail, "leger") {
				t.Errorf("a misspelt wish: %v %v", answer, err)
			}
			if text := complete(t, e, `{"prompt": "x", "max_tokens": 2, "troupe": {}}`); text == "" {
				t.Error("no answer without a ledger")
			}
		})
	}
}

// TestLedgersNameTheCause: what slows a request down on purpose is found in the part of its name.
func TestLedgersNameTheCause(t *testing.T) {
	e := openOn(t, network{}, func(o *Options) { o.EnableFaults = true })
	c := clientOf(t, e)
	complete(t, e, `{"prompt": "warm up", "max_tokens": 4}`)
	for _, x := range []struct {
		rule string
		part string
		us   float64 // at least
	}{
		{`{"kind":"slow_device","subject":"inf.v1.compute.execute.*","probability":1,"delay_us":10000}`, "device", 8 * 10_000},
		{`{"kind":"out_of_blocks","subject":"inf.v1.memory.>","probability":1,"count_max":2}`, "queue", 50_000},
		{`{"kind":"delay","subject":"inf.v1.tokenizer.encode.*","probability":1,"delay_us":400000}`, "bus", 400_000 * 0.001},
		{`{"kind":"drop","subject":"inf.v1.gateway.deltas.*","probability":1,"count_max":1}`, "bus", 0},
	} {
		suffer := func() (*schemas.RequestLedger, time.Duration, []schemas.InjectedFault) {
			postFaults(t, e, `{"plan":{"seed":2,"rules":[`+x.rule+`]}}`)
			l, took := askLedger(t, e, c, "/v1/completions", map[string]any{"prompt": "Once", "max_tokens": 8, "ignore_eos": true}, true)
			drawn := e.node.FaultsState().Recent
			debug(t, e, http.MethodDelete, "/debug/faults", "")
			addsUp(t, x.rule, l)
			return l, took, drawn
		}
		l, took, drawn := suffer()
		least := x.us
		if l.Tokenize == 0 || l.Memory == 0 {
			t.Errorf("%s: a part is missing: %+v", x.rule, l)
		}
		if len(drawn) > 0 && drawn[0].Kind == schemas.FaultDelay {
			least = float64(drawn[0].DelayUs)
		}
		for _, p := range l.Parts() {
			if p.Name == x.part && p.Us < least {
				t.Errorf("%s: %s is %.0f µs, expected at least %.0f: %+v", x.rule, p.Name, p.Us, least, l)
			}
		}
		// A client may be late by itself, on a busy machine, but not always.
		lacks := func() bool { us := float64(took.Microseconds()); return us-l.Wall > max(us/50, 5000) }
		for again := 0; lacks(); again++ {
			if again == 20 {
				t.Errorf("%s: the client waited %s, the ledger has %.0f µs", x.rule, took, l.Wall)
				break
			}
			l, took, _ = suffer()
		}
		t.Logf("%s: client %v, %+v", x.rule, took, *l)
	}
}

// TestLedgersOfManyAtOnce: requests with and without a ledger, more than run at once, with preemption: each ledger adds up, and
// what waits knows that it waited.
func TestLedgersOfManyAtOnce(t *testing.T) {
	e := openOn(t, network{}, func(o *Options) { o.BlockSize, o.KVBlocks, o.SequencesMax, o.TokensStepMax = 8, 40, 4, 64 })
	c := clientOf(t, e)
	var all sync.WaitGroup
	var mu sync.Mutex
	queued := 0
	for i := range 24 {
		all.Go(func() {
			body := map[string]any{"prompt": strings.Repeat("so ", 1+i), "max_tokens": 30 + i, "ignore_eos": true, "stream": i%2 == 0, "n": 1 + i%3}
			if i%4 == 3 {
				if answer, err := c.Post(t.Context(), "/v1/completions", marshal(t, body), nil); err != nil || !answer.OK() {
					t.Errorf("%v %v", answer, err)
				}
				return
			}
			l, _ := askLedger(t, e, c, "/v1/completions", body, i%8 < 4)
			addsUp(t, "one of many", l)
			mu.Lock()
			defer mu.Unlock()
			if l.Queue > l.Wall/10 {
				queued++
			}
		})
	}
	all.Wait()
	if queued < 6 {
		t.Errorf("%d of 18 requests waited for a tenth of their time: 4 run at once", queued)
	}
	if _, err := c.WaitQuiet(t.Context()); err != nil {
		t.Error(err)
	}
}
