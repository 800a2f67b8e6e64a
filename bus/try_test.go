package bus

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/troupe-engine/troupe/schemas"
)

func TestTry(t *testing.T) {
	n := startNode(t, Options{})
	a := NewActor(n, "memory", "r0", "")
	sick := false
	HandleTry(a, NewGroup(), map[string]Trial{
		"reserve": TrialOf(func(r *schemas.ReserveRequest) (Tried, error) {
			var none *schemas.MemoryState
			switch r.Step {
			case 13:
				panic("thirteen")
			case 14:
				return Tried{State: none}, schemas.Errorf(schemas.KindInvalid, "reserve", "step: 14").WithParam("step")
			}
			return Tried{Reply: &schemas.ReserveReply{Step: r.Step}, State: none}, nil
		}),
	}, func() []string {
		if sick {
			return []string{"a headache"}
		}
		return nil
	})
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	try := NewRef(n, schemas.Try("memory"), "r0")
	for _, c := range []struct{ verb, message, reply, param, detail string }{
		{"reserve", `{"step": 3, "seq": ["0000000000000100"], "admit": [{"seq": "0000000000000100", "tokens": [1]}]}`, `"step":3`, "", ""},
		{"reserve", `{"step": 14}`, "", "step", "step: 14"},
		{"reserve", `{"step": 13}`, "", "", "panicked: thirteen"},
		{"reserve", `{"step": 3, "steps": 4}`, "", "message.steps", "is unknown"},
		{"reserve", `{"step": "x"}`, "", "message.step", "cannot be read"},
		{"reserve", `{"seq": [{}]}`, "", "message.seq", "cannot be read"},
		{"reserve", `{"admit": [{"tokens": [1], "fork": 1e99}]}`, "", "message.admit", "cannot be read"},
		{"reserve", `{"admit": [{"token": [1]}]}`, "", "message.admit.token", "is unknown"},
		{"reserve", `[]`, "", "message", "expected an object"},
		{"reserve", `null`, "", "message", "expected an object"},
		{"reserve", `{"step": 1} {`, "", "message", "expected an object"},
		{"reserve", ``, "", "message", "expected an object"},
		{"reserve", strings.Repeat(`{"admit":`, 20_000), "", "message", "expected an object"},
		{"grant", `{}`, "", "verb", "expected one of reserve"},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		got, err := try.Call(ctx, &schemas.TryRequest{Verb: c.verb, Message: json.RawMessage(c.message)})
		cancel()
		failure := schemas.AsError(err, "")
		if failure == nil {
			failure = got.Error
		}
		switch {
		case c.detail == "" && (failure != nil || !strings.Contains(string(got.Reply), c.reply) || got.State != nil):
			t.Errorf("%s %.80s: %s, %v", c.verb, c.message, got.Reply, failure)
		case c.detail != "" && (failure == nil || failure.Param != c.param || !strings.Contains(failure.Detail, c.detail)):
			t.Errorf("%s %.80s: %v; expected %q of %q", c.verb, c.message, failure, c.detail, c.param)
		}
	}
	health := NewRef(n, schemas.Health("memory"), "r0")
	for range 2 {
		h, err := health.Call(within(t, 5*time.Second), &schemas.InfoRequest{})
		if err != nil || h.Healthy == sick || h.Actor != "memory.r0" || sick != (len(h.Reasons) == 1) {
			t.Errorf("sick %v: %+v, %v", sick, h, err)
		}
		sick = true
	}
}
