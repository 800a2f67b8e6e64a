package schemas

import "encoding/json"

// What clients get. Objects and fields are those of the OpenAI API.

// ChatCompletion is the whole answer to a ChatRequest.
type ChatCompletion struct {
	ID      string       `json:"id"`     // "chatcmpl-" and the request id
	Object  string       `json:"object"` // "chat.completion"
	Created int64        `json:"created"`
	Model   string       `json:"model"`
	Choices []ChatChoice `json:"choices"`
	Usage   *Usage       `json:"usage,omitempty"`
	Troupe  *Extra       `json:"troupe,omitempty"` // what only this engine offers, if asked for

	PromptLogprobs []PromptLogprobs `json:"prompt_logprobs,omitempty"` // as vLLM reports them
}

// ChatChoice is one of n answers.
type ChatChoice struct {
	Index        int           `json:"index"`
	Message      ChatMessage   `json:"message"`
	Logprobs     *ChatLogprobs `json:"logprobs" jsonschema:"nullable"`
	FinishReason string        `json:"finish_reason"` // "stop", "length" or "tool_calls"
}

// ChatMessage is what the assistant says.
type ChatMessage struct {
	Role      string     `json:"role"`
	Content   string     `json:"content"`                       // null if there are only tool calls
	Refusal   *string    `json:"refusal" jsonschema:"nullable"` // null: the engine does not refuse
	ToolCalls []ToolCall `json:"tool_calls,omitempty"`
}

// MarshalJSON writes empty content beside tool calls as null, as clients expect.
func (m ChatMessage) MarshalJSON() ([]byte, error) {
	type plain ChatMessage
	if m.Content != "" || len(m.ToolCalls) == 0 {
		return json.Marshal(plain(m))
	}
	return json.Marshal(struct {
		plain
		Content *string `json:"content"`
	}{plain: plain(m)})
}

// ToolCall is a function that the model wants called. Index is set in events of a stream only.
type ToolCall struct {
	Index    *int         `json:"index,omitempty"`
	ID       string       `json:"id,omitempty"`
	Type     string       `json:"type,omitempty"` // "function"
	Function FunctionCall `json:"function"`
}

// FunctionCall is a name and the arguments as JSON text; in a stream the name comes once and the arguments in pieces.
type FunctionCall struct {
	Name      string `json:"name,omitempty"`
	Arguments string `json:"arguments"`
}

// ChatChunk is one event of a streamed answer to a ChatRequest.
type ChatChunk struct {
	ID      string        `json:"id"`
	Object  string        `json:"object"` // "chat.completion.chunk"
	Created int64         `json:"created"`
	Model   string        `json:"model"`
	Choices []ChunkChoice `json:"choices"`          // empty in the event that carries the usage
	Usage   *StreamUsage  `json:"usage,omitempty"`  // only with include_usage
	Troupe  *Extra        `json:"troupe,omitempty"` // in the last event, if asked for
	Seq     uint64        `json:"seq,omitempty"`    // over NATS: counts the stream's messages from 1
}

// ChunkChoice is what one choice gained.
type ChunkChoice struct {
	Index        int           `json:"index"`
	Delta        ChatDelta     `json:"delta"`
	Logprobs     *ChatLogprobs `json:"logprobs" jsonschema:"nullable"`
	FinishReason *string       `json:"finish_reason" jsonschema:"nullable"` // null until the choice's last event
}

// ChatDelta is new text, or a piece of a tool call; the role comes once, first.
type ChatDelta struct {
	Role      string     `json:"role,omitempty"`
	Content   *string    `json:"content,omitempty"`
	ToolCalls []ToolCall `json:"tool_calls,omitempty"`
}

// Completion is the answer to a CompletionRequest, whole or as one event of a stream.
type Completion struct {
	ID      string             `json:"id"`     // "cmpl-" and the request id
	Object  string             `json:"object"` // "text_completion"
	Created int64              `json:"created"`
	Model   string             `json:"model"`
	Choices []CompletionChoice `json:"choices"`
	Usage   *StreamUsage       `json:"usage,omitempty"`
	Troupe  *Extra             `json:"troupe,omitempty"` // what only this engine offers, if asked for; in a stream's last event
	Seq     uint64             `json:"seq,omitempty"`    // over NATS: counts the stream's messages from 1
}

// CompletionChoice is one continuation. With several prompts, prompt p has the indices p·n to p·n+n-1.
type CompletionChoice struct {
	Index        int                 `json:"index"`
	Text         string              `json:"text"`
	Logprobs     *CompletionLogprobs `json:"logprobs" jsonschema:"nullable"`
	FinishReason *string             `json:"finish_reason" jsonschema:"nullable"`

	PromptLogprobs []PromptLogprobs `json:"prompt_logprobs,omitempty"` // as vLLM reports them
}

