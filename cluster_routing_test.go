package troupe

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

// A routing policy in another process has the say while it answers. When it goes, or is slow, requests wait for it no longer than
// its limit, and go where the fallback says; when it is back, it is asked again.
func TestARoutingPolicyMayBeAnotherProcess(t *testing.T) {
	list := asks(t, 81, 8, 40)
	hub := startHub(t, func(o *Options) { o.Routing = "nats:test?limit=300ms&fallback=round-robin" })
	startChild(t, hub, "r1")
	startChild(t, hub, "r2")
	state := func() *schemas.RouteState {
		t.Helper()
		reply, err := bus.NewRef(hub.node, schemas.GatewayInfo, "gateway0").Call(t.Context(), &schemas.InfoRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return reply.Routing
	}
	askTogether(t, hub, list, func() {}) // nobody answers yet
	if s := state(); s.Policy != "nats:test?limit=300ms&fallback=round-robin" || s.Fell != uint64(len(list)) || s.Absent == 0 || !strings.Contains(s.Reason, "nobody answers") {
		t.Errorf("without a process: %+v", s)
	}

	client := clientOf(t, hub)
	var seen atomic.Pointer[schemas.RouteRequest]
	attach := func(answer func(q *schemas.RouteRequest) *schemas.RouteReply) *nats.Subscription {
		t.Helper()
		sub, err := client.Conn.Subscribe("inf.v1.policy.route.test", func(m *nats.Msg) {
			q := &schemas.RouteRequest{}
			if err := bus.Unmarshal(m.Data, q); err != nil {
				t.Error(err)
			}
			seen.Store(q)
			if a := answer(q); a != nil {
				data, err := schemas.MarshalMap(a)
				if err != nil {
					t.Error(err)
				}
				if err := m.Respond(data); err != nil {
					t.Error(err)
				}
			}
		})
		if err == nil {
			err = client.Conn.Flush()
		}
		if err != nil {
			t.Fatal(err)
		}
		return sub
	}
	second := func(q *schemas.RouteRequest) *schemas.RouteReply {
		return &schemas.RouteReply{Number: q.Number, Choice: int32(len(q.Replica) - 1)}
	}
	sub := attach(second)
	waitFor(t, "it is asked again", func() bool {
		if status, text := post(t, hub, "/v1/completions", `{"prompt": "x", "max_tokens": 1}`); status != http.StatusOK {
			t.Errorf("%d %s", status, text)
		}
		return state().Answered > 0
	})
	before := state()
	first := seen.Load().Routed[0]
	askTogether(t, hub, list, func() {})
	if s := state(); s.Followed != before.Followed+uint64(len(list)) || s.Fell != before.Fell || s.Reason != "" {
		t.Errorf("it chooses: %+v, before %+v", s, before)
	}
	q := seen.Load()
	if q.Routed[0] != first {
		t.Errorf("all go to the second, and the first got %d more", q.Routed[0]-first)
	}
	if fmt.Sprint(q.Replica) != "[r1 r2]" || q.Model != "troupe-tiny" || q.Prompt < 3 || q.SequencesMax[0] != 64 || q.BlockSize[1] != 16 || q.Blocks[0] != 1024 || q.Routed[1] < q.Routed[0] {
		t.Errorf("it was asked %+v", q)
	}

	if err := sub.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	sub = attach(func(*schemas.RouteRequest) *schemas.RouteReply { return nil }) // it hangs
	began := time.Now()
	askTogether(t, hub, list, func() {})
	askTogether(t, hub, list, func() {})
	if s := state(); s.Late == 0 || s.Late >= uint64(2*len(list)) || !strings.Contains(s.Reason, "no answer on inf.v1.policy.route.test within 300ms") {
		t.Errorf("it hangs: %+v", s)
	}
	t.Logf("with a policy that hangs, %d requests took %s", 2*len(list), time.Since(began).Round(time.Millisecond))
	if err := sub.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	attach(func(q *schemas.RouteRequest) *schemas.RouteReply {
		return &schemas.RouteReply{Number: q.Number, Choice: 7}
	}) // it answers nonsense
	waitFor(t, "that is noticed", func() bool {
		askTogether(t, hub, list[:1], func() {})
		return state().Invalid > 0
	})
}
