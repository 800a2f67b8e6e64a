package bus

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/troupe-engine/troupe/schemas"
)

// Ref calls one endpoint of one instance (or of any, if the instance is ""), in this process or
// anywhere on the bus. It is safe for concurrent use.
type Ref[Req, Resp any] struct {
	node     *Node
	ep       schemas.Endpoint[Req, Resp]
	subject  string
	timeout  time.Duration // of one attempt
	attempts int
	invalid  *schemas.Error // the instance name is malformed
	found    atomic.Pointer[resolved[Req, Resp]]
}

type resolved[Req, Resp any] struct {
	version uint64
	port    *port[Req, Resp] // nil: not in this process
}

// NewRef makes a Ref. It resolves nothing yet: actors may come and go. A Ref to a malformed instance name
// answers every call with KindInvalid.
func NewRef[Req, Resp any](n *Node, ep schemas.Endpoint[Req, Resp], instance schemas.Instance) *Ref[Req, Resp] {
	r := &Ref[Req, Resp]{node: n, ep: ep, subject: ep.Subject(instance), timeout: timeoutOf(ep), attempts: max(ep.Attempts, 1)}
	if limit := n.opts.AttemptTimeMax; limit > 0 && limit < r.timeout {
		r.attempts = int(time.Duration(r.attempts) * r.timeout / limit)
		r.timeout = limit
	}
	if instance != "" {
		r.invalid = checkInstance(instance)
	}
	return r
}

// Call sends req and waits for the reply. An actor in this process is called directly, at no
// allocation if its mailbox is an idle Group; any other over NATS, where an unanswered request is
// repeated up to the endpoint's Attempts. Errors are *schemas.Error.
//
// The end of ctx ends the wait everywhere. The handler's own context ends with it in process; elsewhere
// the handler only learns the deadline.
func (r *Ref[Req, Resp]) Call(ctx context.Context, req *Req) (*Resp, error) {
	return r.call(ctx, req, nil)
}

// Timing says where the time of a call went.
type Timing struct {
	Serialize time.Duration // encoding and decoding, on both sides; none in process
	Service   time.Duration // in the handler
	Bus       time.Duration // the rest: waiting for the actor's turn, and the network
}

// Measure is Call, and says where the time went.
func (r *Ref[Req, Resp]) Measure(ctx context.Context, req *Req) (*Resp, Timing, error) {
	var t Timing
	began := time.Now()
	resp, err := r.call(ctx, req, &t)
	t.Bus = max(0, time.Since(began)-t.Serialize-t.Service)
	return resp, t, err
}

// call makes a call. t, if it is not nil, gets the parts of its time that are known on the way.
func (r *Ref[Req, Resp]) call(ctx context.Context, req *Req, t *Timing) (*Resp, error) {
	if r.invalid != nil {
		return nil, r.invalid
	}
	for {
		if p := r.local(); p != nil {
			if !r.node.opts.RemoteOnly {
				p.local.Add(1)
				if r.node.faults.Load() != nil {
					return r.disturbed(ctx, p, req, t)
				}
				return p.deliver(ctx, req, t)
			}
			if waits(p.mailbox, ctx) { // NATS would not know, and the call would wait for itself
				return nil, reentrant(p.owner)
			}
		}
		resp, err := r.remote(ctx, req, t)
		if err != errLocalNow {
			return resp, err
		}
	}
}

// disturbed calls an actor in this process through faults. Only what they lose is repeated.
func (r *Ref[Req, Resp]) disturbed(ctx context.Context, p *port[Req, Resp], req *Req, t *Timing) (*Resp, error) {
	op := "call " + r.subject
	for range r.attempts {
		f := r.node.faults.Load()
		if f == nil {
			return p.deliver(ctx, req, t)
		}
		var service atomic.Int64 // copies may still run when the call has ended
		resp, err := request(ctx, f, r.subject, r.timeout, func(ctx context.Context) (*Resp, error) {
			var own Timing
			resp, err := p.deliver(ctx, req, &own)
			service.CompareAndSwap(0, own.Service.Nanoseconds())
			return resp, err
		})
		if t != nil {
			t.Service = time.Duration(service.Load())
		}
		if err == nil {
			return resp, nil
		}
		if isError(err) { // the actor's own, or a fault
			return nil, err
		}
		if ctx.Err() != nil {
			return nil, schemas.AsError(ctx.Err(), op)
		}
	}
	return nil, r.unanswered(op)
}

func (r *Ref[Req, Resp]) unanswered(op string) *schemas.Error {
	return schemas.Errorf(schemas.KindTimeout, op, "no answer in %d attempts of %s", r.attempts, r.timeout)
}

// errLocalNow: while a call was asked over NATS, its actor started in this process. Over NATS it could wait for
// the very mailbox that the caller holds.
var errLocalNow = errors.New("bus: the actor is in this process now")

