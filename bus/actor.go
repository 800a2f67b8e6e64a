package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"

	"github.com/nats-io/nats.go/micro"

	"github.com/troupe-engine/troupe/schemas"
)

// BuildVersion is the version actors announce. The command sets it at start.
var BuildVersion = "0.1.0"

// Actor is a named set of endpoints on a node. Build it with NewActor and Handle, then Start it.
type Actor struct {
	node     *Node
	service  string
	instance schemas.Instance
	doc      string
	ports    []startable
	micro    micro.Service
}

type startable interface {
	open(a *Actor, group micro.Service) error
	close(n *Node)
	localStats() any
}

// NewActor prepares an actor of a service ("scheduler") under an instance name ("replica0"). doc is
// one sentence for `nats micro info`.
func NewActor(n *Node, service string, instance schemas.Instance, doc string) *Actor {
	return &Actor{node: n, service: service, instance: instance, doc: doc}
}

// Name is service and instance: "scheduler.replica0".
func (a *Actor) Name() string { return a.service + "." + string(a.instance) }

// Instance is the actor's instance name.
func (a *Actor) Instance() schemas.Instance { return a.instance }

// Node is where the actor lives.
func (a *Actor) Node() *Node { return a.node }

// Start makes the actor reachable: in this process, and over NATS as a micro service whose endpoints
// carry their schema and example data.
func (a *Actor) Start() error {
	svc, err := micro.AddService(a.node.data, micro.Config{
		Name: a.service, Version: BuildVersion, Description: a.doc,
		Metadata: map[string]string{"instance": string(a.instance), "node": string(a.node.id)},
		StatsHandler: func(e *micro.Endpoint) any {
			for _, p := range a.ports {
				if s, ok := p.localStats().(portStats); ok && s.Endpoint == e.Name {
					return s
				}
			}
			return nil
		},
	})
	if err != nil {
		return fmt.Errorf("bus: %s: %w", a.Name(), err)
	}
	a.micro = svc
	for _, p := range a.ports {
		if err := p.open(a, svc); err != nil {
			a.stop()
			return fmt.Errorf("bus: %s: %w", a.Name(), err)
		}
	}
	a.node.mu.Lock()
	a.node.actors = append(a.node.actors, a)
	a.node.mu.Unlock()
	return nil
}

// Stop makes the actor unreachable. Running handlers finish.
func (a *Actor) Stop() { a.stop() }

func (a *Actor) stop() {
	for _, p := range a.ports {
		p.close(a.node)
	}
	if a.micro != nil && !a.micro.Stopped() {
		_ = a.micro.Stop() // an error means that the connection is gone, and the service with it
	}
}

// Handler answers one request. It must not keep or change the request, nor change the reply after
// returning it: in process both are shared.
type Handler[Req, Resp any] func(ctx context.Context, req *Req) (*Resp, error)

// Handle serves an endpoint of the actor with h, run by mailbox mb. Call before Start.
func Handle[Req, Resp any](a *Actor, ep schemas.Endpoint[Req, Resp], mb Mailbox, h Handler[Req, Resp]) {
	if ep.Service != a.service {
		panic(fmt.Sprintf("bus: actor %s cannot serve %s.%s", a.Name(), ep.Service, ep.Verb))
	}
	a.ports = append(a.ports, &port[Req, Resp]{owner: a, ep: ep, mailbox: mb, handle: h,
		subject: ep.Subject(a.instance), shared: ep.Subject("")})
}

// port is one endpoint of one actor.
type port[Req, Resp any] struct {
	owner           *Actor
	ep              schemas.Endpoint[Req, Resp]
	subject, shared string // with and without the instance
	mailbox         Mailbox
	handle          Handler[Req, Resp]
	request, reply  tapPoint
	local, failed   atomic.Uint64
	isShared        bool // this port also answers in process for the shared subject
	pool            callPool[Req, Resp]
}

// portStats is what `nats micro stats` shows beside its own counts of NATS requests.
type portStats struct {
	Endpoint  string `json:"endpoint"`
	InProcess uint64 `json:"in_process"` // deliveries that never touched NATS
	Failed    uint64 `json:"failed"`     // answered with an error, from anywhere
}

func (p *port[Req, Resp]) localStats() any {
	return portStats{Endpoint: p.ep.Verb, InProcess: p.local.Load(), Failed: p.failed.Load()}
}

