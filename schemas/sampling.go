package schemas

import (
	"fmt"
	"math"
)

// SamplingParams says how a sequence's tokens are drawn. Temperature 0 is greedy.
type SamplingParams struct {
	_msgpack struct{} `msgpack:",as_array"`

	Temperature float32 `json:"temperature"` // 0..100; 0 is greedy
	TopP        float32 `json:"top_p"`       // (0, 1]; 1 is off
	TopK        int32   `json:"top_k"`       // 0 is off
	MinP        float32 `json:"min_p"`       // [0, 1]; 0 is off
	Seed        uint64  `json:"seed,string"` // choice i of a request draws with Seed+i

	Rules *SamplingRules `json:"rules,omitempty"` // nil for most sequences
}

// SamplingRules change a sequence's logits before it samples, in this order, and say what is reported about them:
//
//	l' = l / RepetitionPenalty if l > 0, else l * RepetitionPenalty, for tokens of the prompt or the output
//	l' = l - FrequencyPenalty * count - PresencePenalty, for tokens that are count times in the output
//	l' = l + bias, for tokens with a bias
//	l' = -inf, for end tokens before the sequence's MinTokens, and for tokens that the Guide does not allow
//
// Keskar et al. 2019 (arXiv:1909.05858) for repetition; the OpenAI API for the others. Log-probabilities are those of the
// model, before the rules and the temperature.
type SamplingRules struct {
	_msgpack struct{} `msgpack:",as_array"`

	PresencePenalty   float32 `json:"presence_penalty,omitempty"`   // -2..2; 0 is off
	FrequencyPenalty  float32 `json:"frequency_penalty,omitempty"`  // -2..2; 0 is off
	RepetitionPenalty float32 `json:"repetition_penalty,omitempty"` // more than 0, at most 100; 1, and 0 for none given, are off
	BiasTokens        I32     `json:"bias_tokens,omitempty"`        // logit_bias: tokens …
	BiasValues        F32     `json:"bias_values,omitempty"`        // … and what is added, -100..100
	Logprobs          int32   `json:"logprobs,omitempty"`           // 0: none; 1+k: the sampled token's and the k likeliest
	PromptLogprobs    int32   `json:"prompt_logprobs,omitempty"`    // the same for the tokens of the prompt, but its first
	Guide             *Guide  `json:"guide,omitempty"`              // what the text must be
}

// Guide constrains the text of an answer. Package guide compiles it.
type Guide struct {
	_msgpack struct{} `msgpack:",as_array"`

	Kind   string `json:"kind"`             // "json_object", "json_schema", "regex" or "grammar"
	Source string `json:"source,omitempty"` // the schema, the expression or the grammar
}

// TokenLogprobs is the log-probabilities of one or more successive tokens of a row.
type TokenLogprobs struct {
	_msgpack struct{} `msgpack:",as_array"`

	Row    int32 `json:"row"`    // of the message that carries it
	Prompt bool  `json:"prompt"` // of prompt tokens, rather than of the row's own
	Start  int32 `json:"start"`  // position in the sequence of the first token
	Width  int32 `json:"width"`  // candidates per token: itself, then the likeliest in descending order
	Tokens I32   `json:"tokens"` // [n, Width]
	Values F32   `json:"values"` // [n, Width], natural logarithms; -inf for the impossible

	Ranks I32 `json:"ranks,omitempty"` // [n], of prompt tokens: a token's place among all, from 1; absent otherwise
}

// Fits reports whether the columns fit each other, and Row is one of a message's rows.
func (l *TokenLogprobs) Fits(rows int) bool {
	n := len(l.Tokens)
	return l.Row >= 0 && int(l.Row) < rows && l.Width >= 1 && n%int(l.Width) == 0 && len(l.Values) == n &&
		(len(l.Ranks) == 0 || len(l.Ranks)*int(l.Width) == n)
}

// Limits of SamplingRules.
const (
	LogprobsMax   = 20      // likeliest tokens reported per position
	BiasTokensMax = 1024    // tokens with a bias
	GuideBytesMax = 1 << 18 // of a Guide's source
)

// Validate names the first parameter that is out of range.
func (p *SamplingParams) Validate() *Error {
	bad := func(param string, value any, want string) *Error {
		return Errorf(KindInvalid, "sampling", "%s is %v; expected %s", param, value, want).WithParam(param)
	}
	inRange := func(v, low, high float32) bool { return v >= low && v <= high } // false for NaN
	switch {
	case !inRange(p.Temperature, 0, 100):
		return bad("temperature", p.Temperature, "0 to 100")
	case !inRange(p.TopP, math.SmallestNonzeroFloat32, 1):
		return bad("top_p", p.TopP, "more than 0, at most 1")
	case p.TopK < 0:
		return bad("top_k", p.TopK, "0 (off) or a positive count")
	case !inRange(p.MinP, 0, 1):
		return bad("min_p", p.MinP, "0 to 1")
	}
	if p.Rules != nil {
		return p.Rules.validate(bad)
	}
	return nil
}

func (r *SamplingRules) validate(bad func(param string, value any, want string) *Error) *Error {
	inRange := func(v, low, high float32) bool { return v >= low && v <= high } // false for NaN
	switch {
	case !inRange(r.PresencePenalty, -2, 2):
		return bad("presence_penalty", r.PresencePenalty, "-2 to 2")
	case !inRange(r.FrequencyPenalty, -2, 2):
		return bad("frequency_penalty", r.FrequencyPenalty, "-2 to 2")
	case !inRange(r.RepetitionPenalty, 0, 100):
		return bad("repetition_penalty", r.RepetitionPenalty, "more than 0, at most 100")
	case len(r.BiasTokens) != len(r.BiasValues):
		return bad("logit_bias", fmt.Sprintf("%d tokens and %d values", len(r.BiasTokens), len(r.BiasValues)), "as many")
	case len(r.BiasTokens) > BiasTokensMax:
		return bad("logit_bias", fmt.Sprintf("%d tokens", len(r.BiasTokens)), fmt.Sprintf("at most %d", BiasTokensMax))
	case r.Logprobs < 0 || r.Logprobs > LogprobsMax+1:
		return bad("top_logprobs", r.Logprobs-1, fmt.Sprintf("0 to %d", LogprobsMax))
	case r.PromptLogprobs < 0 || r.PromptLogprobs > LogprobsMax+1:
		return bad("prompt_logprobs", r.PromptLogprobs-1, fmt.Sprintf("0 to %d", LogprobsMax))
	case r.Guide != nil && len(r.Guide.Source) > GuideBytesMax:
		return bad("response_format", fmt.Sprintf("%d bytes", len(r.Guide.Source)), fmt.Sprintf("at most %d", GuideBytesMax))
	}
	for i, v := range r.BiasValues {
		if !inRange(v, -100, 100) {
			return bad("logit_bias", fmt.Sprintf("%v for token %d", v, r.BiasTokens[i]), "-100 to 100")
		}
	}
	return nil
}

// FinishReason says why a sequence ended. The numbers are stable: they travel in columns.
type FinishReason uint8

// Finish reasons. FinishNone means the sequence goes on.
const (
	FinishNone   FinishReason = iota
	FinishStop                // an end token or a stop string
	FinishLength              // the token limit or the end of the context
	FinishCancel              // the client cancelled or went away
	FinishError               // see the accompanying Error
)

var finishNames = [...]string{"", "stop", "length", "cancelled", "error"}

func (f FinishReason) String() string {
	if int(f) < len(finishNames) {
		return finishNames[f]
	}
	return fmt.Sprintf("FinishReason(%d)", uint8(f))
}
