package bus

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/troupe-engine/troupe/schemas"
)

func TestOutboxesAreBoundedAndIdleOnesGiveWay(t *testing.T) {
	var sent atomic.Int64
	block := make(chan struct{})
	o := NewOutboxes(8, func(to schemas.Instance) func([]int) {
		return func(rows []int) {
			if to == "stuck" {
				<-block
			}
			sent.Add(int64(len(rows)))
		}
	})
	if !o.Put("stuck", 0) {
		t.Fatal("the first row was refused")
	}
	const names = 4 * OutboxesMax
	for i := range names {
		name := schemas.Instance(fmt.Sprintf("receiver%d", i))
		for until := time.Now().Add(10 * time.Second); !o.Put(name, i); time.Sleep(time.Millisecond) {
			if time.Now().After(until) {
				t.Fatalf("no room for %s although the others are idle", name)
			}
		}
		if len(o.list) > OutboxesMax {
			t.Fatalf("%d outboxes; the limit is %d", len(o.list), OutboxesMax)
		}
	}
	if o.list["stuck"] == nil {
		t.Error("an outbox with a batch under way was closed")
	}
	for i := range 8 {
		if !o.Put("stuck", i) {
			t.Errorf("row %d was refused; 8 may wait", i)
		}
	}
	if o.Put("stuck", 9) {
		t.Error("a ninth row waits")
	}
	close(block)
	o.Close()
	if got := sent.Load(); got != names+9 {
		t.Errorf("%d rows were sent of %d", got, names+9)
	}
}

// TestOutboxesCloseUnderPuts: a handler may still run when its actor gives up waiting for it.
func TestOutboxesCloseUnderPuts(t *testing.T) {
	var sent, put atomic.Int64
	o := NewOutboxes(1<<20, func(schemas.Instance) func([]int) { return func(rows []int) { sent.Add(int64(len(rows))) } })
	begun, over := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(over)
		for i := 0; o.Put(schemas.Instance(fmt.Sprintf("receiver%d", i%100)), i); i++ {
			if put.Add(1) == 50 {
				close(begun)
			}
		}
	}()
	<-begun
	o.Close()
	<-over
	if sent.Load() != put.Load() {
		t.Errorf("%d rows were sent of %d", sent.Load(), put.Load())
	}
}
