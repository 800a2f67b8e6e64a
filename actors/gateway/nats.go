package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

const (
	apiName           = "api"                  // of the micro service, in `nats micro ls`
	receiverLookEvery = 250 * time.Millisecond // whether anybody still waits for a NATS answer
	// errorHeaderBytesMax bounds an error in a header; a longer one is told by kind and text alone.
	errorHeaderBytesMax = 4096
	registerTimeMax     = 5 * time.Second // for the embedded server to take the subscriptions
	forwardTimeMax      = 2 * time.Second // for another gateway to cancel its request
	headerContentType   = "Content-Type"
	headerRetryAfter    = "Retry-After"
	headerTraceContext  = "traceparent"
)

// startNATS registers the subjects that clients use, as a micro service that `nats micro ls/info/stats`
// list with schemas and examples. Each is served for any gateway, as inf.v1.chat, and for this one, as
// inf.v1.chat.<instance>.
func (g *Gateway) startNATS() error {
	svc, err := micro.AddService(g.node.Conn(), micro.Config{Name: apiName, Version: bus.BuildVersion,
		Description: "What clients ask over NATS; the same objects as over HTTP.",
		Metadata:    map[string]string{"instance": string(g.cfg.Instance), "node": string(g.node.ID())}})
	if err != nil {
		return schemas.AsError(err, "register "+apiName)
	}
	g.api = svc
	handlers := map[string]micro.HandlerFunc{"tokenize": g.natsAsk(g.tokenize), "detokenize": g.natsAsk(g.detokenize),
		"models": g.natsModels, "cancel": g.natsCancel}
	for verb, a := range clientAPIs {
		handlers[verb] = g.natsJob(a)
	}
	for _, e := range schemas.ClientEndpoints() {
		h, instance := handlers[e.Verb], string(g.cfg.Instance)
		if err := svc.AddEndpoint(e.Verb, h, micro.WithEndpointSubject(e.Subject()), micro.WithEndpointQueueGroup("gateway"),
			micro.WithEndpointMetadata(metadataOf(e))); err != nil {
			return schemas.AsError(err, "register "+e.Subject())
		}
		if err := svc.AddEndpoint(e.Verb+"-"+instance, h, micro.WithEndpointSubject(e.Subject()+"."+instance),
			micro.WithEndpointQueueGroup(g.actor.Name()), micro.WithEndpointMetadata(map[string]string{"doc": e.Doc})); err != nil {
			return schemas.AsError(err, "register "+e.Subject())
		}
	}
	own := cancelSubject(g.prefix)
	if err := svc.AddEndpoint("cancel-own", micro.HandlerFunc(g.natsCancel), micro.WithEndpointSubject(own),
		micro.WithEndpointMetadata(map[string]string{"doc": "Where other gateways send cancellations of this gateway's requests."})); err != nil {
		return schemas.AsError(err, "register "+own)
	}
	// Without this, a request on another connection could come before the server knows the subjects.
	if err := g.node.Conn().FlushTimeout(registerTimeMax); err != nil {
		return schemas.AsError(err, "register "+apiName)
	}
	return nil
}

// cancelSubject is where the gateway with a request id prefix hears of cancellations: an id leads to
// its owner.
func cancelSubject(prefix uint32) string {
	return fmt.Sprintf("%scancel.%06x", schemas.SubjectPrefix, prefix)
}

func metadataOf(e schemas.ClientEndpoint) map[string]string {
	m := map[string]string{"doc": e.Doc,
		"request_schema": schemas.JSONSchema(e.Request), "request_example": string(mustJSON(e.RequestExample)),
		"reply_schema": schemas.JSONSchema(e.Reply), "reply_example": string(mustJSON(e.ReplyExample))}
	if e.Event != nil {
		m["event_schema"], m["event_example"] = schemas.JSONSchema(e.Event), string(mustJSON(e.EventExample))
	}
	return m
}

func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("gateway: %T: %v", v, err)) // our own types always marshal
	}
	return b
}

func (g *Gateway) stopNATS() {
	g.closing.Lock()
	g.closed = true
	g.closing.Unlock()
	if g.api != nil && !g.api.Stopped() {
		_ = g.api.Stop() // an error means that the connection is gone, and the service with it
	}
}

// exchange is one request over NATS.
type exchange struct {
	g       *Gateway
	request *nats.Msg
	writer  *bus.StreamWriter // knows the encoding and whether anybody waits
	id      string            // of the client request, once it has one
}

