package schemas

import (
	"encoding/json"
	"fmt"
	"math"
)

// What clients send. The same objects travel over HTTP (/v1/chat/completions, /v1/completions) and
// NATS (inf.v1.chat, inf.v1.generate); field names and meanings are those of the OpenAI API
// (https://github.com/openai/openai-openapi), extensions those of vLLM. A field that is absent or null
// has its default.

// Limits of one client request.
const (
	StopStringsMax     = 16   // stop strings
	StopBytesMax       = 1024 // bytes in one of them
	StopTokensMax      = 128  // stop_token_ids
	PromptsMax         = 128  // prompts of one completion request
	ChatMessagesMax    = 4096 // messages of one chat request
	UserBytesMax       = 512  // bytes in user
	RequestChoicesMax  = 256  // prompts × n
	PriorityMax        = 1 << 20
	DeadlineMsMax      = 1 << 40 // 34 years
	clientTokensMax    = math.MaxInt32
	clientTokenDetails = "an integer from 1 to 2147483647"
)

// GenerationParams are the fields that chat and completion requests share.
type GenerationParams struct {
	Model string `json:"model,omitempty" jsonschema_description:"the model; default: the one that is served"`

	Temperature *float64 `json:"temperature,omitempty" jsonschema:"minimum=0,maximum=100" jsonschema_description:"0 is greedy"`
	TopP        *float64 `json:"top_p,omitempty" jsonschema:"maximum=1" jsonschema_description:"more than 0; 1 is off"`
	TopK        *int64   `json:"top_k,omitempty" jsonschema:"minimum=-1" jsonschema_description:"0 and -1 are off"`
	MinP        *float64 `json:"min_p,omitempty" jsonschema:"minimum=0,maximum=1" jsonschema_description:"0 is off"`
	Seed        *Seed    `json:"seed,omitempty"`

	MaxTokens    *int64     `json:"max_tokens,omitempty" jsonschema:"minimum=1" jsonschema_description:"default: what the context leaves, up to the server's default"`
	MinTokens    int64      `json:"min_tokens,omitempty" jsonschema:"minimum=0" jsonschema_description:"end tokens do not count before this many"`
	Stop         StringList `json:"stop,omitempty"`
	StopTokenIDs []int64    `json:"stop_token_ids,omitempty"`
	IgnoreEOS    bool       `json:"ignore_eos,omitempty" jsonschema_description:"the model's own end tokens do not end the answer"`
	N            *int64     `json:"n,omitempty" jsonschema:"minimum=1,maximum=128"`

	Stream        bool           `json:"stream,omitempty"`
	StreamOptions *StreamOptions `json:"stream_options,omitempty"`

	User     string `json:"user,omitempty" jsonschema_description:"for fair sharing between users"`
	Priority int64  `json:"priority,omitempty" jsonschema_description:"lower runs earlier"`
	Deadline int64  `json:"deadline_ms,omitempty" jsonschema:"minimum=0" jsonschema_description:"milliseconds within which the whole answer is wanted: it ends with an error then, and the deadline policy serves by it; 0 is no limit of one's own"`

	SkipSpecialTokens *bool `json:"skip_special_tokens,omitempty" jsonschema_description:"default true"`
	IncludeStop       bool  `json:"include_stop_str_in_output,omitempty"`

	RuleParams
	GuideParams

	Troupe *Wish `json:"troupe,omitempty" jsonschema_description:"what only this engine offers"`
}

// ChatRequest asks for the next message of a conversation.
type ChatRequest struct {
	// Messages stay raw: the model's chat template reads them. Validate checks their outline.
	Messages json.RawMessage `json:"messages"`

	GenerationParams

	MaxCompletionTokens *int64          `json:"max_completion_tokens,omitempty" jsonschema:"minimum=1" jsonschema_description:"the newer name of max_tokens"`
	TemplateArgs        json.RawMessage `json:"chat_template_kwargs,omitempty"`
	AddGenerationPrompt *bool           `json:"add_generation_prompt,omitempty" jsonschema_description:"default true"`
	Logprobs            bool            `json:"logprobs,omitempty" jsonschema_description:"report the log-probability of every token"`
	TopLogprobs         *int64          `json:"top_logprobs,omitempty" jsonschema:"minimum=0,maximum=20" jsonschema_description:"and of so many likeliest ones; needs logprobs"`
	Tools               json.RawMessage `json:"tools,omitempty" jsonschema_description:"functions that the model may call, as OpenAI describes them"`
	ToolChoice          json.RawMessage `json:"tool_choice,omitempty" jsonschema_description:"none, auto, required or a function; default auto"`
	ParallelToolCalls   *bool           `json:"parallel_tool_calls,omitempty" jsonschema_description:"default true: an answer may have several calls"`
}

