package gateway

import (
	"math/rand/v2"

	"github.com/troupe-engine/troupe/schemas"
)

// job is a valid client request: what to encode and what to submit.
type job struct {
	chat    bool
	model   string                  // as the client named it
	prompts []schemas.EncodeRequest // without request id and session
	n       int                     // choices per prompt
	detok   schemas.DetokSpec       // without addresses
	stream  bool
	usage   bool   // a streamed answer ends with its usage
	trace   string // the client's trace id, for the log

	sampling   schemas.SamplingParams
	seeded     bool  // the client chose the seed
	maxTokens  int32 // 0: the default
	minTokens  int32
	stopTokens schemas.I32
	ignoreEOS  bool
	priority   int32
	user       string

	promptField, maxTokensField string // what errors call them
}

func newJob(p *schemas.GenerationParams, cfg *Config) (*job, *schemas.Error) {
	sampling, err := p.Apply(cfg.Defaults)
	if err != nil {
		return nil, err
	}
	j := &job{model: p.Model, n: 1, stream: p.Stream, sampling: sampling, seeded: p.Seed != nil,
		minTokens: int32(p.MinTokens), ignoreEOS: p.IgnoreEOS, priority: int32(p.Priority), user: p.User,
		maxTokensField: "max_tokens"}
	if p.N != nil {
		j.n = int(*p.N)
	}
	if p.MaxTokens != nil {
		j.maxTokens = int32(*p.MaxTokens)
	}
	for _, id := range p.StopTokenIDs {
		j.stopTokens = append(j.stopTokens, int32(id))
	}
	j.usage = p.StreamOptions != nil && p.StreamOptions.IncludeUsage
	j.detok = schemas.DetokSpec{Choices: int32(j.n), Stop: p.Stop, KeepStop: p.IncludeStop,
		KeepSpecial: p.SkipSpecialTokens != nil && !*p.SkipSpecialTokens}
	return j, nil
}

// check finds what contradicts itself or the configuration.
func (j *job) check(cfg *Config) *schemas.Error {
	switch {
	case cfg.OutputTokensMax != 0 && j.maxTokens > cfg.OutputTokensMax:
		return invalid(j.maxTokensField, "%s is %d; this server allows at most %d", j.maxTokensField, j.maxTokens, cfg.OutputTokensMax)
	case j.maxTokens != 0 && j.minTokens > j.maxTokens:
		return invalid("min_tokens", "min_tokens is %d; expected at most %s (%d)", j.minTokens, j.maxTokensField, j.maxTokens)
	}
	return nil
}

// submission is what the scheduler gets for prompt p, once its tokens are known.
func (j *job) submission(id schemas.RequestID, tokens schemas.I32, engine *schemas.EngineInfo, cfg *Config) (*schemas.SubmitRequest, *schemas.Error) {
	left := engine.ContextMax - int32(len(tokens))
	tooLong := func(param, format string, args ...any) *schemas.Error {
		return schemas.Errorf(schemas.KindInvalid, schemas.OpContext, format, args...).WithParam(param)
	}
	switch {
	case len(tokens) == 0:
		return nil, invalid(j.promptField, "%s has no tokens; expected at least one", j.promptField)
	case left < 1:
		return nil, tooLong(j.promptField, "%s has %d tokens; the context holds %d, one of them for the answer", j.promptField, len(tokens), engine.ContextMax).
			WithHint("shorten the prompt")
	case j.maxTokens > left:
		return nil, tooLong(j.maxTokensField, "%s has %d tokens and %s asks for %d more; the context holds %d", j.promptField, len(tokens), j.maxTokensField, j.maxTokens, engine.ContextMax).
			WithHint("ask for at most %d", left)
	case j.minTokens > left:
		return nil, tooLong("min_tokens", "%s has %d tokens and min_tokens asks for %d more; the context holds %d", j.promptField, len(tokens), j.minTokens, engine.ContextMax)
	}
	for i, id := range j.stopTokens {
		if id >= engine.VocabSize {
			return nil, invalid("stop_token_ids", "stop_token_ids[%d] is %d; the vocabulary has 0 to %d", i, id, engine.VocabSize-1)
		}
	}
	r := &schemas.SubmitRequest{Request: id, Choices: int32(j.n), Tokens: tokens, MaxTokens: j.maxTokens, MinTokens: j.minTokens,
		Sampling: j.sampling, Priority: j.priority, Tokenizer: cfg.Tokenizer, User: j.user}
	if r.MaxTokens == 0 {
		r.MaxTokens = min(left, max(cfg.OutputTokensDefault, j.minTokens))
		if cfg.OutputTokensMax != 0 {
			r.MaxTokens = min(r.MaxTokens, cfg.OutputTokensMax)
		}
	}
	if !j.ignoreEOS {
		r.StopTokens = append(r.StopTokens, engine.EndTokens...)
	}
	r.StopTokens = append(r.StopTokens, j.stopTokens...)
	if !j.seeded {
		r.Sampling.Seed = rand.Uint64()
	}
	return r, nil
}
