package bus

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/troupe-engine/troupe/schemas"
)

// Handler answers one request. It must not keep or change the request, nor change the reply after
// returning it: in process both are shared. ctx ends when the handler returns, and calls with it are
// made one at a time: a goroutine that the handler leaves behind needs a context of its own.
type Handler[Req, Resp any] func(ctx context.Context, req *Req) (*Resp, error)

// Handle serves an endpoint of the actor with h, run by mailbox mb. Call before Start.
func Handle[Req, Resp any](a *Actor, ep schemas.Endpoint[Req, Resp], mb Mailbox, h Handler[Req, Resp]) {
	if ep.Service != a.service {
		panic(fmt.Sprintf("bus: actor %s cannot serve %s.%s", a.Name(), ep.Service, ep.Verb))
	}
	if a.started {
		panic(fmt.Sprintf("bus: actor %s is started: handle %s before", a.Name(), ep.Verb))
	}
	_, concurrent := mb.(*Pool)
	a.ports = append(a.ports, &port[Req, Resp]{owner: a, ep: ep, mailbox: mb, handle: h, concurrent: concurrent,
		subject: ep.Subject(a.instance), shared: ep.Subject(""), timeout: timeoutOf(ep)})
}

// timeoutDefault is for endpoints that do not say.
const timeoutDefault = 5 * time.Second

func timeoutOf[Req, Resp any](ep schemas.Endpoint[Req, Resp]) time.Duration {
	if ep.Timeout <= 0 {
		return timeoutDefault
	}
	return ep.Timeout
}

// port is one endpoint of one actor.
type port[Req, Resp any] struct {
	owner           *Actor
	ep              schemas.Endpoint[Req, Resp]
	subject, shared string // with and without the instance
	replySubject    string
	journaled       bool // deliveries go to the node's journal
	timeout         time.Duration
	mailbox         Mailbox
	concurrent      bool // the mailbox is a Pool
	handle          Handler[Req, Resp]
	inbox           *inbox
	request, reply  tapPoint
	local, failed   atomic.Uint64
	answered        atomic.Uint64 // over NATS
	answeringNs     atomic.Int64
	pool            callPool[Req, Resp]
}

// portStats is what `nats micro stats` shows beside its own counts of NATS requests.
type portStats struct {
	Endpoint  string `json:"endpoint"`
	InProcess uint64 `json:"in_process"` // deliveries that never touched NATS
	Failed    uint64 `json:"failed"`     // answered with an error, from anywhere
	// Requests over NATS and the mean time from their arrival to the answer. (The service's own processing
	// time ends when the request is queued.)
	Answered     uint64 `json:"answered"`
	AnswerNsMean int64  `json:"answer_ns_mean"`
}

func (p *port[Req, Resp]) localStats() portStats {
	s := portStats{Endpoint: p.ep.Verb, InProcess: p.local.Load(), Failed: p.failed.Load(), Answered: p.answered.Load()}
	if s.Answered > 0 {
		s.AnswerNsMean = p.answeringNs.Load() / int64(s.Answered)
	}
	return s
}

// open makes the port reachable under two subjects: the instance's own, and the one that all instances
// of the service share, where a queue group picks one of them for each request.
func (p *port[Req, Resp]) open(a *Actor, svc micro.Service) error {
	p.request = a.node.taps.point(p.subject)
	p.replySubject = p.subject + schemas.ReplySuffix
	p.reply = a.node.taps.point(p.replySubject)
	p.journaled = !a.ownJournal
	p.inbox = newInbox(p.concurrent, p.answer)
	if err := a.node.addRoute(p.subject, p, true); err != nil {
		return err
	}
	if err := a.node.addRoute(p.shared, p, false); err != nil {
		return err
	}
	metadata := map[string]string{
		"doc":              p.ep.Doc,
		"request_schema":   schemas.JSONSchemaOf[Req](),
		"reply_schema":     schemas.JSONSchemaOf[Resp](),
		"request_example":  exampleJSON[Req](),
		"reply_example":    exampleJSON[Resp](),
		"instance_subject": p.subject,
	}
	handler, limits := micro.HandlerFunc(p.serveNATS), micro.WithEndpointPendingLimits(subPendingMsgsMax, subPendingBytesMax)
	err := svc.AddEndpoint(p.ep.Verb, handler, micro.WithEndpointSubject(p.shared),
		micro.WithEndpointQueueGroup(a.service), micro.WithEndpointMetadata(metadata), limits)
	if err != nil {
		return err
	}
	return svc.AddEndpoint(p.ep.Verb+"-"+string(a.instance), handler, micro.WithEndpointSubject(p.subject),
		micro.WithEndpointQueueGroup(a.Name()), micro.WithEndpointMetadata(map[string]string{"doc": p.ep.Doc}), limits)
}

