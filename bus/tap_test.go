package bus

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe/schemas"
)

// wantSequence checks that mirrored messages are numbered without a gap.
func wantSequence(t *testing.T, messages []*nats.Msg) {
	t.Helper()
	var last uint64
	for i, m := range messages {
		n := sequenceOf(t, m)
		if i > 0 && n != last+1 {
			t.Errorf("%s: sequence number %d follows %d", m.Subject, n, last)
		}
		last = n
	}
}

func sequenceOf(t *testing.T, m *nats.Msg) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(m.Header.Get(HeaderTapSequence), 10, 64)
	if err != nil || m.Header.Get(HeaderTapTime) == "" || m.Header.Get(HeaderTapNode) == "" {
		t.Fatalf("%s: headers %v", m.Subject, m.Header)
	}
	return n
}

// listen subscribes on the caller's node and waits until the stage, wherever it is, mirrors there.
func listen(t *testing.T, w *world, pattern string) *nats.Subscription {
	t.Helper()
	sub, err := w.node.data.SubscribeSync(pattern)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sub.Unsubscribe() })
	if err := w.node.data.Flush(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
		if _, err := w.looped.Call(within(t, time.Second), &probe{}); err != nil {
			t.Fatal(err)
		}
		if m, err := sub.NextMsg(20 * time.Millisecond); err == nil && m != nil {
			for err == nil { // what else the probes caused
				_, err = sub.NextMsg(50 * time.Millisecond)
			}
			return sub
		}
	}
	t.Fatalf("nothing is mirrored to %s", pattern)
	return nil
}

func mirrorsOnce(t *testing.T, w *world) {
	tap, peek := listen(t, w, "tap."+schemas.SubjectPrefix+"stage.>"), listen(t, w, "peek."+schemas.SubjectPrefix+"stage.>")
	for { // the second listen's probes
		if _, err := tap.NextMsg(50 * time.Millisecond); err != nil {
			break
		}
	}
	ctx := within(t, 5*time.Second)
	if _, err := w.serial.Call(ctx, &probe{Number: 41, Text: "ask"}); err != nil {
		t.Fatal(err)
	}
	_, err := w.serial.Call(ctx, &probe{Number: 42, Fail: schemas.Errorf(schemas.KindNotFound, "play", "nothing")})
	wantKind(t, err, schemas.KindNotFound)
	subject := serial.Subject("stage")
	for _, stream := range []struct {
		sub      *nats.Subscription
		prefix   string
		encoding encoding
	}{{tap, "tap.", msgpackEncoding}, {peek, "peek.", jsonEncoding}} {
		decode := func(m *nats.Msg, v any) {
			if err := stream.encoding.decode(m.Data, v); err != nil {
				t.Errorf("%s: %v", m.Subject, err)
			}
		}
		var messages []*nats.Msg
		for {
			m, err := stream.sub.NextMsg(200 * time.Millisecond)
			if err != nil {
				break
			}
			messages = append(messages, m)
		}
		var subjects []string
		for _, m := range messages {
			subjects = append(subjects, strings.TrimPrefix(m.Subject, stream.prefix))
		}
		if !slices.Equal(subjects, []string{subject, subject + ".reply", subject, subject + ".reply"}) {
			t.Fatalf("%s: got %q", stream.prefix, subjects)
		}
		var request probe
		var reply answer
		var failure schemas.Error
		decode(messages[0], &request)
		decode(messages[1], &reply)
		decode(messages[3], &failure)
		if request.Number != 41 || reply.Text != "ask" || failure.Kind != schemas.KindNotFound {
			t.Errorf("%s: got %+v, %+v, %+v", stream.prefix, request, reply, failure)
		}
		wantSequence(t, messages)
	}
}

func TestNothingIsPublishedWithoutListeners(t *testing.T) {
	w := stageHere(t, Options{})
	before := w.node.data.Stats().OutMsgs
	topic := schemas.Topic[answer]{Service: "stage", Verb: "news"}
	for range 100 {
		if _, err := w.serial.Call(context.Background(), &probe{}); err != nil {
			t.Fatal(err)
		}
		if err := Publish(w.node, topic, "stage", &answer{}); err != nil {
			t.Fatal(err)
		}
	}
	if sent := w.node.data.Stats().OutMsgs - before + w.node.mirror.Stats().OutMsgs; sent != 0 {
		t.Errorf("%d messages were sent", sent)
	}
}

func TestTapShowsWhatItDropped(t *testing.T) {
	n := startNode(t, Options{})
	sub, err := n.data.SubscribeSync("tap.x")
	if err != nil {
		t.Fatal(err)
	}
	if err := n.data.Flush(); err != nil {
		t.Fatal(err)
	}
	tap := &tapper{node: n.id, conn: n.mirror, interested: n.account.SubscriptionInterest, log: zerolog.Nop(),
		queue: make(chan tapRecord, 2), stop: make(chan struct{})}
	point := tap.point("x")
	for range 5 { // nobody publishes yet: three too many
		point.mirror(&answer{})
	}
	tap.stopped.Add(1)
	go tap.publish()
	var got []uint64
	for range 2 {
		m, err := sub.NextMsg(time.Second)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, sequenceOf(t, m))
	}
	point.mirror(&answer{})
	tap.close() // sends what is queued
	m, err := sub.NextMsg(time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if got = append(got, sequenceOf(t, m)); got[0] != 1 || got[1] != 2 || got[2] != 6 {
		t.Errorf("sequence numbers %v, want 1, 2 and, after the gap, 6", got)
	}
	if dropped := tap.dropped.Load(); dropped != 3 {
		t.Errorf("%d were counted as dropped, want 3", dropped)
	}
}