// CompletionRequest asks for the continuation of a prompt.
type CompletionRequest struct {
	Prompt Prompts `json:"prompt"`

	GenerationParams

	AddSpecialTokens *bool  `json:"add_special_tokens,omitempty" jsonschema_description:"default true"`
	Logprobs         *int64 `json:"logprobs,omitempty" jsonschema:"minimum=0,maximum=20" jsonschema_description:"report the log-probability of every token and of so many likeliest ones"`
	Echo             bool   `json:"echo,omitempty" jsonschema_description:"begin the answer with the prompt; then max_tokens may be 0"`
}

// StreamOptions refine stream: true.
type StreamOptions struct {
	IncludeUsage bool `json:"include_usage,omitempty"` // one more event, with the usage, at the end
	// IncludeObfuscation false is what OpenAI's clients may send; true is refused.
	IncludeObfuscation bool `json:"include_obfuscation,omitempty"`
}

// Validate names the first field that is out of range. Limits that depend on the model are checked
// where the model is known.
func (r *ChatRequest) Validate() *Error {
	if r.MaxCompletionTokens != nil {
		if *r.MaxCompletionTokens < 1 || *r.MaxCompletionTokens > clientTokensMax {
			return outOfRange("max_completion_tokens", *r.MaxCompletionTokens, clientTokenDetails)
		}
		if r.MaxTokens != nil && *r.MaxTokens != *r.MaxCompletionTokens {
			return outOfRange("max_tokens", *r.MaxTokens, fmt.Sprintf("the same as max_completion_tokens (%d), or only one of the two", *r.MaxCompletionTokens))
		}
	}
	if len(r.TemplateArgs) > 0 && r.TemplateArgs[0] != '{' {
		return outOfRange("chat_template_kwargs", clip(r.TemplateArgs), "an object")
	}
	if r.TopLogprobs != nil {
		switch {
		case !r.Logprobs:
			return outOfRange("top_logprobs", *r.TopLogprobs, "logprobs: true with it")
		case *r.TopLogprobs < 0 || *r.TopLogprobs > LogprobsMax:
			return outOfRange("top_logprobs", *r.TopLogprobs, fmt.Sprintf("an integer from 0 to %d", LogprobsMax))
		}
	}
	return r.GenerationParams.validate()
}

// Validate names the first field that is out of range.
func (r *CompletionRequest) Validate() *Error {
	switch n := r.Prompt.Len(); {
	case n == 0:
		return Errorf(KindInvalid, "validate", "prompt is missing; expected a string, an array of strings or token ids").WithParam("prompt")
	case n > PromptsMax:
		return outOfRange("prompt", fmt.Sprintf("an array of %d prompts", n), fmt.Sprintf("at most %d", PromptsMax))
	case r.N != nil && *r.N > int64(RequestChoicesMax/n):
		return outOfRange("n", *r.N, fmt.Sprintf("at most %d with %d prompts", RequestChoicesMax/n, n))
	case r.Logprobs != nil && (*r.Logprobs < 0 || *r.Logprobs > LogprobsMax):
		return outOfRange("logprobs", *r.Logprobs, fmt.Sprintf("an integer from 0 to %d", LogprobsMax))
	case r.Echo && r.Logprobs != nil && r.Stream:
		return Errorf(KindUnsupported, OpUnsupported, "echo with logprobs cannot be streamed").WithParam("echo").WithHint("leave out stream")
	}
	p := r.GenerationParams
	if r.Echo && p.MaxTokens != nil && *p.MaxTokens == 0 {
		p.MaxTokens = nil
	}
	return p.validate()
}

