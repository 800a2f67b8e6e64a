package main

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe"
	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

// byArrival serves questions in the order of arrival.
func byArrival(t *testing.T, url, name string) {
	t.Helper()
	conn, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	if _, err := conn.Subscribe(schemas.RankSubjectPrefix+name, func(m *nats.Msg) {
		q, reply := &schemas.RankRequest{}, nats.NewMsg(m.Reply)
		if err := bus.Unmarshal(m.Data, q); err != nil || q.Version != 1 || len(q.Prompt) != len(q.Seq) || len(q.Arrival) != len(q.Seq) {
			reply.Header.Set("Nats-Service-Error-Code", "400")
		} else {
			order := make(schemas.I32, len(q.Seq))
			for row := range order {
				place := 0
				for _, arrival := range q.Arrival {
					if arrival < q.Arrival[row] {
						place++
					}
				}
				order[place] = int32(row)
			}
			reply.Data, _ = schemas.MarshalMap(&schemas.RankReply{Number: q.Number, Order: order})
		}
		_ = conn.PublishMsg(reply)
	}); err != nil {
		t.Fatal(err)
	}
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
}

// engineByArrival is an engine beside which a process serves the policy arrival.
func engineByArrival(t *testing.T) *troupe.Engine {
	t.Helper()
	opts := troupe.DefaultOptions()
	opts.HTTP, opts.NATSListen = "none", "127.0.0.1:0"
	engine, err := troupe.Open(t.Context(), opts, zerolog.Nop(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { engine.Close() })
	byArrival(t, engine.NATSURL(), "arrival")
	return engine
}

func TestPolicyCommands(t *testing.T) {
	engine := engineByArrival(t)
	for _, c := range []struct {
		args []string
		code int
		want []string
	}{
		{[]string{"policy"}, 0, []string{"fcfs decides", "deadline fair fcfs prefix priority shortest"}},
		{[]string{"policy", "shortest"}, 0, []string{"shortest decides"}},
		{[]string{"policy", "--json"}, 0, []string{`"active": "shortest"`}},
		{[]string{"policy", "none-such"}, 1, []string{`no scheduling policy "none-such"`, "hint: choose one of deadline"}},
		{[]string{"policy", "nats:inf.v1.memory.reserve"}, 1, []string{"belongs to others"}},
		{[]string{"policy", "nats:nobody?limit=7ms&fallback=fair"}, 0, []string{"fair stands in for it", "because: it has not answered yet", "limit 7ms", "tax per step"}},
		{[]string{"policy", "--replica", "replica7"}, 1, []string{"inf.v1.scheduler.policy.replica7"}},
		{[]string{"policy", "shadow"}, 0, []string{"there is no shadow"}},
		{[]string{"policy", "shadow", "fair"}, 0, []string{"fair watches nats:nobo", "predicted mean wait"}},
		{[]string{"policy", "shadow", "--json"}, 0, []string{`"policy": "fair"`}},
		{[]string{"policy", "shadow", "--off", "fair"}, 2, []string{"--off takes no name"}},
		{[]string{"policy", "shadow", "--off"}, 0, []string{"fair watches"}},
		{[]string{"policy", "shadow", "none-such"}, 1, []string{"none-such"}},
		{[]string{"conform", "scheduler"}, 2, []string{"--subject is missing"}},
		{[]string{"conform", "scheduler", "--subject", "nobody"}, 1, []string{"nobody answers", "hint: start the policy"}},
		{[]string{"conform", "scheduler", "--subject", "arrival", "--random", "5", "--limit", "5s"}, 0, []string{"ok    permutation", "it conforms"}},
		{[]string{"conform", "scheduler", "--subject", "arrival", "--random", "5", "--limit", "1ns"}, 1, []string{"FAIL  in time", "it does not conform: 1 of 6"}},
		{[]string{"conform", "scheduler", "--subject", "arrival", "--recording", "/nowhere.troupe"}, 1, []string{"nowhere.troupe"}},
	} {
		stdout, stderr, code := command(t, append(c.args, "--nats", engine.NATSURL())...)
		if code != c.code {
			t.Errorf("%q: exit code %d; want %d: %s%s", c.args, code, c.code, stdout, stderr)
		}
		for _, w := range c.want {
			if !strings.Contains(stdout+stderr, w) {
				t.Errorf("%q: %q is not in %s%s", c.args, w, stdout, stderr)
			}
		}
		for _, line := range strings.Split(stdout, "\n") {
			if n := utf8.RuneCountInString(line); n > columnsMax && !strings.Contains(line, `": `) {
				t.Errorf("%q: %d columns: %s", c.args, n, line)
			}
		}
	}
	if _, stderr, code := command(t, "policy", "--nats", "nats://127.0.0.1:1"); code != 1 || !strings.Contains(stderr, "hint") {
		t.Errorf("nobody there: %d, %s", code, stderr)
	}
}
