package bus

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/troupe-engine/troupe/schemas"
)

const (
	// PipelineQueueMax bounds the requests that wait for room in a pipeline's window.
	PipelineQueueMax = 64
	// pipelinePauseMin and pipelinePauseMax bound the wait before requests are sent again; it doubles while nothing gets on.
	pipelinePauseMin = time.Millisecond
	pipelinePauseMax = 100 * time.Millisecond
)

// PipelineConfig says how a Pipeline works.
type PipelineConfig[Req, Resp any] struct {
	// WindowMax bounds the requests that were sent and are not answered; with 1 each waits for the answer of the one before.
	WindowMax int
	// Done gets what became of each request, in order, on one goroutine. After an error those behind it go on.
	Done func(req *Req, resp *Resp, err error)
	// Again says whether a request that was refused is to be sent again, with those behind it; nil: none is.
	Again func(req *Req, err *schemas.Error) bool
	// TimeMax bounds the attempts at one request; 0 is the endpoint's Timeout times its Attempts.
	TimeMax time.Duration
}

// Pipeline sends requests to one endpoint in order, over NATS, without waiting for one answer before it sends the next request:
// over a network, what is told step by step costs no round trip each. Order is the receiver's to keep: it refuses with
// KindOutOfOrder what comes while a request before it is missing, and takes what it has had for a repeat. What is lost or refused
// so is sent again, with all that followed it.
type Pipeline[Req, Resp any] struct {
	ref     *Ref[Req, Resp]
	cfg     PipelineConfig[Req, Resp]
	queue   chan *Req
	answers chan heard
	inbox   string // what the subjects of answers begin with; the request's number and the round follow
	sub     *nats.Subscription
	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	stopped chan struct{}

	// Of the goroutine.
	sent   []*sending[Req, Resp] // oldest first, numbered without a gap
	number uint64                // of the latest
	round  uint64                // counts how often all were sent again
	due    time.Time             // when they are to be sent again; zero: when the oldest has no answer in time
	pause  time.Duration         // before that, the next time
}

// sending is a request that Done has yet to get.
type sending[Req, Resp any] struct {
	req    *Req
	body   []byte
	number uint64
	began  time.Time
	at     time.Time // of the last attempt
	ended  bool
	resp   *Resp
	err    error // why it ended; before, why the last attempt was in vain
}

// heard is an answer, or the fault that came in its place.
type heard struct {
	msg   *nats.Msg
	fault error
}

// NewPipeline starts a pipeline; Close ends it.
func NewPipeline[Req, Resp any](ref *Ref[Req, Resp], cfg PipelineConfig[Req, Resp]) (*Pipeline[Req, Resp], error) {
	if ref.invalid != nil {
		return nil, ref.invalid
	}
	if cfg.TimeMax == 0 {
		cfg.TimeMax = time.Duration(ref.attempts) * ref.timeout
	}
	p := &Pipeline[Req, Resp]{ref: ref, cfg: cfg, queue: make(chan *Req, PipelineQueueMax), answers: make(chan heard, 4*cfg.WindowMax),
		inbox: ref.node.data.NewInbox() + ".", stopped: make(chan struct{})}
	var err error
	if p.sub, err = ref.node.data.Subscribe(p.inbox+">", p.hear); err != nil {
		return nil, natsError(err, "start a pipeline")
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	go p.run()
	return p, nil
}

// Put takes a request, which must not change any more. It never waits; false means that PipelineQueueMax are waiting already.
func (p *Pipeline[Req, Resp]) Put(req *Req) bool {
	select {
	case p.queue <- req:
		return true
	default:
		return false
	}
}

// Close ends the pipeline. Done hears nothing of the requests that are under way.
func (p *Pipeline[Req, Resp]) Close() {
	p.cancel()
	<-p.stopped
	_ = p.sub.Unsubscribe() // an error means that the connection is gone, and the subscription with it
}

func (p *Pipeline[Req, Resp]) run() {
	defer close(p.stopped)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		queue := p.queue
		if len(p.sent) >= p.cfg.WindowMax {
			queue = nil
		}
		timer.Reset(p.patience())
		select {
		case req := <-queue:
			p.send(req)
		case h := <-p.answers:
			p.take(h)
		case <-timer.C:
			p.repeat()
		case <-p.ctx.Done():
			return
		}
		p.settle()
	}
}

// patience is how long to wait for answers.
func (p *Pipeline[Req, Resp]) patience() time.Duration {
	switch {
	case len(p.sent) == 0:
		return time.Hour
	case !p.due.IsZero():
		return time.Until(p.due)
	}
	return time.Until(p.sent[0].at.Add(p.ref.timeout))
}

func (p *Pipeline[Req, Resp]) send(req *Req) {
	p.number++
	s := &sending[Req, Resp]{req: req, number: p.number, began: time.Now()}
	p.sent = append(p.sent, s)
	var err error
	if s.body, err = msgpackEncoding.encode(req); err != nil {
		s.end(nil, schemas.Errorf(schemas.KindInternal, p.op(), "encode request: %v", err))
		return
	}
	if limit := p.ref.node.data.MaxPayload(); int64(len(s.body)) > limit {
		s.end(nil, tooLarge("request", len(s.body), limit))
		return
	}
	p.attempt(s)
}