func (p *port[Req, Resp]) open(a *Actor, svc micro.Service) error {
	p.request = a.node.taps.point(p.subject)
	p.reply = a.node.taps.point(p.subject + schemas.ReplySuffix)
	if err := a.node.addRoute(p.subject, p); err != nil {
		return err
	}
	p.isShared = a.node.addRoute(p.shared, p) == nil
	metadata := map[string]string{
		"doc":              p.ep.Doc,
		"request_schema":   schemas.JSONSchemaOf[Req](),
		"reply_schema":     schemas.JSONSchemaOf[Resp](),
		"request_example":  exampleJSON[Req](),
		"reply_example":    exampleJSON[Resp](),
		"instance_subject": p.subject,
	}
	handler := micro.HandlerFunc(p.serveNATS)
	err := svc.AddEndpoint(p.ep.Verb, handler, micro.WithEndpointSubject(p.shared),
		micro.WithEndpointQueueGroup(a.service), micro.WithEndpointMetadata(metadata))
	if err != nil {
		return err
	}
	return svc.AddEndpoint(p.ep.Verb+"-"+string(a.instance), handler, micro.WithEndpointSubject(p.subject),
		micro.WithEndpointQueueGroup(a.Name()), micro.WithEndpointMetadata(map[string]string{"doc": p.ep.Doc}))
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

func (p *port[Req, Resp]) close(n *Node) {
	n.removeRoute(p.subject)
	if p.isShared {
		n.removeRoute(p.shared)
	}
}

// deliver runs the handler under its mailbox and mirrors both directions to the taps.
func (p *port[Req, Resp]) deliver(ctx context.Context, req *Req) (*Resp, error) {
	p.request.mirror(req)
	call := p.pool.get()
	call.port, call.req = p, req
	err := p.mailbox.do(ctx, call)
	if err != nil {
		// The call may still be queued or running: it is not reused.
		p.failed.Add(1)
		return nil, p.fail(err)
	}
	resp, err := call.resp, call.err
	p.pool.put(call)
	if err != nil {
		p.failed.Add(1)
		e := p.fail(err)
		p.reply.mirror(e)
		return nil, e
	}
	p.reply.mirror(resp)
	return resp, nil
}

// fail gives an error the name of the actor that reports it.
func (p *port[Req, Resp]) fail(err error) *schemas.Error {
	e := schemas.AsError(err, p.ep.Verb)
	if e.Actor == "" {
		c := *e
		c.Actor = p.owner.Name()
		e = &c
	}
	return e
}

// serveNATS answers a request that arrived over NATS.
func (p *port[Req, Resp]) serveNATS(r micro.Request) {
	if _, concurrent := p.mailbox.(*Pool); concurrent {
		go p.answer(r)
		return
	}
	p.answer(r)
}

func (p *port[Req, Resp]) answer(r micro.Request) {
	enc := encodingOf(r.Headers().Get(headerContentType), r.Data())
	req := new(Req)
	if err := enc.decode(r.Data(), req); err != nil {
		p.failed.Add(1)
		respondError(r, enc, p.fail(schemas.Errorf(schemas.KindInvalid, "decode request", "%v", err).
			WithHint("see the schema and example in `nats micro info %s`", p.owner.service)))
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), p.ep.Timeout)
	defer cancel()
	resp, err := p.deliver(ctx, req)
	if err != nil {
		respondError(r, enc, p.fail(err))
		return
	}
	body, err := enc.encode(resp)
	if err != nil {
		respondError(r, enc, p.fail(schemas.Errorf(schemas.KindInternal, "encode reply", "%v", err)))
		return
	}
	if err := r.Respond(body); err != nil {
		p.owner.node.log.Warn().Err(err).Str("subject", p.subject).Msg("reply not sent")
	}
}

func respondError(r micro.Request, enc encoding, e *schemas.Error) {
	body, err := enc.encode(e)
	if err != nil {
		body = nil
	}
	// The description header must be one line.
	_ = r.Error(fmt.Sprint(e.Kind.HTTPStatus()), headerSafe(e.Error()), body, micro.WithHeaders(micro.Headers{headerContentType: {enc.contentType()}}))
}

// call is a pooled task.
type call[Req, Resp any] struct {
	port *port[Req, Resp]
	req  *Req
	resp *Resp
	err  error
}

func (c *call[Req, Resp]) actor() *Actor { return c.port.owner }

func (c *call[Req, Resp]) run(ctx context.Context) {
	if _, concurrent := c.port.mailbox.(*Pool); concurrent {
		// Pools do pure work on outside input: one request's bug must not end the others. Elsewhere a
		// panic means that an actor's state is broken, and the process must not go on with it.
		defer func() {
			if r := recover(); r != nil {
				c.port.owner.node.log.Error().Str("actor", c.port.owner.Name()).Any("panic", r).Bytes("stack", debug.Stack()).Msg("handler panicked")
				c.err = schemas.Errorf(schemas.KindInternal, c.port.ep.Verb, "panic: %v", r).WithHint("this is a bug: please report it with the log's stack trace")
			}
		}()
	}
	c.resp, c.err = c.port.handle(ctx, c.req)
	if c.resp == nil && c.err == nil {
		c.err = errors.New("the handler returned neither reply nor error")
	}
}

// Run executes f as a handler of a under mailbox mb, for events that are not messages, such as time.
func Run(mb Mailbox, a *Actor, f func(ctx context.Context)) {
	_ = mb.do(context.Background(), &action{a, f}) // fails only if the actor has stopped or is overloaded: then time may pass it by
}

type action struct {
	owner *Actor
	f     func(ctx context.Context)
}

func (t *action) actor() *Actor           { return t.owner }
func (t *action) run(ctx context.Context) { t.f(ctx) }
