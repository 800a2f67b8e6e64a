package batch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

// natsTransport asks an engine over NATS: the subjects of the gateway, whose objects are those of HTTP.
type natsTransport struct {
	conn     *nats.Conn
	subjects map[string]string // by URL
}

// NewNATS asks over a connection that stays the caller's.
func NewNATS(conn *nats.Conn) Transport {
	t := &natsTransport{conn: conn, subjects: map[string]string{}}
	for _, e := range schemas.ClientEndpoints() {
		if e.Path != "" {
			t.subjects[e.Path] = e.Subject()
		}
	}
	return t
}

// Close leaves the connection to its owner.
func (t *natsTransport) Close() {}

func (t *natsTransport) Ask(ctx context.Context, url string, body []byte) (*Response, error) {
	subject := t.subjects[url]
	if subject == "" {
		return refusal(http.StatusNotFound, schemas.Errorf(schemas.KindNotFound, "route", "there is no %s over NATS", url)), nil
	}
	if limit := t.conn.MaxPayload(); int64(len(body)) > limit {
		return refusal(http.StatusRequestEntityTooLarge, schemas.Errorf(schemas.KindTooLarge, "send", "the body has %d bytes; a message holds %d", len(body), limit)), nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// A request whose connection broke is never answered: its inbox is gone.
	status := t.conn.StatusChanged(nats.DISCONNECTED, nats.RECONNECTING, nats.CLOSED)
	defer t.conn.RemoveStatusListener(status)
	go func() {
		select {
		case s := <-status:
			cancel(fmt.Errorf("the NATS connection is %s", strings.ToLower(s.String())))
		case <-ctx.Done():
		}
	}()
	if !t.conn.IsConnected() {
		return nil, errors.New("the NATS connection is down")
	}
	m, err := t.conn.RequestMsgWithContext(ctx, &nats.Msg{Subject: subject, Data: body, Header: nats.Header{"Content-Type": {contentTypeOfLines}}})
	if errors.Is(err, nats.ErrNoResponders) {
		return nil, fmt.Errorf("nobody serves %s", subject)
	}
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return nil, err
	}
	return readReply(m), nil
}

// readReply gives a message the shape of an HTTP response.
func readReply(m *nats.Msg) *Response {
	id := m.Header.Get(bus.HeaderRequestID)
	r := &Response{Status: http.StatusOK, Body: m.Data, RetryAfter: retryAfter(m.Header.Get("Retry-After")), RequestID: id[:min(len(id), requestIDBytesMax)]}
	if code := m.Header.Get(micro.ErrorCodeHeader); code != "" {
		r.Status = http.StatusInternalServerError
		if status, err := strconv.Atoi(code); err == nil && status >= 400 && status <= 599 {
			r.Status = status
		}
	}
	return r
}

func refusal(status int, e *schemas.Error) *Response {
	return &Response{Status: status, Body: mustMarshal(schemas.NewErrorReply(e))}
}

func (t *natsTransport) Info(ctx context.Context) (*schemas.EngineInfo, error) {
	m, err := t.conn.RequestMsgWithContext(ctx, &nats.Msg{Subject: schemas.Engine.Subject(""), Data: []byte("{}"),
		Header: nats.Header{"Content-Type": {contentTypeOfLines}}})
	if err != nil {
		return nil, err
	}
	info := &schemas.EngineInfo{}
	return info, json.Unmarshal(m.Data, info)
}