// local is the port in this process, or nil.
func (r *Ref[Req, Resp]) local() *port[Req, Resp] {
	version := r.node.version.Load()
	if f := r.found.Load(); f != nil && f.version == version {
		return f.port
	}
	p, _ := r.node.route(r.subject).(*port[Req, Resp])
	r.found.Store(&resolved[Req, Resp]{version, p})
	return p
}

func (r *Ref[Req, Resp]) remote(ctx context.Context, req *Req, t *Timing) (*Resp, error) {
	op := "call " + r.subject
	watch := stopwatch(t)
	body, err := msgpackEncoding.encode(req)
	if err != nil {
		return nil, schemas.Errorf(schemas.KindInternal, op, "encode request: %v", err)
	}
	if limit := r.node.data.MaxPayload(); int64(len(body)) > limit {
		return nil, tooLarge("request", len(body), limit)
	}
	encoding := watch.lap()
	reply, err := r.attempt(ctx, op, body, t != nil)
	if err != nil {
		return nil, err
	}
	watch.lap()
	resp := new(Resp)
	if err := msgpackEncoding.decode(reply.Data, resp); err != nil {
		return nil, schemas.Errorf(schemas.KindInternal, op, "decode reply: %v", err).
			WithHint("do both nodes run the same version? `nats micro ls` shows them")
	}
	if t != nil {
		t.read(reply.Header.Get(HeaderMeasured))
		t.Serialize += encoding + watch.lap()
	}
	return resp, nil
}

// HeaderMeasured in a request asks for the time that it takes; in the reply it is the nanoseconds of decoding and encoding,
// and of the handler.
const HeaderMeasured = "Troupe-Measured"

// watch measures laps, if anybody asked for them.
type watch struct{ at time.Time }

func stopwatch(t *Timing) (w watch) {
	if t != nil {
		w.at = time.Now()
	}
	return w
}

// lap is the time since the lap before.
func (w *watch) lap() time.Duration {
	if w.at.IsZero() {
		return 0
	}
	now := time.Now()
	took := now.Sub(w.at)
	w.at = now
	return took
}

func (t *Timing) String() string {
	return strconv.FormatInt(t.Serialize.Nanoseconds(), 10) + " " + strconv.FormatInt(t.Service.Nanoseconds(), 10)
}

// read takes what the other side has measured; nothing if it is of an earlier version.
func (t *Timing) read(header string) {
	serialize, service, _ := strings.Cut(header, " ")
	if ns, err := strconv.ParseInt(serialize, 10, 64); err == nil && ns > 0 {
		t.Serialize = time.Duration(ns)
	}
	if ns, err := strconv.ParseInt(service, 10, 64); err == nil && ns > 0 {
		t.Service = time.Duration(ns)
	}
}

// HeaderTimeout tells how long the caller will wait, in milliseconds, if that is less than the endpoint's
// timeout.
const HeaderTimeout = "Troupe-Timeout-Ms"

// retryPause is how long a caller waits for an actor that nobody serves now, but that may be restarting.
const retryPause = 50 * time.Millisecond

// attempt asks until an answer comes, the attempts are used up or ctx ends.
func (r *Ref[Req, Resp]) attempt(ctx context.Context, op string, body []byte, measured bool) (*nats.Msg, error) {
	var last error
	for i := range r.attempts {
		if i > 0 && !errors.Is(last, context.DeadlineExceeded) {
			sleep(ctx, min(r.timeout, retryPause))
		}
		if i > 0 && !r.node.opts.RemoteOnly && r.local() != nil {
			return nil, errLocalNow
		}
		reply, err := r.ask(ctx, body, measured)
		switch {
		case err == nil:
			return reply, errorOf(reply)
		case ctx.Err() != nil:
			return nil, schemas.AsError(ctx.Err(), op)
		case errors.Is(err, nats.ErrConnectionClosed):
			return nil, natsError(err, op)
		case isError(err): // a fault
			return nil, err
		}
		last = err
	}
	if errors.Is(last, context.DeadlineExceeded) {
		return nil, r.unanswered(op)
	}
	return nil, natsError(last, op)
}

func (r *Ref[Req, Resp]) ask(ctx context.Context, body []byte, measured bool) (*nats.Msg, error) {
	m := &nats.Msg{Subject: r.subject, Data: body}
	if measured {
		m.Header = nats.Header{HeaderMeasured: {"1"}}
	}
	if end, ok := ctx.Deadline(); ok {
		if left := time.Until(end); left < r.timeout {
			if m.Header == nil {
				m.Header = nats.Header{}
			}
			m.Header[HeaderTimeout] = []string{strconv.FormatInt(max(left.Milliseconds(), 1), 10)}
		}
	}
	attempt, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	if f := r.node.faults.Load(); f != nil {
		return request(attempt, f, r.subject, r.timeout, func(ctx context.Context) (*nats.Msg, error) { return r.node.data.RequestMsgWithContext(ctx, m) })
	}
	return r.node.data.RequestMsgWithContext(attempt, m)
}

// isError tells an error that was answered with from one of a connection or a context.
func isError(err error) bool {
	_, ok := err.(*schemas.Error)
	return ok
}

func sleep(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