// natsExchange starts to answer a request on a goroutine of its own: the subscription's must go on. It
// refuses what comes when too many are being read, and drops what wants no answer.
func (g *Gateway) natsExchange(r micro.Request, serve func(x *exchange)) {
	m := &nats.Msg{Subject: r.Subject(), Reply: r.Reply(), Header: nats.Header(r.Headers()), Data: r.Data()}
	plain := *m
	plain.Header = nats.Header{headerContentType: {m.Header.Get(headerContentType)}}
	w, err := g.node.NewStreamWriter(&plain, "")
	if err != nil {
		g.log.Warn().Err(err).Str("subject", m.Subject).Msg("a request cannot be answered")
		return
	}
	x := &exchange{g: g, request: m, writer: w}
	g.closing.RLock()
	defer g.closing.RUnlock()
	if g.closed {
		x.fail(schemas.Errorf(schemas.KindUnavailable, "admit", "the server has shut down"), true)
		return
	}
	select {
	case g.readers <- struct{}{}:
		g.background.Go(func() { serve(x) })
	default:
		x.fail(g.tooManyReaders(), true)
	}
}

// natsJob answers a generating request, as one message or as a stream.
func (g *Gateway) natsJob(a *api) micro.HandlerFunc {
	return func(r micro.Request) {
		g.natsExchange(r, func(x *exchange) { x.serveJob(a) })
	}
}

func (x *exchange) serveJob(a *api) {
	f, err := x.begin(a)
	<-x.g.readers
	if err != nil {
		x.fail(err, f == nil || f.job.stream)
		return
	}
	if f.job.stream {
		err = x.stream(f)
		f.end(err)
		return
	}
	err = f.run(natsSink{x.writer})
	f.end(err)
	if err != nil {
		x.fail(err, false)
		return
	}
	x.reply(f.answer.whole())
}

// fields splits the request, which is JSON or msgpack.
func (x *exchange) fields() (fields, *schemas.Error) {
	if x.writer.JSON() {
		return fieldsOfJSON(x.request.Data)
	}
	return fieldsOfMsgpack(x.request.Data)
}

// begin parses the request and starts its flight.
func (x *exchange) begin(a *api) (*flight, *schemas.Error) {
	if err := x.g.requests.refuse(""); err != nil { // what is wrong with it can wait: refusing must cost little
		return nil, err
	}
	arrived := time.Now()
	f, err := x.fields()
	if err != nil {
		return nil, err
	}
	j, err := x.g.read(a, f)
	if err != nil {
		return nil, err
	}
	j.arrived = arrived
	j.trace = traceID(x.request.Header.Get(headerTraceContext))
	j.route(x.request.Header.Get)
	id := x.g.newRequestID()
	x.id = id.String()
	return x.g.begin(context.Background(), id, j)
}

// stream answers with many messages.
func (x *exchange) stream(f *flight) *schemas.Error {
	w, err := x.g.node.NewStreamWriter(x.request, f.answer.id)
	if err != nil {
		failed := schemas.AsError(err, "stream")
		x.fail(failed, true)
		return failed
	}
	failed := f.run(natsSink{w})
	if err := w.End(failed); err != nil {
		x.g.log.Warn().Err(err).Stringer("request", f.id).Msg("the stream's end could not be sent")
	}
	return failed
}

// natsSink writes the events of a stream as messages that carry their number.
type natsSink struct{ w *bus.StreamWriter }

func (s natsSink) idleEvery() time.Duration { return receiverLookEvery }

func (s natsSink) idle() error {
	if !s.w.ReceiverPresent() {
		return bus.ErrReceiverGone
	}
	return nil
}

func (s natsSink) send(ctx context.Context, events []event) error {
	for _, e := range events {
		body, err := encodeReply(numbered(e, s.w.Sequence()), s.w.JSON())
		if err != nil {
			return err
		}
		if err := s.w.Send(ctx, body); err != nil {
			return err
		}
	}
	return nil
}

