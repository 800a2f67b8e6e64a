package schemas

import (
	"encoding/json"
	"fmt"
)

// ResponsesRequest asks for a response: the next output of a conversation that the request holds in full. Nothing is
// stored, so there are no previous responses to refer to.
type ResponsesRequest struct {
	Input        json.RawMessage `json:"input" jsonschema_description:"a string, or messages, function calls and their outputs"`
	Instructions *string         `json:"instructions,omitempty" jsonschema_description:"a system message that comes first"`
	Model        string          `json:"model,omitempty"`

	MaxOutputTokens *int64   `json:"max_output_tokens,omitempty" jsonschema:"minimum=1"`
	Temperature     *float64 `json:"temperature,omitempty" jsonschema:"minimum=0,maximum=100"`
	TopP            *float64 `json:"top_p,omitempty" jsonschema:"maximum=1"`
	TopK            *int64   `json:"top_k,omitempty" jsonschema:"minimum=-1"`
	Seed            *Seed    `json:"seed,omitempty"`
	TopLogprobs     *int64   `json:"top_logprobs,omitempty" jsonschema:"minimum=0,maximum=20"`
	Include         []string `json:"include,omitempty" jsonschema_description:"message.output_text.logprobs"`

	Stream        bool                    `json:"stream,omitempty"`
	StreamOptions *ResponsesStreamOptions `json:"stream_options,omitempty"`

	Text              *ResponseText   `json:"text,omitempty"`
	Tools             json.RawMessage `json:"tools,omitempty" jsonschema_description:"functions that the model may call"`
	ToolChoice        json.RawMessage `json:"tool_choice,omitempty" jsonschema_description:"none, auto, required or a function; default auto"`
	ParallelToolCalls *bool           `json:"parallel_tool_calls,omitempty"`

	Metadata map[string]string `json:"metadata,omitempty"`
	User     string            `json:"user,omitempty"`
	Priority int64             `json:"priority,omitempty" jsonschema_description:"lower runs earlier"`

	Troupe *Wish `json:"troupe,omitempty" jsonschema_description:"what only this engine offers"`
}

// ResponsesStreamOptions refine stream: true.
type ResponsesStreamOptions struct {
	IncludeObfuscation bool `json:"include_obfuscation,omitempty"` // true is refused
}

// ResponseText says what an output's text must be.
type ResponseText struct {
	Format    *TextFormat `json:"format,omitempty"`
	Verbosity string      `json:"verbosity,omitempty"` // a hint that is not taken
}

// TextFormat is ResponseFormat with the schema's fields beside the type.
type TextFormat struct {
	Type        string          `json:"type" jsonschema:"enum=text,enum=json_object,enum=json_schema"`
	Name        string          `json:"name,omitempty"`
	Description string          `json:"description,omitempty"`
	Schema      json.RawMessage `json:"schema,omitempty"`
	Strict      *bool           `json:"strict,omitempty"`
}

const includeLogprobs = "message.output_text.logprobs"

// Validate names the first field that is out of range.
func (r *ResponsesRequest) Validate() *Error {
	switch {
	case r.MaxOutputTokens != nil && (*r.MaxOutputTokens < 1 || *r.MaxOutputTokens > clientTokensMax):
		return outOfRange("max_output_tokens", *r.MaxOutputTokens, clientTokenDetails)
	case r.TopLogprobs != nil && (*r.TopLogprobs < 0 || *r.TopLogprobs > LogprobsMax):
		return outOfRange("top_logprobs", *r.TopLogprobs, fmt.Sprintf("an integer from 0 to %d", LogprobsMax))
	case r.StreamOptions != nil && !r.Stream:
		return Errorf(KindInvalid, "validate", "stream_options is set without stream: true").WithParam("stream_options")
	case r.StreamOptions != nil && r.StreamOptions.IncludeObfuscation:
		return Errorf(KindUnsupported, OpUnsupported, "include_obfuscation: true is not supported yet").WithParam("stream_options.include_obfuscation")
	}
	for i, what := range r.Include {
		// Encrypted reasoning is asked for by clients of all models; this engine has none to give.
		if what != includeLogprobs && what != "reasoning.encrypted_content" {
			return Errorf(KindUnsupported, OpUnsupported, "include %.60q is not supported", what).WithParam(fmt.Sprintf("include[%d]", i))
		}
	}
	return nil
}

