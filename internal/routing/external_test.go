package routing

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

func TestExternalNames(t *testing.T) {
	for name, want := range map[string]string{
		"nats:mine": "",
		"nats:lab.routing?limit=20ms&fallback=random": "fallback is \"random\"",
		"nats:lab.routing?limit=20ms&json":            "",
		"nats:":                                       "is empty",
		"nats:a b":                                    "no plain subject",
		"nats:inf.v1.gateway.x":                       "belongs to others",
		"nats:mine?limit=1h":                          "up to 1s",
		"nats:mine?limit=-1ms":                        "up to 1s",
		"nats:mine?wait":                              "no option \"wait\"",
		"nats:mine?%zz":                               "cannot be read",
		"nats:mine?fallback=nats:other":               "expected one of",
		"other":                                       "nats:NAME",
	} {
		p, err := NewPolicy(name, 1)
		if want == "" {
			if err != nil || p.Name() != name {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), want) || schemas.AsError(err, "").Param != "routing" {
			t.Errorf("%s: %v; want %q of routing", name, err, want)
		}
	}
}

// What another process says is followed while it makes sense, and a policy of ours chooses otherwise. One that fails is asked less.
func TestExternalChoosesOrItsFallbackDoes(t *testing.T) {
	r := fleet(t, 3, Options{Policy: "nats:mine?fallback=round-robin"})
	now := time.Unix(1000, 0).UnixNano()
	question := func() *Question {
		t.Helper()
		return r.Question(&Request{Model: "m", Session: "", Prompt: 40, BlockSize: blockSize}, now)
	}
	q := question()
	if m := q.Request; q.Subject != "inf.v1.policy.route.mine" || m.Model != "m" || m.Prompt != 40 || len(m.Replica) != 3 || m.Replica[1] != "r001" || m.Uncached[1] != 40 ||
		m.SequencesMax[2] != 8 || m.FreeBlocks[0] != 1024 || m.NowMs != 1_000_000 {
		t.Errorf("the question is %+v", m)
	}
	good := func(q *Question, choice int32) *Answer {
		return &Answer{Reply: &schemas.RouteReply{Number: q.Request.Number, Choice: choice}, Trip: time.Millisecond}
	}
	chosen, failed := r.Answer(q, good(q, 2), now)
	if chosen != "r002" || failed != nil {
		t.Fatalf("%q, %v", chosen, failed)
	}
	if got := route(t, r, &Request{Chosen: chosen}); got.Replica != "r002" {
		t.Errorf("the request went to %s", got.Replica)
	}
	if got := route(t, r, &Request{Chosen: "r002", Avoid: []schemas.Instance{"r002"}}); got.Replica != "r000" {
		t.Errorf("what it chose cannot take the request, which went to %s", got.Replica)
	}
	for name, a := range map[string]func(q *Question) *Answer{
		"nothing":          func(*Question) *Answer { return &Answer{} },
		"no replica":       func(q *Question) *Answer { return good(q, 3) },
		"below all":        func(q *Question) *Answer { return good(q, math.MinInt32) },
		"another question": func(*Question) *Answer { return &Answer{Reply: &schemas.RouteReply{Number: 1 << 60}} },
		"an error":         func(*Question) *Answer { return &Answer{Error: schemas.Errorf(schemas.KindInvalid, "route", "no")} },
		"late": func(*Question) *Answer {
			return &Answer{Error: schemas.Errorf(schemas.KindTimeout, "route", "no answer")}
		},
	} {
		q := question()
		if q == nil {
			t.Fatalf("%s: it is not asked", name)
		}
		if chosen, failed := r.Answer(q, a(q), now); chosen != "" || failed == nil {
			t.Errorf("%s: %q, %v", name, chosen, failed)
		}
		q = question()
		if chosen, failed := r.Answer(q, good(q, 1), now); chosen != "r001" || failed != nil {
			t.Errorf("after it, a good answer is %q, %v", chosen, failed)
		}
	}
	q = question()
	if _, failed := r.Answer(q, &Answer{Error: schemas.Errorf(schemas.KindUnavailable, "route", "nobody answers")}, now); failed == nil {
		t.Error("nobody answers, and that is no news")
	}
	if question() != nil {
		t.Error("one that is gone is asked at once")
	}
	now += externalPauseNs
	first := question()
	if first == nil || question() != nil {
		t.Error("one that was gone is asked once")
	}
	if _, failed := r.Answer(first, &Answer{Error: schemas.Errorf(schemas.KindUnavailable, "route", "nobody answers")}, now); failed != nil {
		t.Error("that it is still gone is news")
	}
	now += externalPauseNs
	q = question()
	if chosen, _ := r.Answer(q, good(q, 0), now); chosen != "r000" || question() == nil {
		t.Error("it is back, and not asked")
	}
	s := r.State()
	if s.Followed != 1 || s.Fell != 1 || s.Late != 1 || s.Absent != 2 || s.Invalid != 5 || s.Answered != 8 || s.TripMax != 1e6 || s.Fallback != "round-robin" || s.Reason != "" {
		t.Errorf("%+v", s)
	}
}

// Nobody is asked where there is nothing to choose, or where the session has chosen.
func TestExternalIsNotAskedForNothing(t *testing.T) {
	r := fleet(t, 1, Options{Policy: "nats:mine"})
	if r.Question(&Request{Prompt: 3}, 0) != nil {
		t.Error("asked about one replica")
	}
	set(t, r, Replica{Name: "r001"})
	if r.Question(&Request{Prompt: 3, Session: "s"}, 0) != nil {
		t.Error("asked about a session, which has its home")
	}
	if r.Question(&Request{Prompt: 3, Model: "other"}, 0) != nil {
		t.Error("asked about a model that nobody has")
	}
	if r.Question(&Request{Prompt: 3}, 0) == nil {
		t.Error("not asked about two")
	}
	if fleet(t, 2, Options{}).Question(&Request{Prompt: 3}, 0) != nil {
		t.Error("a policy of this process is asked over NATS")
	}
}

func FuzzRouteReply(f *testing.F) {
	good, err := schemas.MarshalMap(&schemas.RouteReply{Number: 7, Choice: 1})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"number":7,"choice":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		reply := &schemas.RouteReply{}
		if (&bus.Outside{Op: "route", ReplyBytesMax: externalReplyBytes}).Read(&nats.Msg{Data: data}, reply) != nil {
			return
		}
		q := &schemas.RouteRequest{Number: 7, Replica: []string{"a", "b"}}
		if checkReply(q, reply) == nil && reply.Choice != 0 && reply.Choice != 1 {
			t.Fatalf("%+v is taken for a choice", reply)
		}
	})
}
