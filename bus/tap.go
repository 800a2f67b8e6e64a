package bus

import (
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe/schemas"
)

// TapQueueMax bounds the deliveries waiting to be mirrored. Beyond it mirrors are dropped, which the
// gap in their sequence numbers shows; the actors never wait.
const TapQueueMax = 16 << 10

// Headers of a mirrored delivery.
const (
	HeaderTapSequence = "Troupe-Tap-Seq"  // counts a node's messages to tap.> from 1, and those to peek.>; gaps were dropped
	HeaderTapTime     = "Troupe-Tap-Time" // unix nanoseconds of the delivery
	HeaderTapNode     = "Troupe-Tap-Node"
)

// tapper mirrors deliveries to tap.<subject> as msgpack and to peek.<subject> as JSON, each only while
// somebody subscribes. Messages are immutable once sent, so encoding waits for a goroutine of its own.
type tapper struct {
	node       schemas.NodeID
	conn       *nats.Conn
	interested func(subject string) bool
	log        zerolog.Logger

	sequence [2]atomic.Uint64 // by encoding
	dropped  atomic.Uint64
	queue    chan tapRecord
	stop     chan struct{}
	stopped  sync.WaitGroup
}

type tapRecord struct {
	subject  string
	encoding encoding
	message  any
	sequence uint64
	unixNano int64
}

func newTapper(node schemas.NodeID, conn *nats.Conn, interested func(string) bool, log zerolog.Logger) *tapper {
	t := &tapper{node: node, conn: conn, interested: interested, log: log, queue: make(chan tapRecord, TapQueueMax), stop: make(chan struct{})}
	t.stopped.Add(1)
	go t.publish()
	return t
}

// point prepares mirroring for one subject.
func (t *tapper) point(subject string) tapPoint {
	return tapPoint{t, schemas.TapPrefix + subject, schemas.PeekPrefix + subject}
}

type tapPoint struct {
	tapper    *tapper
	tap, peek string
}

// mirror costs two interest checks (about 0.1 µs, no allocation) when nobody listens.
func (p *tapPoint) mirror(message any) {
	if p.tapper.interested(p.tap) {
		p.tapper.add(p.tap, msgpackEncoding, message)
	}
	if p.tapper.interested(p.peek) {
		p.tapper.add(p.peek, jsonEncoding, message)
	}
}

func (t *tapper) add(subject string, enc encoding, message any) {
	r := tapRecord{subject, enc, message, t.sequence[enc].Add(1), time.Now().UnixNano()}
	select {
	case t.queue <- r:
	default:
		if t.dropped.Add(1) == 1 {
			t.log.Warn().Str("subject", subject).Int("queue_max", TapQueueMax).
				Msg("taps fall behind: deliveries are not mirrored (their sequence numbers are skipped)")
		}
	}
}

func (t *tapper) publish() {
	defer t.stopped.Done()
	for {
		select {
		case r := <-t.queue:
			t.send(r)
		case <-t.stop:
			for {
				select {
				case r := <-t.queue:
					t.send(r)
				default:
					_ = t.conn.FlushTimeout(drainTimeout)
					return
				}
			}
		}
	}
}

func (t *tapper) send(r tapRecord) {
	body, err := r.encoding.encode(r.message)
	if err != nil {
		t.log.Error().Err(err).Str("subject", r.subject).Msg("cannot mirror a delivery")
		return
	}
	m := nats.NewMsg(r.subject)
	m.Data = body
	m.Header.Set(HeaderTapSequence, strconv.FormatUint(r.sequence, 10))
	m.Header.Set(HeaderTapTime, strconv.FormatInt(r.unixNano, 10))
	m.Header.Set(HeaderTapNode, string(t.node))
	if err := t.conn.PublishMsg(m); err != nil && t.dropped.Add(1) == 1 {
		t.log.Warn().Err(err).Str("subject", r.subject).Msg("cannot mirror a delivery")
	}
}

func (t *tapper) close() {
	close(t.stop)
	t.stopped.Wait()
}
