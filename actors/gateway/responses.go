package gateway

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/troupe-engine/troupe/internal/toolcalls"
	"github.com/troupe-engine/troupe/schemas"
)

var responsesAPI = &api{name: "response", id: responseIDPrefix, parse: parseResponses,
	shape: func(a *answer) shape { return newResponseShape(a) }}

// parseResponses turns the fields of a request for a response into a job.
func parseResponses(f fields, cfg *Config) (*job, *schemas.Error) {
	var r schemas.ResponsesRequest
	if err := decodeInto(f, &r); err != nil {
		return nil, err
	}
	if err := r.Validate(); err != nil {
		return nil, err
	}
	messages, err := messagesOfInput(&r)
	if err != nil {
		return nil, err
	}
	tools, specs, forTemplate, err := toolsOfResponse(r.Tools)
	if err != nil {
		return nil, err
	}
	set, err := newToolset(specs, "", r.ToolChoice, r.ParallelToolCalls)
	if err != nil {
		return nil, err
	}
	params, err := r.Params()
	if err != nil {
		return nil, err
	}
	j, err := newJob(params, cfg)
	if err != nil {
		return nil, err
	}
	if j.guideParam != "" {
		j.guideParam = "text.format"
	}
	if r.WantsLogprobs() {
		top := int64(0)
		if r.TopLogprobs != nil {
			top = *r.TopLogprobs
		}
		j.reportLogprobs(top)
	}
	j.setTools(set)
	j.response = responseOutline(&r, tools, &j.sampling)
	j.promptField, j.maxTokensField = "input", "max_output_tokens"
	j.prompts = []schemas.EncodeRequest{{Messages: messages, Tools: forTemplate}}
	return j, j.check(cfg)
}

// responseOutline is what every response to a request repeats of it.
func responseOutline(r *schemas.ResponsesRequest, tools []schemas.ResponseTool, sampling *schemas.SamplingParams) *schemas.Response {
	o := &schemas.Response{Object: "response", Status: "in_progress", Instructions: r.Instructions, MaxOutputTokens: r.MaxOutputTokens,
		Output: []schemas.ResponseItem{}, ParallelToolCalls: r.ParallelToolCalls == nil || *r.ParallelToolCalls, Temperature: sampling.Temperature,
		TopP: sampling.TopP, Text: schemas.ResponseText{Format: &schemas.TextFormat{Type: "text"}}, ToolChoice: r.ToolChoice, Tools: tools,
		Truncation: "disabled", User: r.User, Metadata: r.Metadata}
	if r.Text != nil && r.Text.Format != nil {
		o.Text.Format = r.Text.Format
	}
	if o.ToolChoice == nil {
		o.ToolChoice = json.RawMessage(`"auto"`)
	}
	if o.Metadata == nil {
		o.Metadata = map[string]string{}
	}
	if r.TopLogprobs != nil {
		o.TopLogprobs = *r.TopLogprobs
	}
	return o
}

// responseShape makes the objects and events of /v1/responses. A response has one choice.
type responseShape struct {
	*answer
	sequence int
	items    []schemas.ResponseItem // the last one is open if open is not nil
	open     *openItem
	calls    *toolcalls.Parser
	held     []logprob // of tokens whose text is still to come
}

// openItem is an output item that grows.
type openItem struct {
	text     strings.Builder // or the arguments of a call
	logprobs []schemas.ChatLogprob
}

func newResponseShape(a *answer) *responseShape { return &responseShape{answer: a} }

func (s *responseShape) event(kind string, e schemas.ResponseEvent) event {
	e.Type, e.SequenceNumber = kind, s.sequence
	s.sequence++
	return &e
}

// itemEvent is an event about the last item.
func (s *responseShape) itemEvent(kind string, e schemas.ResponseEvent) event {
	index := len(s.items) - 1
	item := &s.items[index]
	e.OutputIndex = &index
	if e.Item == nil {
		e.ItemID = item.ID
		if item.Type == "message" {
			e.ContentIndex = new(int)
		}
	}
	return s.event(kind, e)
}

func (s *responseShape) opening() []event {
	return []event{s.event("response.created", schemas.ResponseEvent{Response: s.response()}),
		s.event("response.in_progress", schemas.ResponseEvent{Response: s.response()})}
}

func (s *responseShape) row(events []event, r *row) []event {
	s.held = append(s.held, r.logprobs...)
	if s.job.tools == nil {
		return s.addText(events, r.text)
	}
	if s.calls == nil {
		s.calls = s.parser()
	}
	events = s.take(events, s.calls.Push(r.text))
	if r.finish != schemas.FinishNone {
		events = s.take(events, s.calls.Close())
	}
	return events
}

// take streams text and pieces of calls.
func (s *responseShape) take(events []event, found []toolcalls.Event) []event {
	for _, e := range found {
		if e.Text != "" {
			events = s.addText(events, e.Text)
			continue
		}
		if e.Call > 0 && !s.job.tools.many {
			continue
		}
		if e.Name != "" {
			events = s.openCall(s.closeItem(events, "completed"), e)
		}
		if e.Arguments != "" {
			s.open.text.WriteString(e.Arguments)
			events = append(events, s.itemEvent("response.function_call_arguments.delta", schemas.ResponseEvent{Delta: &e.Arguments}))
		}
	}
	return events
}

func (s *responseShape) addText(events []event, text string) []event {
	if text == "" {
		return events
	}
	if s.open == nil || s.items[len(s.items)-1].Type != "message" {
		events = s.openMessage(s.closeItem(events, "completed"))
	}
	logprobs := []schemas.ChatLogprob{}
	if l := s.chatLogprobs(s.held); l != nil {
		logprobs = l.Content
	}
	s.held = nil
	s.open.text.WriteString(text)
	s.open.logprobs = append(s.open.logprobs, logprobs...)
	return append(events, s.itemEvent("response.output_text.delta", schemas.ResponseEvent{Delta: &text, Logprobs: &logprobs}))
}

