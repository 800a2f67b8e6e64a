package bus

import (
	"strings"
	"sync/atomic"

	"github.com/nats-io/nats.go"

	"github.com/troupe-engine/troupe/schemas"
)

// Limits of the announcements that wait for one Subscription. What comes beyond them is dropped.
const (
	TopicMessagesMax = 1024
	TopicBytesMax    = 16 << 20
)

// Publish announces m as instance from, to whoever subscribes on any node. It is free while nobody does.
// Like every message, m does not change afterwards.
func Publish[T any](n *Node, topic schemas.Topic[T], from schemas.Instance, m *T) error {
	if err := checkInstance(from); err != nil {
		return err
	}
	subject := topic.Subject(from)
	tap := n.taps.point(subject)
	tap.mirror(m)
	if !n.account.SubscriptionInterest(subject) {
		return nil
	}
	body, err := msgpackEncoding.encode(m)
	if err != nil {
		return schemas.Errorf(schemas.KindInternal, "publish "+subject, "encode: %v", err)
	}
	if limit := n.data.MaxPayload(); int64(len(body)) > limit {
		return tooLarge("announcement", len(body), limit)
	}
	raw := &nats.Msg{Subject: subject, Data: body}
	if f := n.faults.Load(); f != nil {
		err = f.publish(raw, n.data.PublishMsg)
	} else {
		err = n.data.PublishMsg(raw)
	}
	if err != nil {
		return natsError(err, "publish "+subject)
	}
	return nil
}

// Subscription hears a topic until it is closed.
type Subscription struct {
	sub       *nats.Subscription
	malformed atomic.Uint64
}

// Subscribe has deliver called with every announcement on topic by instance from, or by any if from is "".
// Calls come one at a time, in each announcer's order, on a goroutine of the subscription's own.
func Subscribe[T any](n *Node, topic schemas.Topic[T], from schemas.Instance, deliver func(from schemas.Instance, m *T)) (*Subscription, error) {
	if from != "" {
		if err := checkInstance(from); err != nil {
			return nil, err
		}
	}
	s, subject := &Subscription{}, topic.Subject(from)
	sub, err := n.data.Subscribe(subject, func(raw *nats.Msg) {
		m := new(T)
		if err := encodingOf(raw.Header.Get(headerContentType), raw.Data).decode(raw.Data, m); err != nil {
			s.malformed.Add(1)
			n.refuse(RefusedMalformed, raw.Subject, err)
			return
		}
		deliver(schemas.Instance(raw.Subject[strings.LastIndexByte(raw.Subject, '.')+1:]), m)
	})
	if err != nil {
		return nil, natsError(err, "subscribe "+subject)
	}
	s.sub = sub
	if err := sub.SetPendingLimits(TopicMessagesMax, TopicBytesMax); err != nil {
		s.Close()
		return nil, natsError(err, "subscribe "+subject)
	}
	if err := n.data.FlushTimeout(connectTimeout); err != nil { // from here on nothing is missed
		s.Close()
		return nil, natsError(err, "subscribe "+subject)
	}
	return s, nil
}

// Dropped counts the announcements that were not delivered: over the limits, or malformed.
func (s *Subscription) Dropped() uint64 {
	over, err := s.sub.Dropped()
	if err != nil {
		over = 0 // closed
	}
	return uint64(over) + s.malformed.Load()
}

// Close ends the subscription. A call of deliver that runs goes on.
func (s *Subscription) Close() {
	_ = s.sub.Unsubscribe() // an error means that the connection is gone, and the subscription with it
}
