package bus

import (
	"context"
	"testing"
	"time"
)

// TestAnActorThatStartsHereDuringACall starts an actor of the caller's own group while the caller asks for it
// over NATS: on that way the answer would wait for the group that the caller holds.
func TestAnActorThatStartsHereDuringACall(t *testing.T) {
	n := startNode(t, Options{})
	group := NewGroup()
	caller, callee := NewActor(n, "usher", "caller", "Calls."), NewActor(n, "stage", "late", "Comes late.")
	Handle(callee, serial, group, func(context.Context, *probe) (*answer, error) { return &answer{Number: 1}, nil })
	ref := NewRef(n, serial, "late")
	time.AfterFunc(retryPause/5, func() { // the first attempt has found nobody
		if err := callee.Start(); err != nil {
			t.Error(err)
		}
	})
	began := time.Now()
	var got *answer
	var err error
	Run(group, caller, func(ctx context.Context) { got, err = ref.Call(ctx, &probe{}) })
	if err != nil || got.Number != 1 {
		t.Fatalf("%+v %v", got, err)
	}
	if took := time.Since(began); took >= serial.Timeout {
		t.Errorf("the call took %v", took)
	}
}
