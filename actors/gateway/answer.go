package gateway

import (
	"context"
	"strings"
	"time"

	"github.com/troupe-engine/troupe/internal/guide"
	"github.com/troupe-engine/troupe/schemas"
)

// answer is the pure core of one client request: rows of text go in, the objects of an API come out. It is the
// same for HTTP and NATS, streamed or whole. It knows no clock and no transport; its shape knows the API.
type answer struct {
	id      string
	created int64 // unix seconds
	job     *job
	shape   shape

	prompts []prompt
	choices []choice // n of each prompt, in the prompts' order
	open    int      // choices that go on

	extra *schemas.Extra // what only this engine offers; nil until the end, and if it was not asked for

	grammar *guide.Grammar // of the job's guide, once it is asked whether a text is complete

	events []event // the last step's, for reuse
}

// shape turns what happens to an answer's choices into the objects of one API.
type shape interface {
	// opening is what a stream starts with.
	opening() []event
	// row appends the events that a row makes in a stream.
	row(events []event, r *row) []event
	// closing is what a complete stream ends with.
	closing() []event
	// failed is what an incomplete stream ends with.
	failed(err *schemas.Error) []event
	// whole is the answer as one object.
	whole() any
}

// event is one object of a stream.
type event any

// prompt is what an answer knows of one prompt.
type prompt struct {
	tokens   int32
	text     string    // if it is to be echoed
	first    string    // its first token, if the others' log-probabilities are echoed
	logprobs []logprob // of all tokens but the first
}

// choice is one sequence of the answer.
type choice struct {
	text      strings.Builder // of a whole answer, and of one that a guide says is complete
	logprobs  []logprob       // likewise
	embedding schemas.F32
	tokens    int32 // output so far
	cached    int32 // prompt tokens from the prefix cache
	finish    schemas.FinishReason
}

// row is what is new for one choice.
type row struct {
	choice    int
	text      string
	tokens    int32 // output tokens so far, these included
	cached    int32
	finish    schemas.FinishReason
	err       *schemas.Error // for FinishError
	logprobs  []logprob      // of new tokens
	prompt    []logprob      // of the prompt's tokens but the first; once, with a row of the prompt's first choice
	embedding schemas.F32
	came      time.Time          // to the gateway
	ledger    *schemas.SeqLedger // of the last token; nil if nobody asks
}

func newAnswer(id string, created int64, j *job) *answer {
	count := j.n * len(j.prompts)
	a := &answer{id: id, created: created, job: j, prompts: make([]prompt, len(j.prompts)), choices: make([]choice, count), open: count}
	a.shape = j.api.shape(a)
	return a
}

// done reports whether every choice has ended.
func (a *answer) done() bool { return a.open == 0 }

// opening is what a stream starts with.
func (a *answer) opening() []event {
	if !a.job.stream {
		return nil
	}
	return a.shape.opening()
}

// step takes rows, at most one per choice, and returns the events they make in a stream. The error is
// the reason why the answer cannot be completed. The events are valid until the next call.
func (a *answer) step(rows []row) (events []event, err *schemas.Error) {
	events = a.events[:0]
	defer func() { a.events = events }()
	for i := range rows {
		r := &rows[i]
		c := &a.choices[r.choice]
		if a.keepsText() {
			c.text.WriteString(r.text)
		}
		if r.finish == schemas.FinishLength && a.complete(c.text.String()) {
			r.finish = schemas.FinishStop // its last token was also the last that max_tokens allowed
		}
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
		if a.job.embed != nil {
			if err := a.job.embed.check(r); err != nil {
				return events, err
			}
		}
		if a.job.stream {
			events = a.shape.row(events, r)
			continue
		}
		c.logprobs = append(c.logprobs, r.logprobs...)
		if r.prompt != nil {
			a.prompts[r.choice/a.job.n].logprobs = r.prompt
		}
		if r.embedding != nil {
			c.embedding = r.embedding
		}
	}
	return events, nil
}

func (a *answer) keepsText() bool { return !a.job.stream || a.job.guide() != nil }

// complete reports whether the job's guide lets nothing follow a text.
func (a *answer) complete(text string) bool {
	source := a.job.guide()
	if source == nil {
		return false
	}
	if a.grammar == nil {
		var err error
		a.grammar, err = guide.CompileText(context.Background(), guide.Spec{Kind: guide.Kind(source.Kind), Source: source.Source})
		if err != nil {
			return false // it was compiled for the model's vocabulary before, so a limit must have been met
		}
	}
	return a.grammar.Final(text)
}

// closing is what a complete stream ends with.
func (a *answer) closing() []event {
	if !a.job.stream {
		return nil
	}
	return a.shape.closing()
}

// whole is the answer as one object.
func (a *answer) whole() any { return a.shape.whole() }

// promptOf is the prompt of a choice.
func (a *answer) promptOf(choice int) *prompt { return &a.prompts[choice/a.job.n] }

// noUsage is the usage field of events before the last: null if usage was asked for, else absent.
func (a *answer) noUsage() *schemas.StreamUsage {
	if !a.job.usage {
		return nil
	}
	return &schemas.StreamUsage{}
}

// counts sums tokens over prompts and choices. A prompt's cached tokens are those that its luckless first
// sequence found: what the others share with it was computed for this very request.
func (a *answer) counts() *schemas.Usage {
	u := &schemas.Usage{PromptDetails: &schemas.PromptDetails{}}
	n := a.job.n
	for p := range a.prompts {
		tokens := a.prompts[p].tokens
		u.PromptTokens += int64(tokens)
		cached := tokens
		for i := range a.choices[p*n : (p+1)*n] {
			c := &a.choices[p*n+i]
			if !a.job.discard {
				u.CompletionTokens += int64(c.tokens)
			}
			cached = min(cached, c.cached)
		}
		u.PromptDetails.CachedTokens += int64(cached)
	}
	u.TotalTokens = u.PromptTokens + u.CompletionTokens
	return u
}

// finishName is a choice's reason to end, nil while it goes on.
func finishName(f schemas.FinishReason) *string {
	if f == schemas.FinishNone {
		return nil
	}
	name := f.String()
	return &name
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
