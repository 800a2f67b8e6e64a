package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"net/http"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/troupe-engine/troupe/schemas"
)

const (
	http2StreamsMax = 256     // requests of one connection at once
	http2BufferMax  = 1 << 20 // bytes that a connection, or one of its requests, may send ahead of being read
)

// HTTPServer returns a server for Handler with the configured limits. It speaks HTTP/1.1 and, without TLS
// too, HTTP/2. The caller runs it on a Listener.
func (g *Gateway) HTTPServer() *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true) // for clients that begin with it, as proxies do
	return &http.Server{Handler: whileServing(g.Handler()), ConnContext: withConn, ReadHeaderTimeout: g.cfg.HeaderTimeMax, IdleTimeout: g.cfg.IdleTimeMax,
		MaxHeaderBytes: g.cfg.HeaderBytesMax, ErrorLog: stdlog.New(g.log, "", 0), Protocols: protocols,
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: http2StreamsMax, SendPingTimeout: g.cfg.IdleTimeMax, PingTimeout: g.cfg.WriteTimeMax,
			WriteByteTimeout: g.cfg.WriteTimeMax, MaxReceiveBufferPerConnection: http2BufferMax, MaxReceiveBufferPerStream: http2BufferMax}}
}

// Handler serves the HTTP API. Bodies are limited in size and time by itself; headers by HTTPServer.
func (g *Gateway) Handler() http.Handler {
	metrics := promhttp.HandlerFor(mirrored{g.cfg.Registry, g.models.own.title}, promhttp.HandlerOpts{ErrorLog: stdlog.New(g.log, "", 0)})
	mux := http.NewServeMux()
	for path, methods := range map[string]map[string]http.HandlerFunc{
		"/v1/chat/completions":    {"POST": g.serveJob(chatAPI)},
		"/v1/completions":         {"POST": g.serveJob(completionAPI)},
		"/v1/responses":           {"POST": g.serveJob(responsesAPI)},
		"/v1/embeddings":          {"POST": g.serveJob(embeddingAPI)},
		"/tokenize":               {"POST": g.serveAsk(g.tokenize)},
		"/detokenize":             {"POST": g.serveAsk(g.detokenize)},
		"/v1/models":              {"GET": g.serveModels},
		"/v1/models/{id...}":      {"GET": g.serveModel},
		"/health":                 {"GET": g.serveHealth},
		"/health/ready":           {"GET": g.serveReady},
		"/metrics":                {"GET": metrics.ServeHTTP},
		"/debug":                  {"GET": g.serveDebug},
		"/debug/faults":           {"GET": g.serveFaults, "POST": g.serveFaults, "DELETE": g.serveFaults},
		"/debug/{service}/{verb}": {"GET": g.serveDebugVerb, "POST": g.serveDebugVerb},
		"/":                       {},
	} {
		mux.HandleFunc(path, g.byMethod(methods))
	}
	open := g.withCORS(g.withKeys(mux))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer g.recoverHTTP(w, r)
		body := &bodyOnce{ReadCloser: r.Body}
		r.Body = body
		open.ServeHTTP(w, r)
		if !body.begun && r.ContentLength > bodyLeftMax { // it was refused at once: no key, no room, no such path
			g.discardBody(w, r)
		}
	})
}

// bodyLeftMax is how much of an unread body net/http reads by itself before it breaks the connection.
const bodyLeftMax = 256 << 10

// bodyOnce notices whether a body has been looked at.
type bodyOnce struct {
	io.ReadCloser
	begun bool
}

// Read implements io.Reader.
func (b *bodyOnce) Read(p []byte) (int, error) {
	b.begun = true
	return b.ReadCloser.Read(p)
}

