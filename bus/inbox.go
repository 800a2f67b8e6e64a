package bus

import (
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/troupe-engine/troupe/schemas"
)

// Limits of the requests to one endpoint that came over NATS and are not answered yet. Beyond them the
// answer is KindOverloaded.
const (
	InboxMessagesMax = 4096
	InboxBytesMax    = 64 << 20
)

// inbox takes an endpoint's requests from its NATS subscriptions as they come, so that a request over the
// limits is refused at once. It hands them on one at a time in order of arrival, or all at once to a Pool.
type inbox struct {
	answer     func(*nats.Msg, time.Time)
	concurrent bool
	queue      *Outbox[arrival]
	messages   atomic.Int64
	bytes      atomic.Int64
	closed     atomic.Bool
}

type arrival struct {
	request *nats.Msg
	at      time.Time
}

func newInbox(concurrent bool, answer func(*nats.Msg, time.Time)) *inbox {
	b := &inbox{answer: answer, concurrent: concurrent}
	if !concurrent {
		b.queue = NewOutbox(InboxMessagesMax, func(batch []arrival) {
			for _, r := range batch {
				b.serve(r)
			}
		})
	}
	return b
}

func (b *inbox) serve(r arrival) {
	defer b.release(r.request)
	b.answer(r.request, r.at)
}

func (b *inbox) release(r *nats.Msg) {
	b.messages.Add(-1)
	b.bytes.Add(-int64(len(r.Data)))
}

// put takes a request, or says why not.
func (b *inbox) put(r *nats.Msg) *schemas.Error {
	messages, bytes := b.messages.Add(1), b.bytes.Add(int64(len(r.Data)))
	switch {
	case b.closed.Load():
		b.release(r)
		return schemas.Errorf(schemas.KindUnavailable, "receive", "the actor has stopped")
	case messages > InboxMessagesMax:
		b.release(r)
		return overloaded("receive", "%d requests are waiting already", InboxMessagesMax)
	case bytes > InboxBytesMax:
		b.release(r)
		return overloaded("receive", "%d bytes of requests are waiting already", InboxBytesMax)
	}
	a := arrival{r, time.Now()}
	if b.concurrent {
		go b.serve(a)
		return nil
	}
	if !b.queue.Put(a) {
		b.release(r)
		return schemas.Errorf(schemas.KindUnavailable, "receive", "the actor has stopped")
	}
	return nil
}

// close refuses further requests and waits until those in order are answered.
func (b *inbox) close() {
	b.closed.Store(true)
	if b.queue != nil {
		b.queue.Close()
	}
}
