package troupe

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/nats-io/nats.go"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

// Client sends requests to engines over a NATS connection: to the one in this process (Engine.Client) or to
// any that serves the connection's subjects (NewClient). It is safe for concurrent use. Its errors are
// *schemas.Error.
type Client struct{ conn *nats.Conn }

// NewClient uses a connection that stays the caller's.
func NewClient(conn *nats.Conn) *Client { return &Client{conn} }

// Client asks this engine, over a connection within the process. It is the same exchange that a client on
// another machine has.
func (e *Engine) Client() *Client { return NewClient(e.node.Conn()) }

// Handler serves the HTTP API, for a program that has a server of its own. The engine's limits on connections
// and headers belong to its own server; those on bodies, time and requests hold here, too. It must not be used
// after Close.
func (e *Engine) Handler() http.Handler { return e.gateway.Handler() }

// Complete returns the whole continuation of r.Prompt or r.Tokens, n of them if r.N says so. Ending ctx cancels the
// request.
func (c *Client) Complete(ctx context.Context, r GenerateRequest) (*schemas.Completion, error) {
	request, err := r.completion()
	if err != nil {
		return nil, err
	}
	reply := &schemas.Completion{}
	return reply, c.ask(ctx, subjectGenerate, request, reply)
}

// Chat returns the whole answer to r.Messages, n of them if r.N says so. Ending ctx cancels the request.
func (c *Client) Chat(ctx context.Context, r GenerateRequest) (*schemas.ChatCompletion, error) {
	request, err := r.chat()
	if err != nil {
		return nil, err
	}
	reply := &schemas.ChatCompletion{}
	return reply, c.ask(ctx, subjectChat, request, reply)
}

// embedBatch is how many texts one message asks for: the vectors of more might not fit a reply.
const embedBatch = 32

// Embed returns the vectors that stand for texts: the hidden state of each one's last token, of length 1.
func (c *Client) Embed(ctx context.Context, texts ...string) ([][]float32, error) {
	vectors := make([][]float32, 0, len(texts))
	for len(vectors) < len(texts) {
		batch := texts[len(vectors):min(len(vectors)+embedBatch, len(texts))]
		request := &schemas.EmbeddingRequest{Input: schemas.Prompts{Texts: batch}, EncodingFormat: "base64"}
		var reply schemas.EmbeddingList
		if err := c.ask(ctx, schemas.SubjectPrefix+"embed", request, &reply); err != nil {
			return nil, err
		}
		if len(reply.Data) != len(batch) {
			return nil, schemas.Errorf(schemas.KindInternal, "embed", "the engine sent %d vectors for %d texts", len(reply.Data), len(batch))
		}
		for i := range reply.Data {
			vectors = append(vectors, reply.Data[i].Embedding.Values)
		}
	}
	return vectors, nil
}

// Complete asks this engine; see Client.Complete.
func (e *Engine) Complete(ctx context.Context, r GenerateRequest) (*schemas.Completion, error) {
	return e.Client().Complete(ctx, r)
}

// Chat asks this engine; see Client.Chat.
func (e *Engine) Chat(ctx context.Context, r GenerateRequest) (*schemas.ChatCompletion, error) {
	return e.Client().Chat(ctx, r)
}

// Embed asks this engine; see Client.Embed.
func (e *Engine) Embed(ctx context.Context, texts ...string) ([][]float32, error) {
	return e.Client().Embed(ctx, texts...)
}

// open sends a request. Its answer comes to an inbox of its own: when the stream is closed the engine sees that
// nobody listens, and stops.
func (c *Client) open(subject string, request any) (*bus.StreamReader, error) {
	body, err := json.Marshal(request)
	if err != nil {
		return nil, schemas.Errorf(schemas.KindInvalid, "generate", "the request cannot be written as JSON: %v", err)
	}
	return bus.OpenStream(c.conn, subject, body, nats.Header{"Content-Type": {"application/json"}})
}

// ask reads an answer that is one message.
func (c *Client) ask(ctx context.Context, subject string, request, reply any) error {
	stream, err := c.open(subject, request)
	if err != nil {
		return err
	}
	defer stream.Close()
	body, err := stream.Next(ctx)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, reply); err != nil {
		return schemas.Errorf(schemas.KindInternal, "generate", "the engine sent an answer that is no JSON: %v", err)
	}
	return nil
}