// byMethod chooses a handler, or answers 404 (no methods at all) or 405 in the API's error shape.
func (g *Gateway) byMethod(methods map[string]http.HandlerFunc) http.HandlerFunc {
	var allowed []string
	for m := range methods {
		allowed = append(allowed, m)
		if m == "GET" {
			allowed = append(allowed, "HEAD")
		}
	}
	slices.Sort(allowed)
	return func(w http.ResponseWriter, r *http.Request) {
		method := r.Method
		if method == "HEAD" {
			method = "GET"
		}
		if h := methods[method]; h != nil {
			h(w, r)
			return
		}
		if len(methods) == 0 {
			g.writeError(w, schemas.Errorf(schemas.KindNotFound, "route", "there is no %s", clip(r.URL.Path)).WithHint("GET /debug lists what there is"))
			return
		}
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		g.writeErrorStatus(w, http.StatusMethodNotAllowed, schemas.Errorf(schemas.KindInvalid, "route", "%s does not take %s", clip(r.URL.Path), clip(r.Method)).
			WithHint("use %s", strings.Join(allowed, " or ")))
	}
}

// recoverHTTP turns a panic in a handler, which is a bug, into an error for its client alone.
func (g *Gateway) recoverHTTP(w http.ResponseWriter, r *http.Request) {
	p := recover()
	if p == nil {
		return
	}
	if p == http.ErrAbortHandler {
		panic(p)
	}
	g.log.Error().Any("panic", p).Str("path", r.URL.Path).Bytes("stack", debug.Stack()).Msg("handler panicked")
	g.writeError(w, schemas.Errorf(schemas.KindInternal, "serve", "the handler panicked").WithHint("this is a bug: please report it with the log's stack trace"))
}

// serveJob answers a generating request, as one object or as a stream of events.
func (g *Gateway) serveJob(a *api) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		id := g.newRequestID()
		w.Header().Set("X-Request-Id", id.String())
		if err := g.requests.refuse(keyOf(r.Context())); err != nil { // what is wrong with it can wait
			g.writeError(w, err)
			return
		}
		j, ok := g.readJob(w, r, a)
		if !ok {
			return
		}
		f, err := g.begin(r.Context(), id, j)
		if err != nil {
			g.writeError(w, err)
			return
		}
		err = schemas.Errorf(schemas.KindInternal, "serve", "the handler panicked") // unless it gets further
		defer func() { f.end(err) }()
		if j.stream {
			s := newEventStream(w, f)
			err = f.run(s)
			s.close(err)
			return
		}
		if err = f.run(wholeHTTP{}); err != nil {
			g.writeError(w, err)
			return
		}
		g.writeJSON(w, http.StatusOK, f.answer.whole())
	}
}

// wholeHTTP is the sink of an answer that is sent as one object. The client's absence ends the flight's
// context.
type wholeHTTP struct{}

func (wholeHTTP) send(context.Context, []event) error { return nil }
func (wholeHTTP) idle() error                         { return nil }
func (wholeHTTP) idleEvery() time.Duration            { return time.Hour }

// serveAsk answers a request that needs no model.
func (g *Gateway) serveAsk(answer ask) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var reply any
		if g.readFields(w, r, func(f fields, _ time.Time) (err *schemas.Error) {
			reply, err = answer(r.Context(), f)
			return err
		}) {
			g.writeJSON(w, http.StatusOK, reply)
		}
	}
}

// readJob reads and parses a body. If it reports false, it has answered.
func (g *Gateway) readJob(w http.ResponseWriter, r *http.Request, a *api) (j *job, ok bool) {
	var arrived time.Time
	ok = g.readFields(w, r, func(f fields, at time.Time) (err *schemas.Error) {
		arrived = at
		j, err = g.read(a, f)
		return err
	})
	if ok {
		j.arrived = arrived
		j.route(r.Header.Get)
		j.trace, j.key = traceID(r.Header.Get("traceparent")), keyOf(r.Context())
	}
	return j, ok
}

// readFields reads a body and hands its fields to use, with the time when all of it was there, as one of a limited number
// that do so at a time. If it reports false, it has answered. Only whole bodies count: slow clients must not use the number up.
func (g *Gateway) readFields(w http.ResponseWriter, r *http.Request, use func(fields, time.Time) *schemas.Error) bool {
	body, ok := g.readBody(w, r)
	if !ok {
		return false
	}
	arrived := time.Now()
	select {
	case g.readers <- struct{}{}:
		defer func() { <-g.readers }()
	default:
		g.writeError(w, g.tooManyReaders())
		return false
	}
	f, err := fieldsOfJSON(body)
	if err == nil {
		err = use(f, arrived)
	}
	if err != nil {
		g.writeError(w, err)
		return false
	}
	return true
}

