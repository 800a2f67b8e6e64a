package cluster

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

// device stands in for a computation manager's node.
type device struct {
	mu       sync.Mutex
	change   func(*schemas.ClaimReply) // what it says otherwise than it should
	claim    uint64                    // in force; 0 is none
	claims   int                       // that were new
	released int
	renewed  int // of the claim in force
	busy     int32
}

func (d *device) claimed(_ context.Context, r *schemas.ClaimRequest) (*schemas.ClaimReply, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case r.Release:
		d.claim = 0
		d.released++
	case r.Renew && r.Claim != d.claim:
		return nil, schemas.Errorf(schemas.KindNotFound, "claim", "not in force")
	case r.Claim != d.claim:
		d.claim = r.Claim
		d.claims++
		d.renewed = 0
	default:
		d.renewed++
	}
	d.busy = r.Busy
	reply := (*schemas.ClaimReply)(nil).Example()
	reply.Replica, reply.Node, reply.Model = r.Replica("n1"), "n1", "m"
	d.change(reply)
	return reply, nil
}

func (d *device) renewals() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.renewed
}

func (d *device) set(change func(*schemas.ClaimReply)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.change = change
}

// serving starts a device, and schedulers that may serve it. Opened gets each that they open.
func serving(t *testing.T, change func(*schemas.ClaimReply)) (s *stage, d *device, schedulers *Schedulers, opened chan *schemas.ClaimReply) {
	t.Helper()
	s = start(t)
	d = &device{change: change}
	a := bus.NewActor(s.node, "device", "n1", "fake")
	bus.Handle(a, schemas.ClaimDevice, bus.NewGroup(), d.claimed)
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	opened = make(chan *schemas.ClaimReply, 16)
	var err error
	schedulers, err = Serve(s.member, SchedulersConfig{Model: "m", SilenceMax: time.Second, Log: zerolog.Nop(), Open: func(device *schemas.ClaimReply) (func(), error) {
		for d.renewals() < 3 { // it takes longer than a claim lasts
			select {
			case <-t.Context().Done():
				return nil, t.Context().Err()
			case <-time.After(time.Millisecond):
			}
		}
		stop := s.replica.startAs(t, s.node, device.Replica)
		opened <- device
		return stop, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(schedulers.Close)
	s.member.SetDraining(false) // reports the node at once
	return s, d, schedulers, opened
}

func next(t *testing.T, opened chan *schemas.ClaimReply) *schemas.ClaimReply {
	t.Helper()
	select {
	case r := <-opened:
		return r
	case <-time.After(10 * time.Second):
		t.Fatal("no device is served")
		return nil
	}
}

// A device gets a scheduler, which tells it how much there is to do, and another one when its claim ends; leaving gives it back.
func TestADeviceIsServed(t *testing.T) {
	s, d, schedulers, opened := serving(t, func(*schemas.ClaimReply) {})
	s.running.Store(5)
	first := next(t, opened)
	s.eventually(t, "it is reported as a replica", func(r *schemas.ReplicaReport, _ int) bool {
		return r.Replica == first.Replica && r.Compute == "n1" && r.Numerics == first.Numerics && !r.Draining
	})
	d.set(func(r *schemas.ClaimReply) { r.Draining = true })
	s.eventually(t, "that its device drains is reported", func(r *schemas.ReplicaReport, _ int) bool { return r.Replica == first.Replica && r.Draining })
	d.mu.Lock()
	if d.busy != 5 {
		t.Errorf("the device heard of %d sequences; want 5", d.busy)
	}
	d.claim = 1 // another's, or that of a process that was started again
	d.mu.Unlock()
	if second := next(t, opened); second.Replica == first.Replica {
		t.Errorf("the next claim has the name of the one before, %s", first.Replica)
	}
	schedulers.Close()
	s.eventually(t, "both leave", func(*schemas.ReplicaReport, int) bool { return len(s.left) == 2 && s.left[0] == first.Replica })
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.released != 1 || d.claims != 2 {
		t.Errorf("%d claims were made and %d released; want 2 and 1", d.claims, d.released)
	}
}

// A device decides sizes, within bounds, and nothing else: not whose subjects its scheduler answers to.
func TestDevicesThatLieAreNotServed(t *testing.T) {
	for name, lie := range map[string]func(*schemas.ClaimReply){
		"another's name": func(r *schemas.ClaimReply) { r.Replica = "r1" },
		"another node":   func(r *schemas.ClaimReply) { r.Node = "n2" },
		"another model":  func(r *schemas.ClaimReply) { r.Model = "x" },
		"no blocks":      func(r *schemas.ClaimReply) { r.Blocks = 0 },
		"all blocks":     func(r *schemas.ClaimReply) { r.Blocks = 1 << 30 },
		"all slots":      func(r *schemas.ClaimReply) { r.SequencesMax = 1 << 30 },
		"negative bytes": func(r *schemas.ClaimReply) { r.BlockBytes = -1 },
		"a third phase":  func(r *schemas.ClaimReply) { r.Phase = "x" },
		"a long text":    func(r *schemas.ClaimReply) { r.Numerics = strings.Repeat("x", 300) },
		"all end":        func(r *schemas.ClaimReply) { r.EndTokens = make(schemas.I32, 1<<16) },
	} {
		t.Run(name, func(t *testing.T) {
			_, d, _, opened := serving(t, lie)
			for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
				d.mu.Lock()
				released := d.released
				d.mu.Unlock()
				if released > 0 {
					break
				}
				if time.Now().After(end) {
					t.Fatal("the device is not given back")
				}
			}
			if len(opened) > 0 {
				t.Errorf("%+v is served", <-opened)
			}
		})
	}
}
