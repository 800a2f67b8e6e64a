package troupe

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"

	"github.com/troupe-engine/troupe/schemas"
)

const (
	subjectChat     = schemas.SubjectPrefix + "chat"
	subjectGenerate = schemas.SubjectPrefix + "generate"
)

// Message is one turn of a conversation.
type Message struct {
	Role       string             `json:"role"` // "system", "user", "assistant" or "tool"
	Content    string             `json:"content"`
	ToolCalls  []schemas.ToolCall `json:"tool_calls,omitempty"`   // of the assistant
	ToolCallID string             `json:"tool_call_id,omitempty"` // of a tool: the call that it answers
}

// Tool is a function that the model may call.
type Tool struct {
	Name        string `json:"name"`
	Description string `json:"description,omitempty"`
	Parameters  any    `json:"parameters,omitempty"` // the JSON schema of its arguments, as what encodes to it; nil: it has none
}

// GenerateRequest asks for the continuation of a prompt or the next message of a conversation. All fields, those of
// schemas.GenerationParams with its rules and guides included, mean what they mean over HTTP, where the ones
// here have the names in brackets. Stream and StreamOptions are set by the methods that take it.
type GenerateRequest struct {
	Prompt   string    // text to continue …
	Tokens   []int32   // … or, instead, its tokens …
	Messages []Message // … or, instead, turns to answer by the model's chat template

	schemas.GenerationParams

	Logprobs *int // report the log-probability of each token, and of so many likeliest ones

	// With a prompt only.
	Echo             bool  // begin the answer with the prompt
	AddSpecialTokens *bool // such as the one that begins a text; default true

	// With messages only.
	Tools             []Tool
	ToolChoice        string         // "none", "auto", "required" or the name of a tool; default "auto"
	ParallelToolCalls *bool          // an answer may have several calls; default true
	TemplateArgs      map[string]any // [chat_template_kwargs] for the chat template
	Continue          bool           // [add_generation_prompt: false] go on with the last message
}

// Delta is what one choice of an answer gained. The last delta has no text, but the usage.
type Delta struct {
	ID        string                // of the answer
	Index     int                   // of the choice, from 0
	Text      string                // whole characters
	Logprobs  []schemas.ChatLogprob // of new tokens, if they were asked for
	ToolCalls []schemas.ToolCall    // pieces of calls: ID and name come once, arguments bit by bit, Index says of which call
	Finish    string                // why the choice ended, "stop", "length" or "tool_calls"; "" before that
	Usage     *schemas.Usage        // in the last delta only
}

// Generate asks this engine; see Client.Generate.
func (e *Engine) Generate(ctx context.Context, r GenerateRequest) iter.Seq2[Delta, error] {
	return e.Client().Generate(ctx, r)
}

// Generate streams an answer as it is made. It ends after the last delta or with one error. Breaking out of the
// loop or ending ctx cancels the request and frees what it holds.
func (c *Client) Generate(ctx context.Context, r GenerateRequest) iter.Seq2[Delta, error] {
	return func(yield func(Delta, error) bool) {
		subject, request, err := r.stream()
		if err != nil {
			yield(Delta{}, err)
			return
		}
		stream, err := c.open(subject, request)
		if err != nil {
			yield(Delta{}, err)
			return
		}
		defer stream.Close()
		top := 0
		if r.Logprobs != nil {
			top = *r.Logprobs
		}
		for {
			event, err := stream.Next(ctx)
			if errors.Is(err, io.EOF) {
				return
			}
			if err == nil {
				err = eachDelta(event, top, yield)
			} else {
				yield(Delta{}, err)
			}
			if err != nil {
				return
			}
		}
	}
}

// stream is the request for a streamed answer.
func (r GenerateRequest) stream() (subject string, request any, err error) {
	r.Stream, r.StreamOptions = true, &schemas.StreamOptions{IncludeUsage: true}
	if r.Messages != nil {
		request, err = r.chat()
		return subjectChat, request, err
	}
	request, err = r.completion()
	return subjectGenerate, request, err
}

func notBoth(param, with string) error {
	return schemas.Errorf(schemas.KindInvalid, "generate", "%s is set together with %s; expected one of them", param, with).WithParam(param)
}

// completion is the request as it travels.
func (r GenerateRequest) completion() (*schemas.CompletionRequest, error) {
	switch {
	case r.Messages != nil:
		return nil, notBoth("Messages", "what continues a prompt")
	case r.Tokens != nil && r.Prompt != "":
		return nil, notBoth("Tokens", "Prompt")
	case r.Tools != nil || r.ToolChoice != "" || r.ParallelToolCalls != nil:
		return nil, notBoth("Tools", "Prompt")
	case r.TemplateArgs != nil:
		return nil, notBoth("TemplateArgs", "Prompt")
	case r.Continue:
		return nil, notBoth("Continue", "Prompt")
	}
	out := &schemas.CompletionRequest{GenerationParams: r.GenerationParams, Echo: r.Echo, AddSpecialTokens: r.AddSpecialTokens}
	if r.Tokens != nil {
		out.Prompt.Tokens = []schemas.I32{r.Tokens}
	} else {
		out.Prompt.Texts = []string{r.Prompt}
	}
	if r.Logprobs != nil {
		out.Logprobs = new(int64(*r.Logprobs))
	}
	return out, nil
}

// chat is the request as it travels.
func (r GenerateRequest) chat() (*schemas.ChatRequest, error) {
	switch {
	case r.Prompt != "":
		return nil, notBoth("Prompt", "Messages")
	case r.Tokens != nil:
		return nil, notBoth("Tokens", "Messages")
	case r.Echo:
		return nil, notBoth("Echo", "Messages")
	case r.AddSpecialTokens != nil:
		return nil, notBoth("AddSpecialTokens", "Messages")
	}
	out := &schemas.ChatRequest{GenerationParams: r.GenerationParams, ParallelToolCalls: r.ParallelToolCalls}
	if r.Continue {
		out.AddGenerationPrompt = new(false)
	}
	if r.Logprobs != nil {
		out.Logprobs, out.TopLogprobs = true, new(int64(*r.Logprobs))
	}
	fields := []struct {
		to    *json.RawMessage
		value any
		set   bool
	}{{&out.Messages, r.Messages, true}, {&out.Tools, r.tools(), r.Tools != nil}, {&out.ToolChoice, r.toolChoice(), r.ToolChoice != ""},
		{&out.TemplateArgs, r.TemplateArgs, r.TemplateArgs != nil}}
	for _, f := range fields {
		if !f.set {
			continue
		}
		var err error
		if *f.to, err = json.Marshal(f.value); err != nil {
			return nil, schemas.Errorf(schemas.KindInvalid, "generate", "the request cannot be written as JSON: %v", err)
		}
	}
	return out, nil
}

// toolObject is a tool, or the choice of one, as the API writes it.
type toolObject struct {
	Type     string `json:"type"`
	Function Tool   `json:"function"`
}

func (r GenerateRequest) tools() []toolObject {
	list := make([]toolObject, len(r.Tools))
	for i, t := range r.Tools {
		list[i] = toolObject{"function", t}
	}
	return list
}

func (r GenerateRequest) toolChoice() any {
	switch r.ToolChoice {
	case "none", "auto", "required":
		return r.ToolChoice
	}
	return toolObject{"function", Tool{Name: r.ToolChoice}}
}

// errStopped means that the consumer left the loop.
var errStopped = errors.New("troupe: stopped")