func exampleJSON[T any]() string {
	e, ok := any(new(T)).(interface{ Example() *T })
	if !ok {
		return ""
	}
	b, err := json.Marshal(e.Example())
	if err != nil {
		return ""
	}
	return string(b)
}

func (p *port[Req, Resp]) unroute(n *Node) {
	n.removeRoute(p.subject, p)
	n.removeRoute(p.shared, p)
}

func (p *port[Req, Resp]) drain() {
	if p.inbox != nil {
		p.inbox.close()
	}
}

// deliver runs the handler under its mailbox and mirrors both directions to the taps.
// t, if it is not nil, gets the handler's time.
func (p *port[Req, Resp]) deliver(ctx context.Context, req *Req, t *Timing) (*Resp, error) {
	p.request.mirror(req)
	p.journal(p.subject, req)
	err := ctx.Err()
	if err == nil {
		call := p.pool.get()
		call.port, call.req, call.measured = p, req, t != nil
		if err = p.mailbox.do(ctx, call); err == nil {
			resp, failure := call.resp, call.err
			if t != nil {
				t.Service = call.took
			}
			p.pool.put(call)
			if failure == nil {
				p.reply.mirror(resp)
				p.journal(p.replySubject, resp)
				return resp, nil
			}
			err = failure
		}
		// Without its turn, a call may still be queued or running: it is not reused.
	}
	p.failed.Add(1)
	e := p.fail(err)
	p.reply.mirror(e)
	p.journal(p.replySubject, e)
	return nil, e
}

// journal notes a delivery of an actor that keeps no journal of its own.
func (p *port[Req, Resp]) journal(subject string, message any) {
	if p.journaled {
		p.owner.node.journal.deliver(p.owner, subject, message)
	}
}

// fail gives an error the name of the actor that reports it.
func (p *port[Req, Resp]) fail(err error) *schemas.Error {
	e := schemas.AsError(err, p.ep.Verb)
	if e == nil { // a nil *schemas.Error, returned as an error
		e = schemas.Errorf(schemas.KindInternal, p.ep.Verb, "the handler returned an error that is nil")
	}
	if e.Actor == "" {
		c := *e
		c.Actor = p.owner.Name()
		e = &c
	}
	return e
}

// serveNATS takes a request that arrived over NATS. What is answered later, on another goroutine, is a
// message of ours: a micro.Request belongs to the goroutine that delivers it.
func (p *port[Req, Resp]) serveNATS(r micro.Request) {
	m := &nats.Msg{Subject: r.Subject(), Reply: r.Reply(), Header: nats.Header(r.Headers()), Data: r.Data()}
	if err := p.inbox.put(m); err != nil {
		p.refuse(m, encodingOf(m.Header.Get(headerContentType), m.Data), err)
	}
}

// answer decodes a request, delivers it and responds.
func (p *port[Req, Resp]) answer(m *nats.Msg, arrived time.Time) {
	defer func() {
		p.answered.Add(1)
		p.answeringNs.Add(time.Since(arrived).Nanoseconds())
	}()
	enc := encodingOf(m.Header.Get(headerContentType), m.Data)
	req := new(Req)
	var measured *Timing
	if m.Header.Get(HeaderMeasured) != "" {
		measured = &Timing{}
	}
	laps := stopwatch(measured)
	if err := enc.decode(m.Data, req); err != nil {
		p.owner.node.refuse(RefusedMalformed, m.Subject, err)
		p.refuse(m, enc, schemas.Errorf(schemas.KindInvalid, "decode request", "%v", err).
			WithHint("see the schema and example in `nats micro info %s`", p.owner.service))
		return
	}
	ctx, cancel := context.WithDeadline(context.Background(), arrived.Add(p.patience(m.Header.Get(HeaderTimeout))))
	defer cancel()
	decoding := laps.lap()
	resp, err := p.deliver(ctx, req, measured)
	if err != nil {
		p.respondError(m, enc, p.fail(err))
		return
	}
	laps.lap()
	body, err := enc.encode(resp)
	if err != nil {
		p.refuse(m, enc, schemas.Errorf(schemas.KindInternal, "encode reply", "%v", err))
		return
	}
	if limit := p.owner.node.data.MaxPayload(); int64(len(body)) > limit {
		p.refuse(m, enc, tooLarge("reply", len(body), limit))
		return
	}
	reply := &nats.Msg{Data: body}
	if measured != nil {
		measured.Serialize = decoding + laps.lap()
		reply.Header = nats.Header{HeaderMeasured: {measured.String()}}
	}
	p.respond(m, reply)
}

