package gateway

import (
	"github.com/troupe-engine/troupe/internal/toolcalls"
	"github.com/troupe-engine/troupe/schemas"
)

var chatAPI = &api{name: "chat", id: "chatcmpl-", done: sseDone, parse: parseChat,
	shape: func(a *answer) shape { return newChatShape(a) }}

// parseChat turns the fields of a chat request into a job.
func parseChat(f fields, cfg *Config) (*job, *schemas.Error) {
	var r schemas.ChatRequest
	if err := decodeInto(f, &r); err != nil {
		return nil, err
	}
	if err := r.Validate(); err != nil {
		return nil, err
	}
	messages, err := checkMessages(r.Messages)
	if err != nil {
		return nil, err
	}
	tools, err := parseTools(r.Tools, r.ToolChoice, r.ParallelToolCalls)
	if err != nil {
		return nil, err
	}
	j, err := newJob(&r.GenerationParams, cfg)
	if err != nil {
		return nil, err
	}
	if r.MaxCompletionTokens != nil {
		j.maxTokens, j.maxTokensField = int32(*r.MaxCompletionTokens), "max_completion_tokens"
	}
	if r.Logprobs {
		top := int64(0)
		if r.TopLogprobs != nil {
			top = *r.TopLogprobs
		}
		j.reportLogprobs(top)
	}
	j.setTools(tools)
	j.promptField = "messages"
	j.prompts = []schemas.EncodeRequest{{Messages: messages, Tools: orNil(r.Tools), TemplateArgs: r.TemplateArgs,
		Continue: r.AddGenerationPrompt != nil && !*r.AddGenerationPrompt}}
	return j, j.check(cfg)
}

// chatShape makes the objects of /v1/chat/completions.
type chatShape struct {
	*answer
	held  [][]logprob // per choice: of tokens whose text is still to come
	calls []*toolcalls.Parser
}

func newChatShape(a *answer) *chatShape {
	s := &chatShape{answer: a}
	if a.job.stream {
		s.held, s.calls = make([][]logprob, len(a.choices)), make([]*toolcalls.Parser, len(a.choices))
	}
	return s
}

// opening is the role of each message.
func (s *chatShape) opening() []event {
	events := make([]event, len(s.choices))
	empty := ""
	for i := range s.choices {
		events[i] = s.chunk(schemas.ChunkChoice{Index: i, Delta: schemas.ChatDelta{Role: "assistant", Content: &empty}})
	}
	return events
}

func (s *chatShape) row(events []event, r *row) []event {
	held := append(s.held[r.choice], r.logprobs...)
	deltas := s.deltas(r)
	if len(deltas) == 0 && r.finish != schemas.FinishNone && len(held) > 0 {
		deltas = []schemas.ChatDelta{{Content: new(string)}} // for the log-probabilities
	}
	for i := range deltas {
		events = append(events, s.chunk(schemas.ChunkChoice{Index: r.choice, Delta: deltas[i], Logprobs: s.chatLogprobs(held)}))
		held = nil
	}
	s.held[r.choice] = held
	if r.finish != schemas.FinishNone {
		finish := s.finish(r.finish, s.calls[r.choice] != nil && s.calls[r.choice].Calls() > 0)
		events = append(events, s.chunk(schemas.ChunkChoice{Index: r.choice, FinishReason: &finish}))
	}
	return events
}

// deltas is what a row's text adds to its message: text, and pieces of calls.
func (s *chatShape) deltas(r *row) (deltas []schemas.ChatDelta) {
	if s.job.tools == nil {
		if r.text == "" {
			return nil
		}
		return []schemas.ChatDelta{{Content: &r.text}}
	}
	if s.calls[r.choice] == nil {
		s.calls[r.choice] = s.parser()
	}
	take := func(found []toolcalls.Event) {
		for _, e := range found {
			deltas = s.delta(deltas, r.choice, e)
		}
	}
	take(s.calls[r.choice].Push(r.text))
	if r.finish != schemas.FinishNone {
		take(s.calls[r.choice].Close())
	}
	return deltas
}

func (s *chatShape) delta(deltas []schemas.ChatDelta, choice int, e toolcalls.Event) []schemas.ChatDelta {
	add := func(c schemas.ToolCall) {
		c.Index = &e.Call
		deltas = append(deltas, schemas.ChatDelta{ToolCalls: []schemas.ToolCall{c}})
	}
	switch {
	case e.Text != "":
		return append(deltas, schemas.ChatDelta{Content: &e.Text})
	case e.Call > 0 && !s.job.tools.many:
		return deltas
	case e.Name != "":
		add(schemas.ToolCall{ID: s.callID(choice, e.Call), Type: "function", Function: schemas.FunctionCall{Name: e.Name}})
	}
	if e.Arguments != "" {
		add(schemas.ToolCall{Function: schemas.FunctionCall{Arguments: e.Arguments}})
	}
	return deltas
}

// finish is the reason that a choice with or without calls ended for.
func (s *chatShape) finish(f schemas.FinishReason, calls bool) string {
	if calls && f == schemas.FinishStop {
		return "tool_calls"
	}
	return f.String()
}

func (s *chatShape) closing() []event {
	if !s.job.usage && s.extra == nil {
		return nil
	}
	last := &schemas.ChatChunk{ID: s.id, Object: "chat.completion.chunk", Created: s.created, Model: s.job.model,
		Choices: []schemas.ChunkChoice{}, Troupe: s.extra}
	if s.job.usage {
		last.Usage = &schemas.StreamUsage{Usage: s.counts()}
	}
	return []event{last}
}

func (s *chatShape) failed(err *schemas.Error) []event {
	return []event{schemas.NewErrorReply(err)}
}

func (s *chatShape) whole() any {
	choices := make([]schemas.ChatChoice, len(s.choices))
	for i := range choices {
		c := &s.choices[i]
		text, calls := s.parsed(i)
		message := schemas.ChatMessage{Role: "assistant", Content: text}
		for k, call := range calls {
			message.ToolCalls = append(message.ToolCalls, schemas.ToolCall{ID: s.callID(i, k), Type: "function",
				Function: schemas.FunctionCall{Name: call.Name, Arguments: call.Arguments}})
		}
		choices[i] = schemas.ChatChoice{Index: i, FinishReason: s.finish(c.finish, len(calls) > 0), Logprobs: s.chatLogprobs(c.logprobs), Message: message}
	}
	return &schemas.ChatCompletion{ID: s.id, Object: "chat.completion", Created: s.created, Model: s.job.model, Choices: choices,
		Usage: s.counts(), Troupe: s.extra, PromptLogprobs: s.promptLogprobs(&s.prompts[0])}
}

func (s *chatShape) chunk(c schemas.ChunkChoice) event {
	return &schemas.ChatChunk{ID: s.id, Object: "chat.completion.chunk", Created: s.created, Model: s.job.model,
		Choices: []schemas.ChunkChoice{c}, Usage: s.noUsage()}
}
