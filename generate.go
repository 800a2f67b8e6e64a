package troupe

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"

	"github.com/nats-io/nats.go"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

// Client sends requests to engines over a NATS connection: to the one in this process (Engine.Client) or to
// any that serves the connection's subjects (NewClient). It is safe for concurrent use.
type Client struct{ conn *nats.Conn }

// NewClient uses a connection that stays the caller's.
func NewClient(conn *nats.Conn) *Client { return &Client{conn} }

// Client asks this engine, over a connection within the process. It is the same exchange that a client on
// another machine has.
func (e *Engine) Client() *Client { return NewClient(e.node.Conn()) }

// Generate asks this engine; see Client.Generate.
func (e *Engine) Generate(ctx context.Context, r GenerateRequest) iter.Seq2[Delta, error] {
	return e.Client().Generate(ctx, r)
}

// Message is one turn of a conversation.
type Message struct {
	Role    string `json:"role"` // "system", "user" or "assistant"
	Content string `json:"content"`
}

// GenerateRequest asks for the continuation of a prompt or the next message of a conversation. The fields of
// schemas.GenerationParams mean what they mean over HTTP; Stream and StreamOptions are set by Generate.
type GenerateRequest struct {
	Prompt   string    // text to continue …
	Messages []Message // … or, instead, turns to answer by the model's chat template
	schemas.GenerationParams
}

// Delta is what one choice of an answer gained. The last delta has no text, but the usage.
type Delta struct {
	ID     string         // of the answer
	Index  int            // of the choice, from 0
	Text   string         // whole characters
	Finish string         // why the choice ended, "stop" or "length"; "" before that
	Usage  *schemas.Usage // in the last delta only
}

// Generate streams an answer as it is made. It ends after the last delta or with one error, usually a
// *schemas.Error. Breaking out of the loop or ending ctx cancels the request and frees what it holds.
func (c *Client) Generate(ctx context.Context, r GenerateRequest) iter.Seq2[Delta, error] {
	return func(yield func(Delta, error) bool) {
		subject, body, err := r.encode()
		if err != nil {
			yield(Delta{}, err)
			return
		}
		stream, err := bus.OpenStream(c.conn, subject, body, nats.Header{"Content-Type": {"application/json"}})
		if err != nil {
			yield(Delta{}, err)
			return
		}
		defer stream.Close() // the engine stops when nobody listens
		for {
			event, err := stream.Next(ctx)
			if errors.Is(err, io.EOF) {
				return
			}
			if err == nil {
				err = eachDelta(event, yield)
			} else {
				yield(Delta{}, err)
			}
			if err != nil {
				return
			}
		}
	}
}

// encode returns the request as it travels.
func (r GenerateRequest) encode() (subject string, body []byte, err error) {
	p := r.GenerationParams
	p.Stream, p.StreamOptions = true, &schemas.StreamOptions{IncludeUsage: true}
	switch {
	case r.Messages != nil && r.Prompt != "":
		return "", nil, schemas.Errorf(schemas.KindInvalid, "generate", "both Prompt and Messages are set; expected one of them").WithParam("messages")
	case r.Messages != nil:
		messages, err := json.Marshal(r.Messages)
		if err != nil {
			return "", nil, schemas.AsError(err, "generate")
		}
		body, err = json.Marshal(schemas.ChatRequest{Messages: messages, GenerationParams: p})
		return schemas.SubjectPrefix + "chat", body, err
	}
	body, err = json.Marshal(schemas.CompletionRequest{Prompt: schemas.Prompts{Texts: []string{r.Prompt}}, GenerationParams: p})
	return schemas.SubjectPrefix + "generate", body, err
}

// errStopped means that the consumer left the loop.
var errStopped = errors.New("troupe: stopped")

// eachDelta yields what one event holds. Both kinds of events, of chats and of completions, fit one shape.
func eachDelta(raw []byte, yield func(Delta, error) bool) error {
	var event struct {
		ID      string `json:"id"`
		Choices []struct {
			Index  int                `json:"index"`
			Text   string             `json:"text"`
			Delta  *schemas.ChatDelta `json:"delta"`
			Finish *string            `json:"finish_reason"`
		} `json:"choices"`
		Usage *schemas.Usage `json:"usage"`
	}
	if err := json.Unmarshal(raw, &event); err != nil {
		err := schemas.Errorf(schemas.KindInternal, "generate", "the engine sent an event that is no JSON: %v", err)
		yield(Delta{}, err)
		return err
	}
	for _, c := range event.Choices {
		d := Delta{ID: event.ID, Index: c.Index, Text: c.Text}
		if c.Delta != nil && c.Delta.Content != nil {
			d.Text = *c.Delta.Content
		}
		if c.Finish != nil {
			d.Finish = *c.Finish
		}
		if (d.Text != "" || d.Finish != "") && !yield(d, nil) {
			return errStopped
		}
	}
	if event.Usage != nil && !yield(Delta{ID: event.ID, Usage: event.Usage}, nil) {
		return errStopped
	}
	return nil
}
