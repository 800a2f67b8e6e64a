package chat

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/troupe-engine/troupe"
	"github.com/troupe-engine/troupe/schemas"
)

// Client answers conversations.
type Client interface {
	// Answer calls text with the answer as it comes, and returns why it ended. Ending ctx frees the sequence.
	Answer(ctx context.Context, messages []Message, p schemas.GenerationParams, text func(string)) (*Reply, error)
	// ContextMax is how many tokens a conversation may have; 0 if the engine does not tell.
	ContextMax(ctx context.Context) int
}

// Reply is how an answer ended.
type Reply struct {
	Finish string         // "stop" or "length"
	Usage  *schemas.Usage // nil if the engine does not count
}

// engineClient asks over NATS, also within the process.
type engineClient struct {
	conn   *nats.Conn
	client *troupe.Client
}

// NewEngineClient asks an engine over a connection that stays the caller's.
func NewEngineClient(conn *nats.Conn) Client { return &engineClient{conn, troupe.NewClient(conn)} }

func (c *engineClient) ContextMax(ctx context.Context) int {
	ctx, cancel := context.WithTimeout(ctx, modelsTimeMax)
	defer cancel()
	m, err := c.conn.RequestMsgWithContext(ctx, &nats.Msg{Subject: schemas.SubjectPrefix + "models", Data: []byte("{}"),
		Header: nats.Header{"Content-Type": {"application/json"}}})
	var list schemas.ModelList
	if err != nil || json.Unmarshal(m.Data, &list) != nil || len(list.Data) == 0 {
		return 0
	}
	return int(list.Data[0].MaxModelLen)
}

func (c *engineClient) Answer(ctx context.Context, messages []Message, p schemas.GenerationParams, text func(string)) (*Reply, error) {
	r := troupe.GenerateRequest{GenerationParams: p}
	for _, m := range messages {
		r.Messages = append(r.Messages, troupe.Message{Role: m.Role, Content: m.Content})
	}
	reply := &Reply{}
	for d, err := range c.client.Generate(ctx, r) {
		if err != nil {
			return nil, err
		}
		if d.Text != "" {
			text(d.Text)
		}
		if d.Finish != "" {
			reply.Finish = d.Finish
		}
		if d.Usage != nil {
			reply.Usage = d.Usage
		}
	}
	return reply, nil
}

// tooLong reports whether an engine refused a conversation because it does not fit the context.
func tooLong(err error) bool {
	e := schemas.AsError(err, "")
	return e != nil && e.Op == schemas.OpContext
}

// readable is what to show of an error: what is wrong, and what to try.
func readable(err error) string {
	e := schemas.AsError(err, "")
	parts := []string{e.Detail}
	if e.Hint != "" {
		parts = append(parts, e.Hint)
	}
	return strings.Join(parts, "; ")
}
