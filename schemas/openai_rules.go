package schemas

import (
	"fmt"
	"maps"
	"slices"
)

// RuleParams are the fields of generating requests that become SamplingRules, which says what they do.
type RuleParams struct {
	PresencePenalty   *float64  `json:"presence_penalty,omitempty" jsonschema:"minimum=-2,maximum=2"`
	FrequencyPenalty  *float64  `json:"frequency_penalty,omitempty" jsonschema:"minimum=-2,maximum=2"`
	RepetitionPenalty *float64  `json:"repetition_penalty,omitempty" jsonschema:"maximum=100" jsonschema_description:"more than 0; 1 is off"`
	LogitBias         LogitBias `json:"logit_bias,omitempty"`
	PromptLogprobs    *int64    `json:"prompt_logprobs,omitempty" jsonschema:"minimum=0,maximum=20" jsonschema_description:"report the log-probabilities of the prompt's tokens and of so many likeliest ones"`
}

func (p *RuleParams) validate(stream bool) *Error {
	switch k := p.PromptLogprobs; {
	case k == nil:
	case *k < 0 || *k > LogprobsMax:
		return outOfRange("prompt_logprobs", *k, fmt.Sprintf("an integer from 0 to %d", LogprobsMax))
	case stream:
		return Errorf(KindUnsupported, OpUnsupported, "prompt_logprobs cannot be streamed").WithParam("prompt_logprobs").WithHint("leave out stream")
	}
	switch {
	case p.RepetitionPenalty != nil && *p.RepetitionPenalty <= 0: // 0 would mean that none is given
		return outOfRange("repetition_penalty", *p.RepetitionPenalty, "more than 0, at most 100")
	case len(p.LogitBias) > BiasTokensMax:
		return outOfRange("logit_bias", fmt.Sprintf("%d tokens long", len(p.LogitBias)), fmt.Sprintf("at most %d", BiasTokensMax))
	}
	return nil
}

// apply overlays the parameters on a model's defaults. It returns nil if nothing is to be done.
func (p *RuleParams) apply(defaults *SamplingRules) *SamplingRules {
	var r SamplingRules
	if defaults != nil {
		r = *defaults
	}
	for _, f := range []struct {
		to   *float32
		from *float64
	}{{&r.PresencePenalty, p.PresencePenalty}, {&r.FrequencyPenalty, p.FrequencyPenalty}, {&r.RepetitionPenalty, p.RepetitionPenalty}} {
		if f.from != nil {
			*f.to = float32(*f.from)
		}
	}
	if r.RepetitionPenalty == 1 {
		r.RepetitionPenalty = 0
	}
	for _, id := range slices.Sorted(maps.Keys(p.LogitBias)) {
		r.BiasTokens, r.BiasValues = append(r.BiasTokens, id), append(r.BiasValues, p.LogitBias[id])
	}
	if p.PromptLogprobs != nil {
		r.PromptLogprobs = 1 + int32(*p.PromptLogprobs)
	}
	if r.idle() {
		return nil
	}
	return &r
}

// idle reports whether the rules neither change nor report anything.
func (r *SamplingRules) idle() bool {
	return r.PresencePenalty == 0 && r.FrequencyPenalty == 0 && r.RepetitionPenalty == 0 && len(r.BiasTokens) == 0 &&
		r.Logprobs == 0 && r.PromptLogprobs == 0 && r.Guide == nil
}