// encodeReply writes an object as JSON or as a msgpack map with the same keys.
func encodeReply(v any, asJSON bool) ([]byte, error) {
	body := mustJSON(v)
	if asJSON {
		return body, nil
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	var generic any
	if err := d.Decode(&generic); err != nil {
		return nil, err
	}
	return bus.Marshal(withNumbers(generic))
}

// withNumbers replaces every json.Number by the number.
func withNumbers(v any) any {
	switch v := v.(type) {
	case json.Number:
		if i, err := v.Int64(); err == nil {
			return i
		}
		f, _ := v.Float64() // it came out of our own encoder
		return f
	case []any:
		for i := range v {
			v[i] = withNumbers(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = withNumbers(v[k])
		}
	}
	return v
}

func (x *exchange) reply(v any) {
	body, err := encodeReply(v, x.writer.JSON())
	if err != nil {
		x.fail(schemas.AsError(err, "encode reply"), false)
		return
	}
	if limit := x.g.node.Conn().MaxPayload(); int64(len(body)) > limit {
		x.fail(schemas.Errorf(schemas.KindTooLarge, "reply", "the reply has %d bytes; a message holds %d", len(body), limit).
			WithHint("ask for a stream"), false)
		return
	}
	x.publish(body, nats.Header{headerContentType: {x.contentType()}})
}

func (x *exchange) contentType() string {
	if x.writer.JSON() {
		return "application/json"
	}
	return "application/msgpack"
}

// fail answers with an error: a message with the object that HTTP would send and the usual headers and,
// if the client may be waiting for a stream, its end marker.
func (x *exchange) fail(e *schemas.Error, marker bool) {
	x.g.metrics.refused.WithLabelValues(string(e.Kind)).Inc()
	h := nats.Header{headerContentType: {x.contentType()},
		micro.ErrorHeader:     {strings.NewReplacer("\r", " ", "\n", " ").Replace(e.Error())},
		micro.ErrorCodeHeader: {strconv.Itoa(e.Kind.HTTPStatus())}}
	if whole := mustJSON(e); len(whole) <= errorHeaderBytesMax {
		h.Set(bus.HeaderError, string(whole)) // for Refs and StreamReaders
	}
	if seconds := retryAfterSeconds(e); seconds > 0 {
		h.Set(headerRetryAfter, strconv.FormatInt(seconds, 10))
	}
	body, err := encodeReply(schemas.NewErrorReply(e), x.writer.JSON())
	if err != nil {
		body = nil
	}
	x.publish(body, h)
	if marker {
		_ = x.writer.End(e) // the error above says it all
	}
}

func (x *exchange) publish(body []byte, h nats.Header) {
	if x.id != "" {
		h.Set(bus.HeaderRequestID, x.id) // as HTTP's X-Request-Id
	}
	if err := x.g.node.Conn().PublishMsg(&nats.Msg{Subject: x.request.Reply, Header: h, Data: body}); err != nil {
		x.g.log.Warn().Err(err).Str("subject", x.request.Subject).Msg("a reply could not be sent")
	}
}

// natsAsk answers a request that needs no model.
func (g *Gateway) natsAsk(answer ask) micro.HandlerFunc {
	return func(r micro.Request) {
		g.natsExchange(r, func(x *exchange) {
			defer func() { <-g.readers }()
			ctx, cancel := context.WithTimeout(context.Background(), g.cfg.BodyTimeMax)
			defer cancel()
			f, err := x.fields()
			var reply any
			if err == nil {
				reply, err = answer(ctx, f)
			}
			if err != nil {
				x.fail(err, false)
				return
			}
			x.reply(reply)
		})
	}
}

func (g *Gateway) natsModels(r micro.Request) {
	g.natsExchange(r, func(x *exchange) {
		<-g.readers
		x.reply(g.list())
	})
}

// natsCancel ends a request by id. One that another gateway owns is passed on to it.
func (g *Gateway) natsCancel(r micro.Request) {
	g.natsExchange(r, func(x *exchange) {
		defer func() { <-g.readers }()
		reply, err := x.cancel()
		if err != nil {
			x.fail(err, false)
			return
		}
		x.reply(reply)
	})
}

func (x *exchange) cancel() (*schemas.CancelClientReply, *schemas.Error) {
	f, err := x.fields()
	if err != nil {
		return nil, err
	}
	var req schemas.CancelClientRequest
	if err := decodeInto(f, &req); err != nil {
		return nil, err
	}
	id, err := parsePublicID(req.ID)
	if err != nil {
		return nil, err
	}
	reply := &schemas.CancelClientReply{ID: req.ID}
	if prefix := uint32(id >> 40); prefix != x.g.prefix {
		reply.Cancelled = x.g.cancelElsewhere(prefix, req)
		return reply, nil
	}
	reply.Cancelled = x.g.cancelByID(id)
	return reply, nil
}

// cancelElsewhere asks the gateway that made an id. One that is gone has no requests.
func (g *Gateway) cancelElsewhere(prefix uint32, req schemas.CancelClientRequest) bool {
	m := nats.NewMsg(cancelSubject(prefix))
	m.Header.Set(headerContentType, "application/json")
	m.Data = mustJSON(req)
	ctx, cancel := context.WithTimeout(context.Background(), forwardTimeMax)
	defer cancel()
	answer, err := g.node.Conn().RequestMsgWithContext(ctx, m)
	if err != nil {
		return false
	}
	var reply schemas.CancelClientReply
	return json.Unmarshal(answer.Data, &reply) == nil && reply.Cancelled
}