// WantsLogprobs reports whether the response shows them.
func (r *ResponsesRequest) WantsLogprobs() bool {
	for _, what := range r.Include {
		if what == includeLogprobs {
			return true
		}
	}
	return r.TopLogprobs != nil && *r.TopLogprobs > 0
}

// Params are the request's fields as other requests have them.
func (r *ResponsesRequest) Params() (*GenerationParams, *Error) {
	p := &GenerationParams{Model: r.Model, Temperature: r.Temperature, TopP: r.TopP, TopK: r.TopK, Seed: r.Seed, MaxTokens: r.MaxOutputTokens,
		Stream: r.Stream, User: r.User, Priority: r.Priority, Troupe: r.Troupe}
	if r.Text != nil && r.Text.Format != nil {
		f := r.Text.Format
		p.ResponseFormat = &ResponseFormat{Type: f.Type}
		switch f.Type {
		case "text", GuideJSON:
		case GuideSchema:
			if f.Schema == nil {
				return nil, outOfRange("text.format.schema", "missing", "a JSON schema")
			}
			p.ResponseFormat.JSONSchema = &JSONFormat{Name: f.Name, Schema: Text(f.Schema), Strict: f.Strict}
		default:
			return nil, outOfRange("text.format.type", fmt.Sprintf("%.40q", f.Type), "text, json_object or json_schema")
		}
	}
	return p, p.validate()
}

// Response is the answer to a ResponsesRequest. Most of it repeats the request.
type Response struct {
	ID                 string             `json:"id"`     // "resp_" and the request id
	Object             string             `json:"object"` // "response"
	CreatedAt          int64              `json:"created_at"`
	Status             string             `json:"status"` // "in_progress", "completed", "incomplete" or "failed"
	Background         bool               `json:"background"`
	Error              *ResponseError     `json:"error" jsonschema:"nullable"`
	IncompleteDetails  *IncompleteDetails `json:"incomplete_details" jsonschema:"nullable"`
	Instructions       *string            `json:"instructions" jsonschema:"nullable"`
	MaxOutputTokens    *int64             `json:"max_output_tokens" jsonschema:"nullable"`
	Model              string             `json:"model"`
	Output             []ResponseItem     `json:"output"`
	ParallelToolCalls  bool               `json:"parallel_tool_calls"`
	PreviousResponseID *string            `json:"previous_response_id" jsonschema:"nullable"`
	Store              bool               `json:"store"`
	Temperature        float32            `json:"temperature"`
	Text               ResponseText       `json:"text"`
	ToolChoice         json.RawMessage    `json:"tool_choice"`
	Tools              []ResponseTool     `json:"tools"`
	TopLogprobs        int64              `json:"top_logprobs"`
	TopP               float32            `json:"top_p"`
	Truncation         string             `json:"truncation"`      // "disabled"
	Usage              *ResponseUsage     `json:"usage,omitempty"` // at the end
	User               string             `json:"user,omitempty"`
	Metadata           map[string]string  `json:"metadata"`
	Troupe             *Extra             `json:"troupe,omitempty"` // what only this engine offers, if asked for; at the end
}

// ResponseError is why a response failed.
type ResponseError struct {
	Code    string `json:"code"` // "server_error", "rate_limit_exceeded" or "invalid_prompt"
	Message string `json:"message"`
}

// IncompleteDetails is why a response ends early.
type IncompleteDetails struct {
	Reason string `json:"reason"` // "max_output_tokens"
}

// ResponseTool is a function that the model may call.
type ResponseTool struct {
	Type        string          `json:"type"` // "function"
	Name        string          `json:"name"`
	Description string          `json:"description,omitempty"`
	Parameters  json.RawMessage `json:"parameters" jsonschema:"nullable"`
	Strict      *bool           `json:"strict" jsonschema:"nullable"`
}