func (g *Gateway) tooManyReaders() *schemas.Error {
	return tooBusy("%d requests are being read already", cap(g.readers))
}

// tooBusy is the refusal of a request that may be sent again later.
func tooBusy(format string, args ...any) *schemas.Error {
	err := schemas.Errorf(schemas.KindOverloaded, "admit", format, args...).WithHint("try again later")
	err.RetryAfterMs = retryAfterMs
	return err
}

// closeConnection ends a connection after the reply: what is left of the body is not read. HTTP/2 ends the one
// stream by itself, and other requests are on its connection.
func closeConnection(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor == 1 {
		w.Header().Set("Connection", "close")
	}
}

// discardBytesMax and discardTimeMax bound what is read of a body that has been refused.
const (
	discardBytesMax = 64 << 20
	discardTimeMax  = 5 * time.Second
)

// discardBody reads a refused body to its end, and ends its connection. Most clients write all of a body before they
// read; to one whose connection breaks meanwhile, the refusal would be a network error, which it tries again. A client
// that waits to be asked for the body (Expect) and HTTP/2 see the refusal at once.
func (g *Gateway) discardBody(w http.ResponseWriter, r *http.Request) {
	closeConnection(w, r)
	if r.ProtoMajor != 1 || r.Header.Get("Expect") != "" || r.ContentLength > discardBytesMax {
		return
	}
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(min(discardTimeMax, g.cfg.BodyTimeMax))) // not supported by test recorders only
	if up := g.uploads.begin(r.Body, func() { _ = rc.SetReadDeadline(time.Unix(1, 0)) }); up != nil {
		_, _ = io.CopyN(io.Discard, r.Body, discardBytesMax) // past the upload, for it takes no memory; the refusal follows in any case
		_ = up.end()
	}
}

// readBody reads a body that is limited in size and time. If it reports false, it has answered.
func (g *Gateway) readBody(w http.ResponseWriter, r *http.Request) ([]byte, bool) {
	tooLarge := func() {
		g.discardBody(w, r)
		g.writeError(w, schemas.Errorf(schemas.KindTooLarge, "read body", "the body is larger than %d bytes", g.cfg.BodyBytesMax).
			WithHint("send less, or raise body_bytes_max"))
	}
	if r.ContentLength > g.cfg.BodyBytesMax {
		tooLarge()
		return nil, false
	}
	if coding := r.Header.Get("Content-Encoding"); coding != "" && coding != "identity" {
		g.discardBody(w, r)
		g.writeErrorStatus(w, http.StatusUnsupportedMediaType, schemas.Errorf(schemas.KindInvalid, "read body", "Content-Encoding is %q; bodies are taken as they are", clip(coding)).
			WithHint("send the body uncompressed"))
		return nil, false
	}
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(g.cfg.BodyTimeMax)) // not supported by test recorders only
	up := g.uploads.begin(http.MaxBytesReader(w, r.Body, g.cfg.BodyBytesMax), func() { _ = rc.SetReadDeadline(time.Unix(1, 0)) })
	if up == nil {
		closeConnection(w, r)
		g.writeError(w, g.tooManyReaders())
		return nil, false
	}
	body, err := io.ReadAll(up)
	if expelled := up.end(); expelled != nil { // what follows is over soon; it is slow senders that could pile up
		err = expelled
	}
	if err == nil {
		_ = rc.SetReadDeadline(time.Time{})
		return body, true
	}
	var limit *http.MaxBytesError
	switch {
	case errors.Is(err, errNoShare):
		closeConnection(w, r)
		g.writeError(w, tooBusy("requests of %d bytes are being read already", g.cfg.ReadBytesMax))
	case errors.As(err, &limit):
		tooLarge()
	case errors.Is(err, errExpelled):
		closeConnection(w, r)
		g.writeErrorStatus(w, http.StatusRequestTimeout, schemas.Errorf(schemas.KindTimeout, "read body", "the body did not arrive within %s, and others wait", uploadSlow))
	case errors.Is(err, os.ErrDeadlineExceeded):
		closeConnection(w, r)
		g.writeErrorStatus(w, http.StatusRequestTimeout, schemas.Errorf(schemas.KindTimeout, "read body", "the body did not arrive within %s", g.cfg.BodyTimeMax))
	default:
		g.writeError(w, schemas.Errorf(schemas.KindInvalid, "read body", "the body could not be read: %v", err))
	}
	return nil, false
}