func TestInboxIsBoundedByCountAndBytes(t *testing.T) {
	for _, concurrent := range []bool{false, true} {
		for _, c := range []struct{ size, fit int }{{0, InboxMessagesMax}, {PayloadBytesMax, InboxBytesMax / PayloadBytesMax}} {
			release, answered := make(chan struct{}), make(chan struct{}, InboxMessagesMax)
			b := newInbox(concurrent, func(*nats.Msg, time.Time) {
				<-release
				answered <- struct{}{}
			})
			r := &nats.Msg{Data: make([]byte, c.size)}
			for i := range c.fit {
				if err := b.put(r); err != nil {
					t.Fatalf("request %d of %d bytes: %v", i, c.size, err)
				}
			}
			if e := wantKind(t, b.put(r), schemas.KindOverloaded); e.RetryAfterMs == 0 {
				t.Errorf("got %#v", e)
			}
			close(release)
			for range c.fit {
				<-answered
			}
			for end := time.Now().Add(5 * time.Second); b.messages.Load() != 0 && time.Now().Before(end); {
				time.Sleep(time.Millisecond)
			}
			if err := b.put(r); err != nil {
				t.Errorf("after the queue emptied: %v", err)
			}
			<-answered
			b.close()
			wantKind(t, b.put(r), schemas.KindUnavailable)
		}
	}
}

func TestTopic(t *testing.T) {
	hub := startNode(t, Options{LeafListen: "127.0.0.1:-1"})
	leaf := startNode(t, Options{Leafs: []string{hub.LeafURL()}})
	topic := schemas.Topic[answer]{Service: "stage", Verb: "news"}
	type news struct {
		from schemas.Instance
		m    *answer
	}
	heard := make(chan news, 10)
	all, err := Subscribe(hub, topic, "", func(from schemas.Instance, m *answer) { heard <- news{from, m} })
	if err != nil {
		t.Fatal(err)
	}
	block := make(chan struct{})
	one, err := Subscribe(leaf, topic, "one", func(schemas.Instance, *answer) { <-block })
	if err != nil {
		t.Fatal(err)
	}
	tap, err := leaf.data.SubscribeSync("tap." + topic.Subject(""))
	if err != nil {
		t.Fatal(err)
	}
	if err := leaf.data.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := leaf.WaitForService(within(t, 10*time.Second), topic.Subject("two")); err != nil { // the hub's interest
		t.Fatal(err)
	}
	if err := Publish(leaf, topic, "two", &answer{Number: 2, Column: schemas.I32{1}}); err != nil {
		t.Fatal(err)
	}
	select {
	case n := <-heard:
		if n.from != "two" || n.m.Number != 2 || n.m.Column[0] != 1 {
			t.Errorf("heard %+v", n)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("heard nothing")
	}
	mirrored, err := tap.NextMsg(time.Second)
	if err != nil || mirrored.Subject != "tap."+topic.Subject("two") || sequenceOf(t, mirrored) != 1 {
		t.Errorf("mirrored %v, %v", mirrored, err)
	}
	if m, err := tap.NextMsg(50 * time.Millisecond); err == nil {
		t.Errorf("mirrored twice: %v", m)
	}
	all.Close()
	const over = 50
	for range TopicMessagesMax + over {
		if err := Publish(leaf, topic, "one", &answer{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := leaf.data.Flush(); err != nil {
		t.Fatal(err)
	}
	if dropped := one.Dropped(); dropped == 0 || dropped > over {
		t.Errorf("%d dropped of %d too many", dropped, over)
	}
	close(block)
	one.Close()

	got := make(chan *answer, 1)
	guarded, err := Subscribe(leaf, topic, "one", func(_ schemas.Instance, m *answer) { got <- m })
	if err != nil {
		t.Fatal(err)
	}
	defer guarded.Close()
	for _, raw := range []string{"\xc1", `{"number":1`, `{"number":7}`} {
		if err := leaf.data.Publish(topic.Subject("one"), []byte(raw)); err != nil {
			t.Fatal(err)
		}
	}
	if m := <-got; m.Number != 7 || guarded.Dropped() != 2 {
		t.Errorf("got %+v, %d dropped", m, guarded.Dropped())
	}
	wantKind(t, Publish(leaf, topic, "*", &answer{}), schemas.KindInvalid)
	wantKind(t, Publish(leaf, topic, "one", &answer{Bytes: make(schemas.U8, PayloadBytesMax)}), schemas.KindTooLarge)
	if _, err := Subscribe(leaf, topic, "a.b", func(schemas.Instance, *answer) {}); err == nil {
		t.Error("subscribed to a malformed instance")
	}
}
