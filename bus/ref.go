package bus

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/troupe-engine/troupe/schemas"
)

// Ref calls one endpoint of one instance (or of any, if the instance is ""), in this process or
// anywhere on the bus. It is safe for concurrent use.
type Ref[Req, Resp any] struct {
	node    *Node
	ep      schemas.Endpoint[Req, Resp]
	subject string
	found   atomic.Pointer[resolved[Req, Resp]]
}

type resolved[Req, Resp any] struct {
	version uint64
	port    *port[Req, Resp] // nil: not in this process
}

// NewRef makes a Ref. It resolves nothing yet: actors may come and go.
func NewRef[Req, Resp any](n *Node, ep schemas.Endpoint[Req, Resp], instance schemas.Instance) *Ref[Req, Resp] {
	return &Ref[Req, Resp]{node: n, ep: ep, subject: ep.Subject(instance)}
}

// Call sends req and waits for the reply. An actor in this process is called directly, at no
// allocation if its mailbox is an idle Group; any other over NATS, where an unanswered request is
// repeated up to the endpoint's Attempts. Errors are *schemas.Error.
func (r *Ref[Req, Resp]) Call(ctx context.Context, req *Req) (*Resp, error) {
	if p := r.local(); p != nil {
		p.local.Add(1)
		return p.deliver(ctx, req)
	}
	return r.remote(ctx, req)
}

func (r *Ref[Req, Resp]) local() *port[Req, Resp] {
	if r.node.opts.RemoteOnly {
		return nil
	}
	version := r.node.version.Load()
	if f := r.found.Load(); f != nil && f.version == version {
		return f.port
	}
	p, _ := r.node.route(r.subject).(*port[Req, Resp])
	r.found.Store(&resolved[Req, Resp]{version, p})
	return p
}

func (r *Ref[Req, Resp]) remote(ctx context.Context, req *Req) (*Resp, error) {
	body, err := msgpackEncoding.encode(req)
	if err != nil {
		return nil, schemas.Errorf(schemas.KindInternal, "call "+r.subject, "encode request: %v", err)
	}
	reply, err := r.attempt(ctx, body)
	if err != nil {
		return nil, err
	}
	resp := new(Resp)
	if err := msgpackEncoding.decode(reply.Data, resp); err != nil {
		return nil, schemas.Errorf(schemas.KindInternal, "call "+r.subject, "decode reply: %v", err).
			WithHint("do both nodes run the same version? `nats micro ls` shows them")
	}
	return resp, nil
}

// attempt asks until an answer comes, the attempts are used up or ctx ends.
func (r *Ref[Req, Resp]) attempt(ctx context.Context, body []byte) (*nats.Msg, error) {
	var last error
	for i := 0; i < max(r.ep.Attempts, 1); i++ {
		attempt, cancel := context.WithTimeout(ctx, r.ep.Timeout)
		reply, err := r.node.net.request(attempt, r.subject, body)
		cancel()
		switch {
		case err == nil:
			return reply, errorOf(reply)
		case ctx.Err() != nil:
			return nil, schemas.AsError(ctx.Err(), "call "+r.subject)
		case errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, nats.ErrMaxPayload):
			return nil, schemas.Errorf(schemas.KindUnavailable, "call "+r.subject, "%v", err)
		case errors.Is(err, nats.ErrNoResponders):
			// Nobody there now; an actor that is restarting will be.
			sleep(ctx, min(r.ep.Timeout, 50*time.Millisecond))
		}
		last = err
	}
	if errors.Is(last, nats.ErrNoResponders) {
		return nil, schemas.Errorf(schemas.KindUnavailable, "call "+r.subject, "no actor serves it").
			WithHint("`nats micro ls` lists the actors that run")
	}
	return nil, schemas.Errorf(schemas.KindTimeout, "call "+r.subject, "no answer in %d attempts of %s: %v", r.ep.Attempts, r.ep.Timeout, last)
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// errorOf returns the error a reply carries, or nil.
func errorOf(m *nats.Msg) error {
	code := m.Header.Get(micro.ErrorCodeHeader)
	if code == "" {
		return nil
	}
	e := &schemas.Error{}
	if err := encodingOf(m.Header.Get(headerContentType), m.Data).decode(m.Data, e); err == nil && e.Kind != "" {
		return e
	}
	// A stream's end marker, or a service that is not ours: the headers say all there is.
	status, _ := strconv.Atoi(code)
	return schemas.Errorf(schemas.KindOfStatus(status), "call "+m.Subject, "%s", m.Header.Get(micro.ErrorHeader))
}

// transport carries encoded requests. The faults transport wraps the NATS one.
type transport interface {
	request(ctx context.Context, subject string, body []byte) (*nats.Msg, error)
}

type natsTransport struct{ conn *nats.Conn }

func (t natsTransport) request(ctx context.Context, subject string, body []byte) (*nats.Msg, error) {
	return t.conn.RequestWithContext(ctx, subject, body)
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
