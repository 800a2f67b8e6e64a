package troupe

import (
	"encoding/json"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/micro"

	"github.com/troupe-engine/troupe/schemas"
)

// TestTryChangesNothing tries messages on every actor, over HTTP and NATS, well-formed and not. Each is answered, what is wrong
// is named, and no actor's state has changed by a byte.
func TestTryChangesNothing(t *testing.T) {
	e := openEngine(t, nil)
	c := clientOf(t, e)
	complete(t, e, `{"prompt": "Once upon a time", "max_tokens": 8}`)
	if _, err := c.WaitQuiet(t.Context()); err != nil {
		t.Fatal(err)
	}
	clock := regexp.MustCompile(`"ledger":\{[^}]*\}`) // the scheduler's grows with every tick of its clock
	states := func() string {
		var all strings.Builder
		for _, actor := range []string{"gateway", "tokenizer", "scheduler", "memory", "compute"} {
			status, body := debug(t, e, http.MethodGet, "/debug/"+actor+"/state", "")
			if status != 200 {
				t.Fatalf("%s: %d %s", actor, status, body)
			}
			all.Write(clock.ReplaceAll(body, nil))
		}
		return all.String()
	}
	before := states()
	for strings.Contains(before, `"weights_pending":true`) { // their digest is made in the background
		time.Sleep(10 * time.Millisecond)
		before = states()
	}
	for _, x := range []struct{ actor, body, contains string }{
		{"scheduler", `{"verb":"submit","message":{"request":"0000000000000100","choices":1,"tokens":[5,6,7],"max_tokens":4,"sampling":{"top_p":1},"tokenizer":"tokenizer0"}}`, `"reply":{"waiting":0}`},
		{"scheduler", `{"verb":"submit","message":{"request":"0000000000000100","choices":1,"tokens":[5,6,7],"max_tokens":4,"sampling":{"top_p":1},"tokenizer":"tokenizer0"}}`, `"reserve":{"epoch"`},
		{"scheduler", `{"verb":"submit","message":{"request":"0000000000000100","choices":1,"tokens":[99999999],"max_tokens":4,"sampling":{"top_p":1}}}`, `"param":"prompt"`},
		{"scheduler", `{"verb":"submit","message":{"request":"nonsense"}}`, `message.request`},
		{"scheduler", `{"verb":"cancel","message":{"seq":["0000000000000100"],"finish":9}}`, `finish is 9`},
		{"scheduler", `{"verb":"step_done","message":{"epoch":1,"step":1}}`, `"reply":{}`},
		{"scheduler", `{"verb":"policy","message":{"name":"shortest"}}`, `"active":"shortest"`},
		{"scheduler", `{"verb":"policy","message":{"name":"nothing"}}`, `no scheduling policy`},
		{"scheduler", `{"verb":"launch","message":{}}`, `expected one of cancel, policy, step_done, submit`},
		{"scheduler", `{"verb":"cancel"}`, `message is`},
		{"memory", `{"verb":"reserve","message":{"epoch":9000000000000000000,"step":1,"admit":[{"seq":"0000000000000100","tokens":[1,2,3]}],"tokens_max":8,"seq":["0000000000000100"],"want_max":[3],"may_preempt":[1]}}`, `"granted":[3]`},
		{"memory", `{"verb":"reserve","message":{"epoch":9000000000000000000,"step":1,"seq":["0000000000000100"],"want_max":[3,4]}}`, `"param":"want_max"`},
		{"memory", `{"verb":"eviction","message":{"name":"lfu"}}`, `"active":"lfu"`},
		{"memory", `{"verb":"prefixes","message":{}}`, `"available"`},
		{"compute", `{"verb":"execute","message":{"epoch":9000000000000000000,"step":1,"seq":["0000000000000100"],"slot":[0],"start":[0],"count":[2],"known":[2],"sample":[1],"tokens":[5,6],"block_from":[0],"block_count":[1],"blocks":[3]}}`, `"slot_mapping":[48,49]`},
		{"compute", `{"verb":"execute","message":{"epoch":9000000000000000000,"step":1,"seq":["0000000000000100"],"slot":[99],"start":[0],"count":[1],"known":[1],"sample":[1],"tokens":[5],"block_from":[0],"block_count":[1],"blocks":[3]}}`, `"param":"slot"`},
		{"tokenizer", `{"verb":"encode","message":{"prompt":"Once upon a time"}}`, `"reply":{"tokens":[`},
		{"tokenizer", `{"verb":"decode","message":{"tokens":[-4]}}`, `"error":`},
		{"tokenizer", `{"verb":"encode","message":{"prompt":"x","detok":{"gateway":"gateway0","scheduler":"replica0","choices":1}}}`, `"param":"detok"`},
		{"gateway", `{"verb":"chat","message":{"messages":[{"role":"user","content":"Hi"}],"n":2,"temperature":0}}`, `"choices":2`},
		{"gateway", `{"verb":"chat","message":{"messages":[{"role":"king","content":"Hi"}]}}`, `"param":"messages[0].role"`},
		{"gateway", `{"verb":"generate","message":{"prompt":"x","temprature":0}}`, `temprature`},
	} {
		_, body := debug(t, e, http.MethodPost, "/debug/"+x.actor+"/try", x.body)
		if !strings.Contains(string(body), x.contains) {
			t.Errorf("%s %s: %.600s; expected %s", x.actor, x.body, body, x.contains)
		}
		reply := askNATS(t, c, schemas.Try(x.actor).Subject(""), x.body)
		if !strings.Contains(string(reply.Data)+reply.Header.Get(micro.ErrorHeader), x.contains) {
			t.Errorf("%s over NATS %s: %.600s; expected %s", x.actor, x.body, reply.Data, x.contains)
		}
	}
	if after := states(); after != before {
		t.Errorf("the states were\n%s\nand are\n%s", before, after)
	}
}

