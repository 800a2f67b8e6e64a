package bus

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/troupe-engine/troupe/schemas"
)

// A stream is many messages to one reply inbox:
//
//   - data messages, each with a sequence number from 1 in its body;
//   - one end marker: an empty payload with headers, so that `nats req --wait-for-empty` and the
//     JavaScript client's requestMany know that it is over. It counts the data messages and carries the
//     error, if any, as the usual Nats-Service-Error headers and as JSON in Troupe-Error.
//
// A receiver that wants flow control sends Troupe-Credit with the request and then grants more messages
// by publishing counts to the subject in the first message's Troupe-Credit-Subject header.
const (
	HeaderCredit        = "Troupe-Credit"         // request: data messages the receiver can take now
	HeaderCreditSubject = "Troupe-Credit-Subject" // first data message: where to grant more
	HeaderRequestID     = "Troupe-Request-Id"     // first data message: what inf.v1.cancel wants to know
	HeaderEnd           = "Troupe-End"            // end marker: "done" or "error"
	HeaderCount         = "Troupe-Count"          // end marker: data messages sent
)

const (
	// StreamStallMax is how long a stream waits for credit before it is cancelled.
	StreamStallMax = 30 * time.Second
	// StreamCreditMax bounds the credit of a stream, in messages: a receiver that grants more has no more.
	StreamCreditMax = 1 << 20
	// presencePoll is how often a stream that waits for credit looks whether its receiver is still there.
	presencePoll = 200 * time.Millisecond
)

// ErrReceiverGone means that nobody subscribes to a stream's inbox any more.
var ErrReceiverGone = errors.New("bus: the stream's receiver is gone")

// StreamWriter sends one stream. It is used by one goroutine.
type StreamWriter struct {
	node     *Node
	inbox    string
	id       string
	encoding encoding
	sent     uint64
	credit   *credit // nil without flow control
	sub      *nats.Subscription
}

// NewStreamWriter starts the answer to request m. id names the request to the receiver.
func (n *Node) NewStreamWriter(m *nats.Msg, id string) (*StreamWriter, error) {
	w := &StreamWriter{node: n, inbox: m.Reply, id: id, encoding: encodingOf(m.Header.Get(headerContentType), m.Data)}
	if m.Reply == "" {
		return nil, schemas.Errorf(schemas.KindInvalid, "stream", "the request has no reply subject").
			WithHint("use a request, such as `nats req %s`, not a publish", m.Subject)
	}
	if err := checkReply(m.Reply); err != nil {
		n.refuse(RefusedPublish, m.Subject, err)
		return nil, err
	}
	text := m.Header.Get(HeaderCredit)
	if text == "" {
		return w, nil
	}
	window, err := strconv.ParseInt(text, 10, 32)
	if err != nil || window < 1 {
		return nil, schemas.Errorf(schemas.KindInvalid, "stream", "%s is %.40q; expected a positive count of messages", HeaderCredit, text).WithParam(HeaderCredit)
	}
	if err := checkInstance(schemas.Instance(id)); err != nil {
		return nil, schemas.Errorf(schemas.KindInvalid, "stream", "request id %.80q cannot be part of a subject", id).WithParam("id")
	}
	w.credit = &credit{arrived: make(chan struct{}, 1)}
	w.credit.add(window)
	w.sub, err = n.data.Subscribe(creditSubject(id), func(g *nats.Msg) {
		if count, err := strconv.ParseInt(string(g.Data), 10, 32); err == nil {
			w.credit.add(count)
		}
	})
	if err != nil {
		return nil, natsError(err, "stream")
	}
	return w, nil
}

// credit counts the messages that the receiver can take.
type credit struct {
	left    atomic.Int64
	arrived chan struct{} // wakes the sender
}

func (c *credit) add(count int64) {
	for {
		old := c.left.Load()
		sum := min(old+count, StreamCreditMax)
		if count <= 0 || c.left.CompareAndSwap(old, sum) {
			break
		}
	}
	select {
	case c.arrived <- struct{}{}:
	default:
	}
}

// take uses up one message's credit. There is one sender.
func (c *credit) take() bool {
	if c.left.Load() == 0 {
		return false
	}
	c.left.Add(-1)
	return true
}

func creditSubject(id string) string { return schemas.SubjectPrefix + "credit." + id }

// JSON reports whether the receiver wants JSON bodies; otherwise msgpack.
func (w *StreamWriter) JSON() bool { return w.encoding == jsonEncoding }

// Sequence is the number that the next data message's body must carry.
func (w *StreamWriter) Sequence() uint64 { return w.sent + 1 }

// Send publishes one data message. It waits for credit, if the receiver uses it, and returns
// ErrReceiverGone when nobody listens any more.
func (w *StreamWriter) Send(ctx context.Context, body []byte) error {
	if limit := w.node.data.MaxPayload(); int64(len(body)) > limit {
		return tooLarge("stream message", len(body), limit)
	}
	if !w.ReceiverPresent() {
		return ErrReceiverGone
	}
	if err := w.waitCredit(ctx); err != nil {
		return err
	}
	m := &nats.Msg{Subject: w.inbox, Data: body}
	if w.sent == 0 {
		m.Header = nats.Header{headerContentType: {w.encoding.contentType()}, HeaderRequestID: {w.id}}
		if w.credit != nil {
			m.Header.Set(HeaderCreditSubject, creditSubject(w.id))
		}
	}
	if err := w.node.data.PublishMsg(m); err != nil {
		return natsError(err, "stream")
	}
	w.sent++
	return nil
}