func (p *GenerationParams) validate() *Error {
	switch {
	case p.MaxTokens != nil && (*p.MaxTokens < 1 || *p.MaxTokens > clientTokensMax):
		return outOfRange("max_tokens", *p.MaxTokens, clientTokenDetails)
	case p.MinTokens < 0 || p.MinTokens > clientTokensMax:
		return outOfRange("min_tokens", p.MinTokens, "an integer from 0 to max_tokens")
	case p.N != nil && (*p.N < 1 || *p.N > ChoicesMax):
		return outOfRange("n", *p.N, fmt.Sprintf("an integer from 1 to %d", ChoicesMax))
	case p.TopK != nil && (*p.TopK < -1 || *p.TopK > math.MaxInt32):
		return outOfRange("top_k", *p.TopK, "0 or -1 (off) or a positive count")
	case len(p.User) > UserBytesMax:
		return outOfRange("user", fmt.Sprintf("%d bytes long", len(p.User)), fmt.Sprintf("at most %d", UserBytesMax))
	case p.Priority < -PriorityMax || p.Priority > PriorityMax:
		return outOfRange("priority", p.Priority, fmt.Sprintf("an integer from %d to %d", -PriorityMax, PriorityMax))
	case p.Deadline < 0 || p.Deadline > DeadlineMsMax:
		return outOfRange("deadline_ms", p.Deadline, fmt.Sprintf("an integer from 0 to %d", DeadlineMsMax))
	case p.StreamOptions != nil && !p.Stream:
		return Errorf(KindInvalid, "validate", "stream_options is set without stream: true").WithParam("stream_options")
	case p.StreamOptions != nil && p.StreamOptions.IncludeObfuscation:
		return Errorf(KindUnsupported, OpUnsupported, "include_obfuscation: true is not supported yet").WithParam("stream_options.include_obfuscation")
	case len(p.Stop) > StopStringsMax:
		return outOfRange("stop", fmt.Sprintf("%d strings", len(p.Stop)), fmt.Sprintf("at most %d", StopStringsMax))
	case len(p.StopTokenIDs) > StopTokensMax:
		return outOfRange("stop_token_ids", fmt.Sprintf("%d ids", len(p.StopTokenIDs)), fmt.Sprintf("at most %d", StopTokensMax))
	}
	if err := p.RuleParams.validate(p.Stream); err != nil {
		return err
	}
	for i, s := range p.Stop {
		if s == "" || len(s) > StopBytesMax {
			return outOfRange(fmt.Sprintf("stop[%d]", i), fmt.Sprintf("%d bytes long", len(s)), fmt.Sprintf("1 to %d", StopBytesMax))
		}
	}
	for i, id := range p.StopTokenIDs {
		if id < 0 || id > math.MaxInt32 {
			return outOfRange(fmt.Sprintf("stop_token_ids[%d]", i), id, "a token id")
		}
	}
	return nil
}

// Apply overlays the request's sampling parameters on a model's defaults. The seed stays zero if
// the request has none.
func (p *GenerationParams) Apply(defaults SamplingParams) (SamplingParams, *Error) {
	s := defaults
	s.Seed = 0
	overlay := func(to *float32, from *float64) {
		if from != nil {
			*to = float32(*from) // beyond float32 becomes infinite, which Validate refuses
		}
	}
	overlay(&s.Temperature, p.Temperature)
	overlay(&s.TopP, p.TopP)
	overlay(&s.MinP, p.MinP)
	if p.TopK != nil {
		s.TopK = int32(max(*p.TopK, 0))
	}
	if p.Seed != nil {
		s.Seed = uint64(*p.Seed)
	}
	s.Rules = p.RuleParams.apply(defaults.Rules)
	return s, s.Validate()
}

// Op values that clients see as the error's code.
const (
	OpContext     = "context_length_exceeded"
	OpModel       = "model_not_found"
	OpUnknown     = "unknown_parameter"
	OpUnsupported = "unsupported_parameter"
	OpKey         = "invalid_api_key"
)

func outOfRange(param string, value any, want string) *Error {
	return Errorf(KindInvalid, "validate", "%s is %v; expected %s", param, value, want).WithParam(param)
}

func clip(b []byte) string {
	if len(b) > 40 {
		return string(b[:40]) + "…"
	}
	return string(b)
}