// Usage counts tokens.
type Usage struct {
	PromptTokens     int64          `json:"prompt_tokens"`
	CompletionTokens int64          `json:"completion_tokens"`
	TotalTokens      int64          `json:"total_tokens"`
	PromptDetails    *PromptDetails `json:"prompt_tokens_details,omitempty"`
}

// PromptDetails says how many prompt tokens came from the prefix cache.
type PromptDetails struct {
	CachedTokens int64 `json:"cached_tokens"`
}

// StreamUsage is the usage field of an event: null in every event but the last.
type StreamUsage struct{ *Usage }

// MarshalJSON writes the usage or null.
func (u StreamUsage) MarshalJSON() ([]byte, error) { return json.Marshal(u.Usage) }

// UnmarshalJSON reads the usage or null.
func (u *StreamUsage) UnmarshalJSON(b []byte) error { return json.Unmarshal(b, &u.Usage) }

// ModelList is the answer to /v1/models and inf.v1.models.
type ModelList struct {
	Object string      `json:"object"` // "list"
	Data   []ModelCard `json:"data"`
}

// ModelCard describes one name under which the model is served.
type ModelCard struct {
	ID          string `json:"id"`
	Object      string `json:"object"` // "model"
	Created     int64  `json:"created"`
	OwnedBy     string `json:"owned_by"`
	Root        string `json:"root,omitempty"`          // the model behind an alias
	MaxModelLen int32  `json:"max_model_len,omitempty"` // context in tokens, as vLLM reports it
}

// ErrorReply is the body of every error.
type ErrorReply struct {
	Error ErrorDetail `json:"error"`
}

// ErrorDetail is an Error in OpenAI's shape.
type ErrorDetail struct {
	Message string  `json:"message"`
	Type    string  `json:"type"`
	Param   *string `json:"param" jsonschema:"nullable"`
	Code    *string `json:"code" jsonschema:"nullable"`
}

// NewErrorReply puts e in OpenAI's shape. The type says who is at fault, the code is the error's
// kind or, where clients look for one, its own name (see OpContext).
func NewErrorReply(e *Error) ErrorReply {
	message := e.Detail
	if e.Actor != "" && e.Op != "" { // it comes from deeper inside: say what was being done there
		message = e.Op + ": " + message
	}
	if e.Hint != "" {
		message += "; " + e.Hint
	}
	d := ErrorDetail{Message: message, Type: "invalid_request_error"}
	switch status := e.Kind.HTTPStatus(); {
	case e.Kind == KindOverloaded:
		d.Type = "rate_limit_error"
	case e.Kind == KindUnavailable, e.Kind == KindDeviceLost:
		d.Type = "service_unavailable_error"
	case e.Kind == KindTimeout:
		d.Type = "timeout_error"
	case status >= 500:
		d.Type = "server_error"
	}
	code := string(e.Kind)
	switch e.Op {
	case OpContext, OpModel, OpUnknown, OpUnsupported, OpKey:
		code = e.Op
	}
	d.Code = &code
	if e.Param != "" {
		d.Param = &e.Param
	}
	return ErrorReply{d}
}

// CancelClientRequest ends a request by the id that its answer carries.
type CancelClientRequest struct {
	ID string `json:"id"` // "chatcmpl-…", "cmpl-…" or the bare hexadecimal id
}

// CancelClientReply says whether there was anything to end.
type CancelClientReply struct {
	ID        string `json:"id"`
	Cancelled bool   `json:"cancelled"` // false: the request had ended, or never was
}

// ModelsRequest asks for the served models.
type ModelsRequest struct{}

// GatewayState is the gateway's debugging snapshot.
type GatewayState struct {
	_msgpack struct{} `msgpack:",as_array"`

	Ready      bool           `json:"ready"`
	Reason     string         `json:"reason,omitempty"` // why it is not ready
	Draining   bool           `json:"draining"`
	Running    int32          `json:"running"`     // requests
	RunningMax int32          `json:"running_max"` // more are refused
	Started    uint64         `json:"started"`
	Finished   uint64         `json:"finished"`
	Forgotten  uint64         `json:"forgotten"` // rows for sequences nobody waits for
	Repeated   uint64         `json:"repeated"`  // rows that did not advance their sequence
	Requests   []RequestState `json:"requests"`  // the first SeqStatesMax by id
	More       int32          `json:"more"`      // how many were left out

	Routing *RouteState `json:"routing,omitempty"` // how it chooses between replicas; nil if there is one
}

// RequestState is one running request in a GatewayState.
type RequestState struct {
	_msgpack struct{} `msgpack:",as_array"`

	Request      RequestID `json:"request"`
	PromptTokens int32     `json:"prompt_tokens"`
	OutputTokens int32     `json:"output_tokens"` // over all choices
	Choices      int32     `json:"choices"`
	QueuedBytes  int32     `json:"queued_bytes"` // text that the client has not read
	AgeMs        int64     `json:"age_ms"`
}