// ReceiverPresent reports whether anybody subscribes to the inbox.
func (w *StreamWriter) ReceiverPresent() bool {
	return w.node.account.SubscriptionInterest(w.inbox)
}

func (w *StreamWriter) waitCredit(ctx context.Context) error {
	if w.credit == nil || w.credit.take() {
		return nil
	}
	stall := time.NewTimer(StreamStallMax)
	defer stall.Stop()
	look := time.NewTicker(presencePoll)
	defer look.Stop()
	for !w.credit.take() {
		select {
		case <-w.credit.arrived:
		case <-look.C:
			if !w.ReceiverPresent() {
				return ErrReceiverGone
			}
		case <-ctx.Done():
			return schemas.AsError(ctx.Err(), "stream")
		case <-stall.C:
			return schemas.Errorf(schemas.KindTimeout, "stream", "no credit for %s", StreamStallMax).
				WithHint("publish a count of messages to %s", creditSubject(w.id))
		}
	}
	return nil
}

// End publishes the end marker and releases the writer; it is called once. err is nil for a complete
// stream. A receiver that is gone is not an error.
func (w *StreamWriter) End(err *schemas.Error) error {
	if w.sub != nil {
		_ = w.sub.Unsubscribe() // an error means that the connection is gone, and the subscription with it
	}
	m := nats.NewMsg(w.inbox)
	m.Header.Set(HeaderEnd, "done")
	m.Header.Set(HeaderCount, strconv.FormatUint(w.sent, 10))
	m.Header.Set(HeaderRequestID, w.id)
	if err != nil {
		m.Header.Set(HeaderEnd, "error")
		m.Header.Set(micro.ErrorHeader, headerSafe(err.Error()))
		m.Header.Set(micro.ErrorCodeHeader, strconv.Itoa(err.Kind.HTTPStatus()))
		if whole, failed := json.Marshal(err); failed == nil {
			m.Header.Set(HeaderError, headerSafe(string(whole)))
		}
	}
	if err := w.node.data.PublishMsg(m); err != nil {
		return natsError(err, "stream")
	}
	return nil
}

// StreamReader receives one stream over any NATS connection. It grants credit as it is read.
type StreamReader struct {
	conn    *nats.Conn
	subject string // of the request
	sub     *nats.Subscription
	grantTo string
	unread  int64
	read    uint64
	window  int64
	ID      string // the request's id, known after the first Next
	once    sync.Once
}

// StreamWindow is the credit a StreamReader starts with, in messages.
const StreamWindow = 256

// OpenStream sends a request whose answer is a stream.
func OpenStream(conn *nats.Conn, subject string, body []byte, header nats.Header) (*StreamReader, error) {
	r := &StreamReader{conn: conn, subject: subject, window: StreamWindow}
	m := nats.NewMsg(subject)
	for k, v := range header {
		m.Header[k] = v
	}
	m.Header.Set(HeaderCredit, strconv.Itoa(StreamWindow))
	m.Reply, m.Data = conn.NewInbox(), body
	var err error
	if r.sub, err = conn.SubscribeSync(m.Reply); err != nil {
		return nil, natsError(err, "stream")
	}
	if err := r.sub.SetPendingLimits(subPendingMsgsMax, subPendingBytesMax); err != nil {
		r.Close()
		return nil, natsError(err, "stream")
	}
	if err := conn.PublishMsg(m); err != nil {
		r.Close()
		return nil, natsError(err, "stream")
	}
	return r, nil
}

// Next returns the body of the next data message, io.EOF after a complete stream, or the error the
// stream ended with. A lost data message is an error at the end of the stream. A sender that died sends
// no end: ctx bounds the wait.
func (r *StreamReader) Next(ctx context.Context) ([]byte, error) {
	m, err := r.sub.NextMsgWithContext(ctx)
	if err != nil {
		return nil, natsError(err, "stream "+r.subject)
	}
	if id := m.Header.Get(HeaderRequestID); id != "" {
		r.ID = id
	}
	if s := m.Header.Get(HeaderCreditSubject); strings.HasPrefix(s, creditSubject("")) {
		r.grantTo = s
	}
	if err := errorOf(m); err != nil {
		return nil, err
	}
	if len(m.Data) == 0 {
		if count := m.Header.Get(HeaderCount); count != "" && count != strconv.FormatUint(r.read, 10) {
			return nil, schemas.Errorf(schemas.KindUnavailable, "stream", "%d of %s messages arrived", r.read, count).
				WithHint("the connection was too slow; read faster or use a larger buffer")
		}
		return nil, io.EOF
	}
	r.read++
	r.grant()
	return m.Data, nil
}

// grant returns credit in halves of the window: one message for many.
func (r *StreamReader) grant() {
	if r.unread++; r.grantTo != "" && r.unread >= r.window/2 {
		if r.conn.Publish(r.grantTo, strconv.AppendInt(nil, r.unread, 10)) == nil {
			r.unread = 0
		}
	}
}

// Close gives up the stream; the sender notices that nobody listens.
func (r *StreamReader) Close() {
	r.once.Do(func() { _ = r.sub.Unsubscribe() })
}