func (p *port[Req, Resp]) respond(m, reply *nats.Msg) {
	if m.Reply == "" {
		return // published, not asked
	}
	if err := checkReply(m.Reply); err != nil {
		p.owner.node.refuse(RefusedPublish, m.Subject, err)
		return
	}
	reply.Subject = m.Reply
	if err := p.owner.node.data.PublishMsg(reply); err != nil {
		p.owner.node.log.Warn().Err(err).Str("subject", m.Subject).Msg("reply not sent")
	}
}

// patience is how long the caller waits: the endpoint's timeout, or less if the caller says so.
func (p *port[Req, Resp]) patience(milliseconds string) time.Duration {
	if ms, err := strconv.ParseInt(milliseconds, 10, 32); err == nil && ms > 0 {
		return min(p.timeout, time.Duration(ms)*time.Millisecond)
	}
	return p.timeout
}

// refuse answers a request that did not come to a handler, or whose answer cannot travel.
func (p *port[Req, Resp]) refuse(m *nats.Msg, enc encoding, e *schemas.Error) {
	p.failed.Add(1)
	p.respondError(m, enc, p.fail(e))
}

func (p *port[Req, Resp]) respondError(m *nats.Msg, enc encoding, e *schemas.Error) {
	if m.Reply == "" {
		p.owner.node.log.Debug().Err(e).Str("subject", m.Subject).Msg("a published message failed")
		return
	}
	body, err := enc.encode(e)
	if err != nil {
		body = nil // the headers say the kind and the text
	}
	p.respond(m, &nats.Msg{Data: body, Header: nats.Header{
		headerContentType:     {enc.contentType()},
		micro.ErrorHeader:     {headerSafe(e.Error())},
		micro.ErrorCodeHeader: {strconv.Itoa(e.Kind.HTTPStatus())},
	}})
}

// call is a pooled task.
type call[Req, Resp any] struct {
	port *port[Req, Resp]
	req  *Req
	resp *Resp
	err  error

	measured bool          // somebody asks how long the handler takes
	took     time.Duration // then
}

func (c *call[Req, Resp]) actor() *Actor { return c.port.owner }

func (c *call[Req, Resp]) run(ctx context.Context) {
	p := c.port
	if !p.owner.gate.enter() {
		c.err = stopped(p.owner)
		return
	}
	defer p.owner.gate.leave()
	if p.concurrent {
		// Pools do pure work on outside input: one request's bug must not end the others. Elsewhere a
		// panic means that an actor's state is broken, and the process must not go on with it.
		defer func() {
			if r := recover(); r != nil {
				p.owner.node.log.Error().Str("actor", p.owner.Name()).Any("panic", r).Bytes("stack", debug.Stack()).Msg("handler panicked")
				c.err = schemas.Errorf(schemas.KindInternal, p.ep.Verb, "panic: %v", r).WithHint("this is a bug: please report it with the log's stack trace")
			}
		}()
	}
	var began time.Time
	if c.measured {
		began = time.Now()
	}
	c.resp, c.err = p.handle(ctx, c.req)
	if c.measured {
		c.took = time.Since(began)
	}
	if c.resp == nil && c.err == nil {
		c.err = schemas.Errorf(schemas.KindInternal, p.ep.Verb, "the handler returned neither reply nor error")
	}
}

// callPool recycles calls, so that a local hop allocates nothing.
type callPool[Req, Resp any] struct{ pool sync.Pool }

func (p *callPool[Req, Resp]) get() *call[Req, Resp] {
	if c, ok := p.pool.Get().(*call[Req, Resp]); ok {
		return c
	}
	return &call[Req, Resp]{}
}

func (p *callPool[Req, Resp]) put(c *call[Req, Resp]) {
	*c = call[Req, Resp]{}
	p.pool.Put(c)
}