func (g *Gateway) serveModels(w http.ResponseWriter, _ *http.Request) {
	g.writeJSON(w, http.StatusOK, g.list())
}

func (g *Gateway) serveModel(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	list := g.list()
	for _, card := range list.Data {
		if card.ID == id {
			g.writeJSON(w, http.StatusOK, card)
			return
		}
	}
	if len(list.Data) == 0 {
		g.writeError(w, schemas.Errorf(schemas.KindUnavailable, "list models", "the engine has not answered yet").WithHint("try again later"))
		return
	}
	g.writeError(w, schemas.Errorf(schemas.KindNotFound, schemas.OpModel, "there is no model %q here", clip(id)).
		WithParam("model").WithHint("this server has %s", g.names()))
}

func (g *Gateway) serveHealth(w http.ResponseWriter, _ *http.Request) {
	if g.cfg.Health != nil {
		if err := g.cfg.Health(); err != nil {
			g.writeError(w, err)
			return
		}
	}
	g.writeJSON(w, http.StatusOK, map[string]string{"status": "ok", "version": g.cfg.Version})
}

func (g *Gateway) serveReady(w http.ResponseWriter, _ *http.Request) {
	if err := g.ready(); err != nil {
		g.writeError(w, err)
		return
	}
	g.writeJSON(w, http.StatusOK, map[string]string{"status": "ready", "model": g.models.own.title()})
}

func (g *Gateway) writeError(w http.ResponseWriter, e *schemas.Error) {
	g.writeErrorStatus(w, e.Kind.HTTPStatus(), e)
}

func (g *Gateway) writeErrorStatus(w http.ResponseWriter, status int, e *schemas.Error) {
	g.metrics.refused.WithLabelValues(string(e.Kind)).Inc()
	if line := g.log.Debug(); line.Enabled() { // refusing must cost little
		line.Int("status", status).Str("error", e.Error()).Str("request", w.Header().Get("X-Request-Id")).Msg("request refused")
	}
	if seconds := retryAfterSeconds(e); seconds > 0 {
		w.Header().Set("Retry-After", strconv.FormatInt(seconds, 10))
	}
	g.writeJSON(w, status, schemas.NewErrorReply(e))
}

// retryAfterSeconds is when to come back, rounded up; 0 if that would not help.
func retryAfterSeconds(e *schemas.Error) int64 {
	if e.Kind != schemas.KindOverloaded && e.Kind != schemas.KindUnavailable && e.Kind != schemas.KindDeviceLost {
		return 0
	}
	return max(1, (e.RetryAfterMs+999)/1000)
}

func (g *Gateway) writeJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("gateway: reply %T: %v", v, err)) // our own types always marshal
	}
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(g.cfg.WriteTimeMax))
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // an error means that the client is gone
}

// traceID returns the trace id of a W3C traceparent header, "" if there is none or it is malformed.
// Format: https://www.w3.org/TR/trace-context/#traceparent-header
func traceID(header string) string {
	parts := strings.Split(header, "-")
	if len(parts) < 4 || len(parts[0]) != 2 || parts[0] == "ff" || len(parts[1]) != 32 || strings.Trim(parts[1], "0") == "" ||
		strings.Trim(parts[1], "0123456789abcdef") != "" {
		return ""
	}
	return parts[1]
}
