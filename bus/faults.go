package bus

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// Faults makes a node's outgoing messages go through a bad network: requests and replies are dropped,
// duplicated, delayed and, by unequal delays, reordered. The sequence of decisions follows from Seed.
type Faults struct {
	Seed               uint64
	Drop               float64 // probability that a request or a reply is lost
	Duplicate          float64 // probability that a request is delivered twice
	Delay              float64 // probability that a request is late …
	DelayMax           time.Duration
	mu                 sync.Mutex
	rng                *rand.Rand
	Dropped, Doubled   int
	Delayed, Delivered int
}

type fate struct {
	dropRequest, dropReply, duplicate bool
	delay, duplicateDelay             time.Duration
}

func (f *Faults) decide() fate {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.rng == nil {
		f.rng = rand.New(rand.NewPCG(f.Seed, 0))
	}
	late := func() time.Duration {
		if f.DelayMax > 0 && f.rng.Float64() < f.Delay {
			f.Delayed++
			return time.Duration(f.rng.Int64N(int64(f.DelayMax)))
		}
		return 0
	}
	d := fate{dropRequest: f.rng.Float64() < f.Drop, dropReply: f.rng.Float64() < f.Drop,
		duplicate: f.rng.Float64() < f.Duplicate, delay: late(), duplicateDelay: late()}
	if d.dropRequest || d.dropReply {
		f.Dropped++
	}
	if d.duplicate {
		f.Doubled++
	}
	f.Delivered++
	return d
}

func (f *Faults) wrap(next transport) transport { return &faultyTransport{f, next} }

type faultyTransport struct {
	faults *Faults
	next   transport
}

func (t *faultyTransport) request(ctx context.Context, m *nats.Msg) (*nats.Msg, error) {
	d := t.faults.decide()
	if d.duplicate {
		// The copy arrives whenever it does, also after the caller has moved on.
		go func() {
			time.Sleep(d.duplicateDelay)
			late, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			_, _ = t.next.request(late, m)
		}()
	}
	if d.dropRequest {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	sleep(ctx, d.delay)
	reply, err := t.next.request(ctx, m)
	if err == nil && d.dropReply {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return reply, err
}

func (t *faultyTransport) publish(m *nats.Msg) error { return t.next.publish(m) }