func (s *responseShape) openMessage(events []event) []event {
	item := s.message("in_progress", nil)
	s.items, s.open = append(s.items, item), &openItem{logprobs: []schemas.ChatLogprob{}}
	return append(events, s.itemEvent("response.output_item.added", schemas.ResponseEvent{Item: &item}),
		s.itemEvent("response.content_part.added", schemas.ResponseEvent{Part: outputText("", []schemas.ChatLogprob{})}))
}

func (s *responseShape) openCall(events []event, e toolcalls.Event) []event {
	item := s.call("in_progress", e.Call, e.Name, "")
	s.items, s.open = append(s.items, item), &openItem{}
	return append(events, s.itemEvent("response.output_item.added", schemas.ResponseEvent{Item: &item}))
}

// closeItem ends the item that is open, if there is one.
func (s *responseShape) closeItem(events []event, status string) []event {
	if s.open == nil {
		return events
	}
	item := &s.items[len(s.items)-1]
	text := s.open.text.String()
	if item.Status = status; item.Type == "message" {
		part := outputText(text, s.open.logprobs)
		item.Content = &[]schemas.ResponsePart{*part}
		events = append(events, s.itemEvent("response.output_text.done", schemas.ResponseEvent{Text: &text, Logprobs: &part.Logprobs}),
			s.itemEvent("response.content_part.done", schemas.ResponseEvent{Part: part}))
	} else {
		item.Arguments = &text
		events = append(events, s.itemEvent("response.function_call_arguments.done", schemas.ResponseEvent{Name: item.Name, Arguments: &text}))
	}
	s.open = nil
	done := *item
	return append(events, s.itemEvent("response.output_item.done", schemas.ResponseEvent{Item: &done}))
}

func (s *responseShape) closing() []event {
	var events []event
	if len(s.items) == 0 {
		events = s.openMessage(events)
	}
	r := s.finished()
	if l := s.chatLogprobs(s.held); l != nil && s.open != nil {
		s.open.logprobs = append(s.open.logprobs, l.Content...) // of tokens that made no text
	}
	events = s.closeItem(events, r.Status)
	r.Output = s.items
	return append(events, s.event("response."+r.Status, schemas.ResponseEvent{Response: r}))
}

func (s *responseShape) failed(err *schemas.Error) []event {
	r := s.response()
	r.Status, r.Error = "failed", &schemas.ResponseError{Code: "server_error", Message: schemas.NewErrorReply(err).Error.Message}
	switch err.Kind {
	case schemas.KindOverloaded:
		r.Error.Code = "rate_limit_exceeded"
	case schemas.KindInvalid, schemas.KindUnsupported, schemas.KindTooLarge:
		r.Error.Code = "invalid_prompt"
	}
	events := s.closeItem(nil, "incomplete")
	if len(s.items) > 0 {
		r.Output = s.items
	}
	return append(events, s.event("response.failed", schemas.ResponseEvent{Response: r}))
}

func (s *responseShape) whole() any {
	r := s.finished()
	text, calls := s.parsed(0)
	if text != "" || len(calls) == 0 {
		part := outputText(text, []schemas.ChatLogprob{})
		if l := s.chatLogprobs(s.choices[0].logprobs); l != nil {
			part.Logprobs = l.Content
		}
		r.Output = append(r.Output, s.message(r.Status, part))
	}
	for _, c := range calls {
		s.items = r.Output // for the ids
		r.Output = append(r.Output, s.call(r.Status, c.Call, c.Name, c.Arguments))
	}
	return r
}

// response is the response as it begins.
func (s *responseShape) response() *schemas.Response {
	r := *s.job.response
	r.ID, r.CreatedAt, r.Model = s.id, s.created, s.job.model
	return &r
}

// finished is the response at its end, without its output.
func (s *responseShape) finished() *schemas.Response {
	r := s.response()
	if r.Status = "completed"; s.choices[0].finish == schemas.FinishLength {
		r.Status, r.IncompleteDetails = "incomplete", &schemas.IncompleteDetails{Reason: "max_output_tokens"}
	}
	r.Troupe = s.extra
	u := s.counts()
	r.Usage = &schemas.ResponseUsage{InputTokens: u.PromptTokens, OutputTokens: u.CompletionTokens, TotalTokens: u.TotalTokens,
		InputDetails: schemas.ResponseInputUsage{CachedTokens: u.PromptDetails.CachedTokens}}
	return r
}

// itemID names the next item of a response.
func (s *responseShape) itemID(kind string) string {
	return fmt.Sprintf("%s_%s_%d", kind, strings.TrimPrefix(s.id, responseIDPrefix), len(s.items))
}

const responseIDPrefix = "resp_"

func (s *responseShape) message(status string, part *schemas.ResponsePart) schemas.ResponseItem {
	content := []schemas.ResponsePart{}
	if part != nil {
		content = append(content, *part)
	}
	return schemas.ResponseItem{ID: s.itemID("msg"), Type: "message", Status: status, Role: "assistant", Content: &content}
}

func (s *responseShape) call(status string, index int, name, arguments string) schemas.ResponseItem {
	return schemas.ResponseItem{ID: s.itemID("fc"), Type: "function_call", Status: status, CallID: s.callID(0, index), Name: name, Arguments: &arguments}
}

func outputText(text string, logprobs []schemas.ChatLogprob) *schemas.ResponsePart {
	return &schemas.ResponsePart{Type: "output_text", Text: text, Annotations: []string{}, Logprobs: logprobs}
}