// ResponseItem is a message of the assistant (with role and content) or a function call.
type ResponseItem struct {
	ID     string `json:"id"`
	Type   string `json:"type"`   // "message" or "function_call"
	Status string `json:"status"` // "in_progress", "completed" or "incomplete"

	Role    string          `json:"role,omitempty"`
	Content *[]ResponsePart `json:"content,omitempty"`

	CallID    string  `json:"call_id,omitempty"`
	Name      string  `json:"name,omitempty"`
	Arguments *string `json:"arguments,omitempty"`
}

// ResponsePart is a message's text.
type ResponsePart struct {
	Type        string        `json:"type"` // "output_text"
	Text        string        `json:"text"`
	Annotations []string      `json:"annotations"` // none
	Logprobs    []ChatLogprob `json:"logprobs"`
}

// ResponseUsage counts tokens.
type ResponseUsage struct {
	InputTokens   int64               `json:"input_tokens"`
	InputDetails  ResponseInputUsage  `json:"input_tokens_details"`
	OutputTokens  int64               `json:"output_tokens"`
	OutputDetails ResponseOutputUsage `json:"output_tokens_details"`
	TotalTokens   int64               `json:"total_tokens"`
}

// ResponseInputUsage says how many input tokens came from the prefix cache.
type ResponseInputUsage struct {
	CachedTokens     int64 `json:"cached_tokens"`
	CacheWriteTokens int64 `json:"cache_write_tokens"` // 0: writing costs nothing
}

// ResponseOutputUsage tells reasoning apart, which this engine does not.
type ResponseOutputUsage struct {
	ReasoningTokens int64 `json:"reasoning_tokens"`
}

// ResponseEvent is one event of a streamed response. Its type says which fields it has.
type ResponseEvent struct {
	Type           string         `json:"type"`
	SequenceNumber int            `json:"sequence_number"` // from 0
	Response       *Response      `json:"response,omitempty"`
	OutputIndex    *int           `json:"output_index,omitempty"`
	ContentIndex   *int           `json:"content_index,omitempty"`
	ItemID         string         `json:"item_id,omitempty"`
	Item           *ResponseItem  `json:"item,omitempty"`
	Part           *ResponsePart  `json:"part,omitempty"`
	Delta          *string        `json:"delta,omitempty"`
	Text           *string        `json:"text,omitempty"`
	Name           string         `json:"name,omitempty"`
	Arguments      *string        `json:"arguments,omitempty"`
	Logprobs       *[]ChatLogprob `json:"logprobs,omitempty"`
}

// EventName is what a server-sent event is called.
func (e *ResponseEvent) EventName() string { return e.Type }

// Example asks a question.
func (*ResponsesRequest) Example() *ResponsesRequest {
	return &ResponsesRequest{Input: json.RawMessage(`"Tell me a story."`), Model: "troupe-tiny", MaxOutputTokens: ptr(int64(64)), Stream: true}
}

// Example is a short answer.
func (*Response) Example() *Response {
	return &Response{ID: "resp_" + exampleRequest.String(), Object: "response", CreatedAt: exampleCreated, Status: "completed", Model: "troupe-tiny",
		Output: []ResponseItem{{ID: "msg_" + exampleRequest.String() + "_0", Type: "message", Status: "completed", Role: "assistant",
			Content: &[]ResponsePart{{Type: "output_text", Text: "There was a king.", Annotations: []string{}, Logprobs: []ChatLogprob{}}}}},
		ParallelToolCalls: true, Temperature: 1, TopP: 1, Text: ResponseText{Format: &TextFormat{Type: "text"}}, ToolChoice: json.RawMessage(`"auto"`),
		Tools: []ResponseTool{}, Truncation: "disabled", Metadata: map[string]string{},
		Usage: &ResponseUsage{InputTokens: 3, OutputTokens: 5, TotalTokens: 8, InputDetails: ResponseInputUsage{CachedTokens: 2}}}
}

// Example is the first text of a streamed response.
func (*ResponseEvent) Example() *ResponseEvent {
	return &ResponseEvent{Type: "response.output_text.delta", SequenceNumber: 4, ItemID: "msg_" + exampleRequest.String() + "_0", OutputIndex: ptr(0),
		ContentIndex: ptr(0), Delta: ptr(" there"), Logprobs: &[]ChatLogprob{}}
}