func (p *Pipeline[Req, Resp]) op() string { return "call " + p.ref.subject }

func (s *sending[Req, Resp]) end(resp *Resp, err error) { s.ended, s.resp, s.err = true, resp, err }

// attempt sends a request. The round in its reply's subject tells what was refused before all were sent again.
func (p *Pipeline[Req, Resp]) attempt(s *sending[Req, Resp]) {
	s.at = time.Now()
	m := &nats.Msg{Subject: p.ref.subject, Data: s.body, Reply: p.inbox + strconv.FormatUint(s.number, 10) + "." + strconv.FormatUint(p.round, 10)}
	data, err := p.ref.node.data, error(nil)
	if f := p.ref.node.faults.Load(); f != nil {
		err = f.publish(m, data.PublishMsg)
	} else {
		err = data.PublishMsg(m)
	}
	switch {
	case err == nil:
	case isError(err): // a fault
		p.refused(s, err, true)
	default:
		s.err = natsError(err, p.op())
		p.later(retryPause)
	}
}

// hear takes an answer from NATS. If the pipeline does not keep up it is as if it were lost.
func (p *Pipeline[Req, Resp]) hear(m *nats.Msg) {
	push := func(fault error) error {
		select {
		case p.answers <- heard{m, fault}:
		default:
		}
		return nil
	}
	var fault error
	if f := p.ref.node.faults.Load(); f != nil {
		if fault = f.pass(p.ref.subject+schemas.ReplySuffix, replyFaults, func() error { return push(nil) }); fault == nil {
			return
		}
	}
	_ = push(fault)
}

// take applies an answer.
func (p *Pipeline[Req, Resp]) take(h heard) {
	m := h.msg
	number, round, ok := strings.Cut(strings.TrimPrefix(m.Subject, p.inbox), ".")
	n, err := strconv.ParseUint(number, 10, 64)
	if !ok || err != nil || len(p.sent) == 0 || n < p.sent[0].number || n > p.number {
		return
	}
	s := p.sent[n-p.sent[0].number]
	if s.ended {
		return
	}
	if err = h.fault; err == nil {
		err = errorOf(m)
	}
	if err == nil && len(m.Data) == 0 && m.Header.Get("Status") == "503" { // https://docs.nats.io/reference/reference-protocols/nats-protocol
		err = nats.ErrNoResponders
	}
	if err != nil {
		p.refused(s, err, round == strconv.FormatUint(p.round, 10))
		return
	}
	resp := new(Resp)
	if err := msgpackEncoding.decode(m.Data, resp); err != nil {
		s.end(nil, schemas.Errorf(schemas.KindInternal, p.op(), "decode reply: %v", err).
			WithHint("do both nodes run the same version? `nats micro ls` shows them"))
		return
	}
	s.end(resp, nil)
}

// refused ends a request with an error, or sees to it that all are sent again; not for what was said of an earlier round.
func (p *Pipeline[Req, Resp]) refused(s *sending[Req, Resp], err error, current bool) {
	e, pause := schemas.AsError(err, p.op()), time.Duration(0)
	switch {
	case err == nats.ErrNoResponders:
		e, pause = natsError(err, p.op()), retryPause
	case e.Kind == schemas.KindOutOfOrder:
	case p.cfg.Again != nil && p.cfg.Again(s.req, e):
		pause = pipelinePauseMin
	default:
		s.end(nil, err)
		return
	}
	if s.err = e; current {
		p.later(pause)
	}
}

// later sends all again after pause, or after longer if that did not help before.
func (p *Pipeline[Req, Resp]) later(pause time.Duration) {
	if p.due.IsZero() {
		p.due = time.Now().Add(max(pause, p.pause))
		p.pause = min(max(2*p.pause, pipelinePauseMin), pipelinePauseMax)
	}
}

// repeat sends all requests again, unless the oldest has been tried for too long.
func (p *Pipeline[Req, Resp]) repeat() {
	if len(p.sent) == 0 {
		return
	}
	p.due = time.Time{}
	oldest := p.sent[0]
	if time.Since(oldest.began) >= p.cfg.TimeMax {
		err := oldest.err
		if err == nil {
			err = p.ref.unanswered(p.op())
		}
		oldest.end(nil, err)
		return
	}
	p.round++
	for _, s := range p.sent {
		if !s.ended {
			p.attempt(s)
		}
	}
}

// settle hands on what has ended.
func (p *Pipeline[Req, Resp]) settle() {
	for len(p.sent) > 0 && p.sent[0].ended {
		s := p.sent[0]
		p.sent[0] = nil
		if p.sent = p.sent[1:]; s.err == nil {
			p.pause = 0
		}
		p.cfg.Done(s.req, s.resp, s.err)
	}
}
