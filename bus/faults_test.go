package bus

import (
	"context"
	"reflect"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/troupe-engine/troupe/schemas"
)

// account is a little state machine with an idempotent endpoint, as the engine's actors have: number n+1
// is applied once, and whatever comes again or late gets an answer without effect.
type account struct {
	sums  map[int32]int64
	last  map[int32]int64
	calls int
}

func (a *account) apply(_ context.Context, p *probe) (*answer, error) {
	a.calls++
	switch last := a.last[p.Caller]; {
	case p.Number == last+1:
		a.last[p.Caller] = p.Number
		a.sums[p.Caller] += p.Number
	case p.Number > last+1:
		return nil, schemas.Errorf(schemas.KindInvalid, "apply", "%d follows %d", p.Number, last)
	}
	return &answer{Number: p.Number, Together: int32(a.sums[p.Caller])}, nil
}

func TestLossyNetworkHasOneLogicalEffect(t *testing.T) {
	endpoint := schemas.Endpoint[probe, answer]{Service: "stage", Verb: "apply", Doc: "Idempotent.", Timeout: 25 * time.Millisecond, Attempts: 200}
	for _, seed := range []uint64{1, 2, uint64(time.Now().UnixNano())} {
		faults := &Faults{Seed: seed, Drop: 0.2, Duplicate: 0.3, Delay: 0.5, DelayMax: 10 * time.Millisecond}
		n := startNode(t, Options{RemoteOnly: true, Faults: faults})
		a := NewActor(n, "stage", "stage", "")
		bank := &account{sums: map[int32]int64{}, last: map[int32]int64{}}
		Handle(a, endpoint, NewGroup(), bank.apply)
		if err := a.Start(); err != nil {
			t.Fatal(err)
		}
		const callers, calls = 4, 25
		var all sync.WaitGroup
		for caller := range callers {
			all.Go(func() {
				ref := NewRef(n, endpoint, "stage")
				for i := int64(1); i <= calls; i++ {
					got, err := ref.Call(within(t, 30*time.Second), &probe{Caller: int32(caller), Number: i})
					if err != nil || got.Number != i {
						t.Errorf("seed %d: caller %d, number %d: %+v, %v", seed, caller, i, got, err)
						return
					}
				}
			})
		}
		all.Wait()
		time.Sleep(30 * time.Millisecond) // late duplicates
		a.Stop()
		for caller := range int32(callers) {
			if bank.sums[caller] != calls*(calls+1)/2 {
				t.Errorf("seed %d: caller %d added up to %d", seed, caller, bank.sums[caller])
			}
		}
		if faults.Dropped == 0 || faults.Doubled == 0 || faults.Delayed == 0 || bank.calls <= callers*calls {
			t.Errorf("seed %d: the network was too good: %s; %d deliveries", seed, faults, bank.calls)
		}
		t.Logf("%s; %d deliveries for %d calls", faults, bank.calls, callers*calls)
	}
}

// recorded is a perfect network that remembers when what arrived.
type recorded struct {
	mu   sync.Mutex
	got  []string
	took []time.Duration
	zero time.Time
}

func (r *recorded) publish(m *nats.Msg) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.got, r.took = append(r.got, string(m.Data)), append(r.took, time.Since(r.zero))
	return nil
}

func (r *recorded) request(_ context.Context, m *nats.Msg) (*nats.Msg, error) {
	return &nats.Msg{Data: m.Data}, r.publish(m)
}

func TestFaultsRepeatFromTheirSeed(t *testing.T) {
	run := func(seed uint64, others int) (r *recorded, answered int) {
		synctest.Test(t, func(t *testing.T) {
			r = &recorded{zero: time.Now()}
			f := &Faults{Seed: seed, Drop: 0.2, Duplicate: 0.2, Delay: 0.5, DelayMax: 50 * time.Millisecond}
			wire, noise := f.wrap(r), f.wrap(&recorded{})
			for i := range 200 {
				for range others { // other traffic does not change the fates on a subject
					_ = noise.publish(&nats.Msg{Subject: "noise"})
				}
				ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
				if _, err := wire.request(ctx, &nats.Msg{Subject: "s", Data: []byte{byte(i)}}); err == nil {
					answered++
				}
				cancel()
				_ = wire.publish(&nats.Msg{Subject: "p", Data: []byte{byte(i)}})
				time.Sleep(5 * time.Millisecond)
			}
			time.Sleep(time.Second)
		})
		return r, answered
	}
	first, answered := run(7, 0)
	again, answeredAgain := run(7, 3)
	other, _ := run(8, 0)
	if answered != answeredAgain || !reflect.DeepEqual(first.got, again.got) || !reflect.DeepEqual(first.took, again.took) {
		t.Errorf("the same seed gave %d answers and %d; the same arrivals: %v", answered, answeredAgain, reflect.DeepEqual(first.got, again.got))
	}
	if reflect.DeepEqual(first.got, other.got) {
		t.Error("another seed gave the same arrivals")
	}
	if answered < 90 || answered > 160 { // 0.8² of 200 is 128
		t.Errorf("%d of 200 requests were answered", answered)
	}
	disordered := false
	for i := 1; i < len(first.got); i++ {
		disordered = disordered || first.got[i] < first.got[i-1]
	}
	if !disordered {
		t.Error("nothing was reordered")
	}
}
