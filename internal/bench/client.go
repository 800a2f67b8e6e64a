package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/troupe-engine/troupe/schemas"
)

// outcome is what a client saw of one request. Times count from when it was sent.
type outcome struct {
	request *request
	began   time.Duration   // since the start of the load
	chunks  []time.Duration // arrivals of events with choices; the first is the time to first token
	input   int             // tokens, as the server counted
	output  int
	err     error
	ledger  *schemas.RequestLedger // nil if it was not asked for

	refusal    time.Duration // when a 429 had been read; 0 if there was none
	retryAfter bool          // it said when to come back
}

// latency is until the last token.
func (o *outcome) latency() time.Duration { return o.chunks[len(o.chunks)-1] }

// client sends requests to a server. send fills in what comes back. It does as little as it can: the load
// generator may share processors with what it measures.
type client interface {
	send(ctx context.Context, o *outcome)
	// ask puts a question to an actor, as JSON.
	ask(ctx context.Context, service, verb string, reply any) error
	close()
}

// usageMark and errorMark begin the fields that are worth parsing an event for.
var usageMark, errorMark = []byte(`"usage":`), []byte(`"error":`)

// event takes one object of a stream that arrived at a time. It only looks closer at the last.
func (o *outcome) event(at time.Duration, body []byte) {
	if o.err != nil || !hasObject(body, usageMark) && !hasObject(body, errorMark) {
		o.chunks = append(o.chunks, at)
		return
	}
	var e struct {
		Choices []json.RawMessage    `json:"choices"`
		Usage   *schemas.Usage       `json:"usage"`
		Error   *schemas.ErrorDetail `json:"error"`
		Troupe  *schemas.Extra       `json:"troupe"`
	}
	if err := json.Unmarshal(body, &e); err != nil {
		o.err = fmt.Errorf("event: %w", err)
		return
	}
	if e.Error != nil {
		o.err = fmt.Errorf("%s: %s", e.Error.Type, e.Error.Message)
	}
	if e.Usage != nil {
		o.input, o.output = int(e.Usage.PromptTokens), int(e.Usage.CompletionTokens)
	}
	if e.Troupe != nil {
		o.ledger = e.Troupe.Ledger
	}
	if len(e.Choices) > 0 {
		o.chunks = append(o.chunks, at)
	}
}

// hasObject reports whether body has a field whose value is an object.
func hasObject(body, mark []byte) bool {
	i := bytes.Index(body, mark)
	if i < 0 {
		return false
	}
	rest := bytes.TrimLeft(body[i+len(mark):], " ")
	return len(rest) > 0 && rest[0] == '{'
}

// complete checks an outcome after its stream has ended.
func (o *outcome) complete() {
	switch {
	case o.err != nil:
	case len(o.chunks) == 0:
		o.err = fmt.Errorf("the stream had no event with a choice")
	case o.output == 0:
		o.err = fmt.Errorf("the stream did not end with its usage")
	}
}
