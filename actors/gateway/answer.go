package gateway

import (
	"strings"

	"github.com/troupe-engine/troupe/schemas"
)

// answer is the pure core of one client request: rows of text go in, the objects of the OpenAI API come
// out. It is the same for HTTP and NATS, streamed or whole. It knows no clock and no transport.
type answer struct {
	id      string
	created int64 // unix seconds
	model   string

	chat   bool
	stream bool
	usage  bool // a streamed answer ends with its usage

	n       int     // choices per prompt
	prompts []int32 // tokens of each
	choices []choice
	open    int // choices that go on
}

// choice is one sequence of the answer.
type choice struct {
	text   strings.Builder // of a whole answer
	tokens int32           // output so far
	cached int32           // prompt tokens from the prefix cache
	finish schemas.FinishReason
}

// row is new text for one choice.
type row struct {
	choice int
	text   string
	tokens int32 // output tokens so far, these included
	cached int32
	finish schemas.FinishReason
	err    *schemas.Error // for FinishError
}

// event is one object of a stream: *schemas.ChatChunk or *schemas.Completion.
type event any

func newAnswer(id string, created int64, j *job) *answer {
	count := j.n * len(j.prompts)
	return &answer{id: id, created: created, model: j.model, chat: j.chat, stream: j.stream, usage: j.usage,
		n: j.n, prompts: make([]int32, len(j.prompts)), choices: make([]choice, count), open: count}
}

// done reports whether every choice has ended.
func (a *answer) done() bool { return a.open == 0 }

// opening is what a stream starts with: the role of each message.
func (a *answer) opening() []event {
	if !a.stream || !a.chat {
		return nil
	}
	events := make([]event, len(a.choices))
	empty := ""
	for i := range a.choices {
		events[i] = a.chunk(i, schemas.ChatDelta{Role: "assistant", Content: &empty}, nil)
	}
	return events
}

// step takes rows, at most one per choice, and returns the events they make in a stream. The error is
// the reason why the answer cannot be completed.
func (a *answer) step(rows []row) (events []event, err *schemas.Error) {
	for i := range rows {
		r := &rows[i]
		c := &a.choices[r.choice]
		c.tokens, c.cached, c.finish = r.tokens, r.cached, r.finish
		switch r.finish {
		case schemas.FinishNone:
		case schemas.FinishStop, schemas.FinishLength:
			a.open--
		case schemas.FinishCancel:
			return events, schemas.Errorf(schemas.KindCanceled, "answer", "the request was cancelled after %d tokens", r.tokens)
		default:
			if r.err == nil {
				return events, schemas.Errorf(schemas.KindInternal, "answer", "the sequence ended with %s and no reason", r.finish)
			}
			return events, r.err
		}
		if a.stream {
			events = a.events(events, r)
		} else {
			c.text.WriteString(r.text)
		}
	}
	return events, nil
}

func (a *answer) events(events []event, r *row) []event {
	var finish *string
	if r.finish != schemas.FinishNone {
		name := r.finish.String()
		finish = &name
	}
	if !a.chat {
		if r.text == "" && finish == nil {
			return events
		}
		return append(events, a.completion([]schemas.CompletionChoice{{Index: r.choice, Text: r.text, FinishReason: finish}}, a.noUsage()))
	}
	if r.text != "" {
		events = append(events, a.chunk(r.choice, schemas.ChatDelta{Content: &r.text}, nil))
	}
	if finish != nil {
		events = append(events, a.chunk(r.choice, schemas.ChatDelta{}, finish))
	}
	return events
}

// closing is what a stream ends with: the usage, if asked for.
func (a *answer) closing() []event {
	switch {
	case !a.stream || !a.usage:
		return nil
	case !a.chat:
		return []event{a.completion([]schemas.CompletionChoice{}, &schemas.StreamUsage{Usage: a.counts()})}
	}
	return []event{&schemas.ChatChunk{ID: a.id, Object: "chat.completion.chunk", Created: a.created, Model: a.model,
		Choices: []schemas.ChunkChoice{}, Usage: &schemas.StreamUsage{Usage: a.counts()}}}
}

// whole is the answer as one object: *schemas.ChatCompletion or *schemas.Completion.
func (a *answer) whole() any {
	if !a.chat {
		choices := make([]schemas.CompletionChoice, len(a.choices))
		for i := range choices {
			finish := a.choices[i].finish.String()
			choices[i] = schemas.CompletionChoice{Index: i, Text: a.choices[i].text.String(), FinishReason: &finish}
		}
		return a.completion(choices, &schemas.StreamUsage{Usage: a.counts()})
	}
	choices := make([]schemas.ChatChoice, len(a.choices))
	for i := range choices {
		choices[i] = schemas.ChatChoice{Index: i, FinishReason: a.choices[i].finish.String(),
			Message: schemas.ChatMessage{Role: "assistant", Content: a.choices[i].text.String()}}
	}
	return &schemas.ChatCompletion{ID: a.id, Object: "chat.completion", Created: a.created, Model: a.model, Choices: choices, Usage: a.counts()}
}

func (a *answer) chunk(i int, delta schemas.ChatDelta, finish *string) event {
	return &schemas.ChatChunk{ID: a.id, Object: "chat.completion.chunk", Created: a.created, Model: a.model,
		Choices: []schemas.ChunkChoice{{Index: i, Delta: delta, FinishReason: finish}}, Usage: a.noUsage()}
}

func (a *answer) completion(choices []schemas.CompletionChoice, usage *schemas.StreamUsage) event {
	return &schemas.Completion{ID: a.id, Object: "text_completion", Created: a.created, Model: a.model, Choices: choices, Usage: usage}
}

// noUsage is the usage field of events before the last: null if usage was asked for, else absent.
func (a *answer) noUsage() *schemas.StreamUsage {
	if !a.usage {
		return nil
	}
	return &schemas.StreamUsage{}
}

// counts sums tokens over prompts and choices. A prompt's cached tokens are those that its luckless first
// sequence found: what the others share with it was computed for this very request.
func (a *answer) counts() *schemas.Usage {
	u := &schemas.Usage{PromptDetails: &schemas.PromptDetails{}}
	for p, tokens := range a.prompts {
		u.PromptTokens += int64(tokens)
		cached := tokens
		for _, c := range a.choices[p*a.n : (p+1)*a.n] {
			u.CompletionTokens += int64(c.tokens)
			cached = min(cached, c.cached)
		}
		u.PromptDetails.CachedTokens += int64(cached)
	}
	u.TotalTokens = u.PromptTokens + u.CompletionTokens
	return u
}

// numbered sets the sequence number that events carry over NATS.
func numbered(e event, seq uint64) event {
	switch e := e.(type) {
	case *schemas.ChatChunk:
		e.Seq = seq
	case *schemas.Completion:
		e.Seq = seq
	}
	return e
}
