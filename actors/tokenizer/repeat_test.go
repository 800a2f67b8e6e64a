package tokenizer

import (
	"testing"

	"github.com/troupe-engine/troupe/schemas"
)

func TestARepeatedOpenLeavesTheSessionAlone(t *testing.T) {
	c := open(schemas.DetokSpec{Choices: 2})
	again := func() {
		c.Open(2, request, schemas.I32{1}, &schemas.DetokSpec{Gateway: "g", Scheduler: "s", Choices: 2})
	}
	give(t, c, row{0, 0, 1, schemas.FinishNone}, row{0, 1, 2, schemas.FinishNone})
	again()
	fx := give(t, c, row{0, 2, 3, schemas.FinishLength})
	if len(fx.Deltas) != 1 || fx.Deltas[0].Text != "d" || fx.Deltas[0].Err != nil {
		t.Errorf("after a repeat, the third token became %+v; expected the text d", fx.Deltas)
	}
	again() // choice 0 has ended
	if len(c.sessions) != 1 {
		t.Errorf("%d sessions after a late repeat; expected choice 1's alone", len(c.sessions))
	}
	c.Close(schemas.U64{uint64(request.Seq(1))})
	again()
	if len(c.sessions) != 0 {
		t.Errorf("%d sessions came back after they were closed", len(c.sessions))
	}
}

func TestACloseThatOvertakesItsOpen(t *testing.T) {
	c := newCore(func(bool, []int32) decoder { return &letters{} }, func(id int32) []byte { return []byte{byte(id)} })
	if n := c.Close(schemas.U64{uint64(request.Seq(0))}); n != 0 {
		t.Errorf("%d sessions were closed of none", n)
	}
	c.Open(1, request, schemas.I32{1}, &schemas.DetokSpec{Choices: 1})
	if len(c.sessions) != 0 {
		t.Error("the session was opened after its request was given up")
	}
}

func TestEndedRequestsAreForgottenInTheEnd(t *testing.T) {
	e := endedRequests{set: map[schemas.RequestID]struct{}{}}
	for n := range uint32(3 * endedMax) {
		e.add(schemas.NewRequestID(1, n+1))
	}
	if len(e.set) != endedMax || len(e.ring) != endedMax || e.has(schemas.NewRequestID(1, 1)) || !e.has(schemas.NewRequestID(1, 3*endedMax)) {
		t.Errorf("%d requests are remembered; expected the last %d", len(e.set), endedMax)
	}
}

func TestSessionsAreBounded(t *testing.T) {
	c := newCore(func(bool, []int32) decoder { return &letters{} }, func(id int32) []byte { return []byte{byte(id)} })
	spec := &schemas.DetokSpec{Choices: schemas.ChoicesMax}
	for n := range uint32(sessionsMax / schemas.ChoicesMax) {
		if err := c.Open(1, schemas.NewRequestID(1, n+1), schemas.I32{1}, spec); err != nil {
			t.Fatalf("request %d: %v", n, err)
		}
	}
	err := c.Open(1, schemas.NewRequestID(2, 1), schemas.I32{1}, &schemas.DetokSpec{Choices: 1 + sessionsMax%schemas.ChoicesMax})
	if err == nil || err.Kind != schemas.KindOverloaded {
		t.Errorf("a session over the limit: %v; expected %s", err, schemas.KindOverloaded)
	}
}
