package gateway

import (
	"github.com/troupe-engine/troupe/schemas"
)

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
	raw := r.AddSpecialTokens != nil && !*r.AddSpecialTokens
	for _, text := range r.Prompt.Texts {
		j.prompts = append(j.prompts, schemas.EncodeRequest{Prompt: text, Raw: raw})
	}
	for _, tokens := range r.Prompt.Tokens {
		j.prompts = append(j.prompts, schemas.EncodeRequest{Tokens: tokens})
	}
	return j, j.check(cfg)
}
