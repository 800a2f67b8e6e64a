package bus

import (
	"context"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// Faults makes a node's outgoing requests and announcements go through a bad network: they and the replies
// are dropped, duplicated, delayed and, by unequal delays, reordered. What happens to the n-th message on a
// subject follows from Seed, whatever else is sent at the same time. Calls within the process do not touch the
// network; Options.RemoteOnly makes them.
type Faults struct {
	Seed      uint64
	Drop      float64 // probability that a request is lost, and again that its reply is
	Duplicate float64 // probability that a request is delivered twice
	Delay     float64 // probability that a message is late …
	DelayMax  time.Duration

	mu   sync.Mutex
	rngs map[string]*rand.Rand // by subject
	// What happened so far. Read them when the traffic is over, or through String.
	Delivered, Dropped, Doubled, Delayed int
}

// String says what happened and how to repeat it.
func (f *Faults) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return fmt.Sprintf("faults of seed %d: %d messages, %d lost (themselves or their reply), %d doubled, %d late",
		f.Seed, f.Delivered, f.Dropped, f.Doubled, f.Delayed)
}

// fate is what happens to one message.
type fate struct {
	dropRequest, dropReply, duplicate bool
	delay, duplicateDelay             time.Duration
}

func (f *Faults) decide(subject string) fate {
	f.mu.Lock()
	defer f.mu.Unlock()
	rng := f.rngs[subject]
	if rng == nil {
		name := fnv.New64a()
		_, _ = name.Write([]byte(subject)) // a hash takes everything
		rng = rand.New(rand.NewPCG(f.Seed, name.Sum64()))
		if f.rngs == nil {
			f.rngs = map[string]*rand.Rand{}
		}
		f.rngs[subject] = rng
	}
	late := func() time.Duration {
		wanted, share := rng.Float64() < f.Delay, rng.Float64() // always two draws: probabilities do not shift the sequence
		if !wanted || f.DelayMax <= 0 {
			return 0
		}
		f.Delayed++
		return time.Duration(share * float64(f.DelayMax))
	}
	d := fate{dropRequest: rng.Float64() < f.Drop, dropReply: rng.Float64() < f.Drop,
		duplicate: rng.Float64() < f.Duplicate, delay: late(), duplicateDelay: late()}
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

// duplicateWait bounds the wait for the reply to a duplicate, which nobody reads.
const duplicateWait = time.Second

func (t *faultyTransport) request(ctx context.Context, m *nats.Msg) (*nats.Msg, error) {
	d := t.faults.decide(m.Subject)
	if d.duplicate {
		// The copy arrives whenever it does, also after the caller has moved on.
		go func() {
			time.Sleep(d.duplicateDelay)
			late, cancel := context.WithTimeout(context.Background(), duplicateWait)
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

func (t *faultyTransport) publish(m *nats.Msg) error {
	d := t.faults.decide(m.Subject)
	if d.duplicate {
		time.AfterFunc(d.duplicateDelay, func() { _ = t.next.publish(m) })
	}
	switch {
	case d.dropRequest:
		return nil
	case d.delay > 0:
		time.AfterFunc(d.delay, func() { _ = t.next.publish(m) })
		return nil
	}
	return t.next.publish(m)
}
