package gateway

import (
	"github.com/troupe-engine/troupe/schemas"
)

var completionAPI = &api{name: "completion", id: "cmpl-", done: sseDone, parse: parseCompletion,
	shape: func(a *answer) shape { return newCompletionShape(a) }}

// parseCompletion turns the fields of a completion request into a job.
func parseCompletion(f fields, cfg *Config) (*job, *schemas.Error) {
	var r schemas.CompletionRequest
	if err := decodeInto(f, &r); err != nil {
		return nil, err
	}
	if err := r.Validate(); err != nil {
		return nil, err
	}
	j, err := newJob(&r.GenerationParams, cfg)
	if err != nil {
		return nil, err
	}
	j.promptField = "prompt"
	j.addPrompts(&r.Prompt, r.AddSpecialTokens)
	j.echo = r.Echo
	if r.MaxTokens != nil && *r.MaxTokens == 0 { // with echo: only the prompt is wanted
		j.discard, j.maxTokens = true, 1
	}
	if r.Logprobs != nil {
		j.reportLogprobs(*r.Logprobs)
		if r.Echo {
			rules := j.rules()
			rules.PromptLogprobs = max(rules.PromptLogprobs, rules.Logprobs)
		}
	}
	return j, j.check(cfg)
}

// completionShape makes the objects of /v1/completions.
type completionShape struct {
	*answer
	offsets []int // per choice: characters streamed, for logprobs
	held    [][]logprob
	echoed  []bool
}

func newCompletionShape(a *answer) *completionShape {
	s := &completionShape{answer: a}
	if a.job.stream {
		s.offsets, s.held, s.echoed = make([]int, len(a.choices)), make([][]logprob, len(a.choices)), make([]bool, len(a.choices))
	}
	return s
}

func (s *completionShape) opening() []event { return nil }

func (s *completionShape) row(events []event, r *row) []event {
	if s.job.discard {
		r.text, r.logprobs = "", nil
	}
	if s.job.echo && !s.echoed[r.choice] {
		s.echoed[r.choice] = true
		r.text = s.promptOf(r.choice).text + r.text
	}
	if r.text == "" && r.finish == schemas.FinishNone { // the text of these tokens is still to come
		s.held[r.choice] = append(s.held[r.choice], r.logprobs...)
		return events
	}
	c := schemas.CompletionChoice{Index: r.choice, Text: r.text, FinishReason: finishName(r.finish)}
	if s.job.discard && r.finish != schemas.FinishNone {
		c.FinishReason = finishName(schemas.FinishLength)
	}
	if s.job.logprobs {
		l := newCompletionLogprobs(s.offsets[r.choice])
		l.add(s.held[r.choice])
		l.add(r.logprobs)
		s.held[r.choice], s.offsets[r.choice], c.Logprobs = nil, l.offset, l.out
	}
	return append(events, s.object([]schemas.CompletionChoice{c}, s.noUsage()))
}

func (s *completionShape) closing() []event {
	if !s.job.usage && s.extra == nil {
		return nil
	}
	var usage *schemas.StreamUsage
	if s.job.usage {
		usage = &schemas.StreamUsage{Usage: s.counts()}
	}
	return []event{s.object([]schemas.CompletionChoice{}, usage)}
}

func (s *completionShape) failed(err *schemas.Error) []event {
	return []event{schemas.NewErrorReply(err)}
}

func (s *completionShape) whole() any {
	choices := make([]schemas.CompletionChoice, len(s.choices))
	for i := range choices {
		choices[i] = s.choice(i)
	}
	return s.object(choices, &schemas.StreamUsage{Usage: s.counts()})
}

func (s *completionShape) choice(i int) schemas.CompletionChoice {
	from, p := &s.choices[i], s.promptOf(i)
	c := schemas.CompletionChoice{Index: i, FinishReason: finishName(from.finish), PromptLogprobs: s.promptLogprobs(p)}
	if s.job.echo {
		c.Text = p.text
	}
	if s.job.discard {
		c.FinishReason = finishName(schemas.FinishLength)
	} else {
		c.Text += from.text.String()
	}
	if s.job.logprobs {
		l := newCompletionLogprobs(0)
		if s.job.echo {
			l.addPrompt(p, s.job.logprobsTop)
		}
		if !s.job.discard {
			l.add(from.logprobs)
		}
		c.Logprobs = l.out
	}
	return c
}

func (s *completionShape) object(choices []schemas.CompletionChoice, usage *schemas.StreamUsage) *schemas.Completion {
	return &schemas.Completion{ID: s.id, Object: "text_completion", Created: s.created, Model: s.job.model, Choices: choices, Usage: usage, Troupe: s.extra}
}
