package conform

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

func startBus(t *testing.T) *bus.Node {
	t.Helper()
	node, err := bus.Start(bus.Options{Listen: "127.0.0.1:0", Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(node.Close)
	return node
}

func report(t *testing.T, node *bus.Node, o Options) *Report {
	t.Helper()
	conn, err := nats.Connect(node.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	o.Limit, o.Random, o.Seed = time.Second, 10, 1
	r, err := Scheduler(t.Context(), conn, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// inOrder is cheap, and independent of the rows' order.
func inOrder(q *schemas.RankRequest) schemas.I32 {
	order := make(schemas.I32, len(q.Seq))
	for row, arrival := range q.Arrival {
		if int(arrival) >= len(order) || arrival < 0 {
			return nil
		}
		order[arrival] = int32(row)
	}
	return order
}

func TestAPolicyThatConforms(t *testing.T) {
	node := startBus(t)
	serve(t, node.URL(), "good", inOrder)
	for _, asJSON := range []bool{false, true} {
		r := report(t, node, Options{Subject: "good", JSON: asJSON, Recorded: []*schemas.RankRequest{queue(rand.New(rand.NewPCG(1, 1)), 9)}})
		var text bytes.Buffer
		if err := r.Print(&text); err != nil || !r.Passed() || !strings.Contains(text.String(), "it conforms") || r.TripP50 <= 0 {
			t.Errorf("JSON %v: %s %v", asJSON, &text, err)
		}
	}
}

func TestPoliciesThatDoNot(t *testing.T) {
	node := startBus(t)
	turn := int32(0)
	for name, c := range map[string]struct {
		rank   func(*schemas.RankRequest) schemas.I32
		failed string
	}{
		"short":  {func(q *schemas.RankRequest) schemas.I32 { return inOrder(q)[min(1, len(q.Seq)):] }, "permutation"},
		"double": {func(q *schemas.RankRequest) schemas.I32 { return make(schemas.I32, len(q.Seq)) }, "permutation"},
		"moody": {func(q *schemas.RankRequest) schemas.I32 {
			order := inOrder(q)
			turn++
			if n := int32(len(order)); n > 1 {
				order[0], order[1+turn%(n-1)] = order[1+turn%(n-1)], order[0]
			}
			return order
		}, "deterministic"},
		"by-row": {func(q *schemas.RankRequest) schemas.I32 {
			order := make(schemas.I32, len(q.Seq))
			for i := range order {
				order[i] = int32(i)
			}
			return order
		}, "row order"},
		"late": {func(q *schemas.RankRequest) schemas.I32 {
			if len(q.Seq) == 50 {
				time.Sleep(1100 * time.Millisecond)
			}
			return inOrder(q)
		}, "in time"},
	} {
		serve(t, node.URL(), name, c.rank)
		r := report(t, node, Options{Subject: name})
		var text bytes.Buffer
		if err := r.Print(&text); err != nil {
			t.Fatal(err)
		}
		failed := ""
		for _, check := range r.Checks {
			if !check.Passed {
				failed = check.Name
				break
			}
		}
		if failed != c.failed || r.Passed() || !strings.Contains(text.String(), "it does not conform") {
			t.Errorf("%s: %q failed first, want %q:\n%s", name, failed, c.failed, &text)
		}
	}
}

func TestAPolicyThatTakesAnything(t *testing.T) {
	node := startBus(t)
	conn, err := nats.Connect(node.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	if _, err := conn.Subscribe("lab.any", func(m *nats.Msg) {
		q := &schemas.RankRequest{}
		_ = bus.Unmarshal(m.Data, q) // takes what it can
		answer, _ := schemas.MarshalMap(&schemas.RankReply{Number: q.Number, Order: inOrder(q)})
		_ = m.Respond(answer)
	}); err != nil {
		t.Fatal(err)
	}
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	r := report(t, node, Options{Subject: "lab.any"})
	for _, c := range r.Checks {
		if c.Passed == (c.Name == "refusals") {
			t.Errorf("%+v", c)
		}
	}
}

func TestNobodyToAsk(t *testing.T) {
	node := startBus(t)
	conn, err := nats.Connect(node.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for subject, want := range map[string]string{"nobody": "nobody answers", "inf.v1.memory.reserve": "belongs to others", "": "is empty"} {
		if _, err := Scheduler(t.Context(), conn, Options{Subject: subject, Limit: time.Second}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want %q", subject, err, want)
		}
	}
}