func TestActorsShowThemselves(t *testing.T) {
	e := openEngine(t, nil)
	complete(t, e, `{"prompt": "Once upon a time", "max_tokens": 3}`)
	for _, actor := range []string{"gateway", "tokenizer", "scheduler", "memory", "compute"} {
		var health schemas.ActorHealth
		status, body := debug(t, e, http.MethodGet, "/debug/"+actor+"/health", "")
		if err := json.Unmarshal(body, &health); err != nil || status != 200 || !health.Healthy || !strings.HasPrefix(health.Actor, actor+".") {
			t.Errorf("%s/health: %d %s %v", actor, status, body, err)
		}
		var stats micro.Stats
		status, body = debug(t, e, http.MethodGet, "/debug/"+actor+"/counters", "")
		if err := json.Unmarshal(body, &stats); err != nil || status != 200 || stats.Name != actor || len(stats.Endpoints) == 0 {
			t.Errorf("%s/counters: %d %s %v", actor, status, body, err)
		}
		var examples map[string]struct{ Request, Reply json.RawMessage }
		status, body = debug(t, e, http.MethodGet, "/debug/"+actor+"/examples", "")
		if err := json.Unmarshal(body, &examples); err != nil || status != 200 || len(examples["state"].Reply) == 0 || len(examples["try"].Request) == 0 {
			t.Errorf("%s/examples: %d %.300s %v", actor, status, body, err)
		}
		if status, body := debug(t, e, http.MethodPost, "/debug/"+actor+"/counters", "{}"); status != 405 {
			t.Errorf("POST %s/counters: %d %s", actor, status, body)
		}
	}
	for path, status := range map[string]int{"/debug/janitor/examples": 404, "/debug/janitor/counters": 404, "/debug/scheduler/counters?instance=nobody": 503, "/debug/$SRV/counters": 404} {
		if got, body := debug(t, e, http.MethodGet, path, ""); got != status {
			t.Errorf("%s: %d %s; expected %d", path, got, body, status)
		}
	}
}
