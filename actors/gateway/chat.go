package gateway

import (
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
	tools, err := checkTools(r.Tools, r.ToolChoice)
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
	j.promptField = "messages"
	j.prompts = []schemas.EncodeRequest{{Messages: messages, Tools: tools, TemplateArgs: r.TemplateArgs,
		Continue: r.AddGenerationPrompt != nil && !*r.AddGenerationPrompt}}
	return j, j.check(cfg)
}

// chatShape makes the objects of /v1/chat/completions.
type chatShape struct {
	*answer
	held [][]logprob // per choice: of tokens whose text is still to come
}

func newChatShape(a *answer) *chatShape {
	s := &chatShape{answer: a}
	if a.job.stream {
		s.held = make([][]logprob, len(a.choices))
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
	if r.text != "" || r.finish != schemas.FinishNone && len(held) > 0 {
		events = append(events, s.chunk(schemas.ChunkChoice{Index: r.choice, Delta: schemas.ChatDelta{Content: &r.text}, Logprobs: s.chatLogprobs(held)}))
		held = nil
	}
	s.held[r.choice] = held
	if r.finish != schemas.FinishNone {
		events = append(events, s.chunk(schemas.ChunkChoice{Index: r.choice, FinishReason: finishName(r.finish)}))
	}
	return events
}

func (s *chatShape) closing() []event {
	if !s.job.usage {
		return nil
	}
	return []event{&schemas.ChatChunk{ID: s.id, Object: "chat.completion.chunk", Created: s.created, Model: s.job.model,
		Choices: []schemas.ChunkChoice{}, Usage: &schemas.StreamUsage{Usage: s.counts()}}}
}

func (s *chatShape) failed(err *schemas.Error) []event {
	return []event{schemas.NewErrorReply(err)}
}

func (s *chatShape) whole() any {
	choices := make([]schemas.ChatChoice, len(s.choices))
	for i := range choices {
		c := &s.choices[i]
		choices[i] = schemas.ChatChoice{Index: i, FinishReason: c.finish.String(), Logprobs: s.chatLogprobs(c.logprobs),
			Message: schemas.ChatMessage{Role: "assistant", Content: c.text.String()}}
	}
	return &schemas.ChatCompletion{ID: s.id, Object: "chat.completion", Created: s.created, Model: s.job.model, Choices: choices,
		Usage: s.counts(), PromptLogprobs: s.promptLogprobs(&s.prompts[0])}
}

func (s *chatShape) chunk(c schemas.ChunkChoice) event {
	return &schemas.ChatChunk{ID: s.id, Object: "chat.completion.chunk", Created: s.created, Model: s.job.model,
		Choices: []schemas.ChunkChoice{c}, Usage: s.noUsage()}
}
