package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

// natsClient reads streams over one connection, as a client of the bus would.
type natsClient struct{ conn *nats.Conn }

var jsonHeader = nats.Header{"Content-Type": {"application/json"}}

func newNATSClient(url string, options []nats.Option) (*natsClient, error) {
	conn, err := nats.Connect(url, append(options, nats.Name("bench/load"))...)
	if err != nil {
		return nil, fmt.Errorf("bench serve: %s: %w", url, err)
	}
	return &natsClient{conn}, nil
}

func (c *natsClient) close() { c.conn.Close() }

func (c *natsClient) ask(ctx context.Context, service, verb string, reply any) error {
	m := &nats.Msg{Subject: schemas.SubjectPrefix + service + "." + verb, Header: jsonHeader, Data: []byte("{}")}
	answer, err := c.conn.RequestMsgWithContext(ctx, m)
	if err != nil {
		return fmt.Errorf("ask %s: %w", m.Subject, err)
	}
	if err := json.Unmarshal(answer.Data, reply); err != nil {
		return fmt.Errorf("ask %s: %w", m.Subject, err)
	}
	return nil
}

func (c *natsClient) send(ctx context.Context, o *outcome) {
	began := time.Now()
	r, err := bus.OpenStream(c.conn, schemas.SubjectPrefix+"generate", o.request.body, jsonHeader)
	if err != nil {
		o.err = err
		return
	}
	defer r.Close()
	for {
		body, err := r.Next(ctx)
		if errors.Is(err, io.EOF) {
			o.complete()
			return
		}
		if err != nil {
			o.err = err
			return
		}
		o.event(time.Since(began), body)
	}
}
