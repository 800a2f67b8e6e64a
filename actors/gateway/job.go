package gateway

import (
	"math/rand/v2"
	"time"

	"github.com/troupe-engine/troupe/schemas"
)

// api is one way to ask for work: how a request is read, and what its answer looks like.
type api struct {
	name  string // in the log
	id    string // what the ids of answers start with
	done  string // what ends a stream of server-sent events
	parse func(fields, *Config) (*job, *schemas.Error)
	shape func(*answer) shape
}

// read turns a request's fields into a job.
func (a *api) read(f fields, cfg *Config) (*job, *schemas.Error) {
	j, err := a.parse(f, cfg)
	if err != nil {
		return nil, err
	}
	j.api, j.fields = a, f
	return j, nil
}

// sseDone is how OpenAI's chat and completion streams end.
const sseDone = "data: [DONE]\n\n"

// job is a valid client request: what to encode and what to submit.
type job struct {
	api     *api
	fields  fields                  // as the client sent them, for the journal
	model   string                  // as the client named it
	serving *model                  // that it names; nil before it is admitted
	prompts []schemas.EncodeRequest // without request id and session
	n       int                     // choices per prompt
	detok   schemas.DetokSpec       // without addresses
	stream  bool
	ledger  bool      // tell where the time goes
	arrived time.Time // the whole request
	usage   bool      // a streamed answer ends with its usage
	trace   string    // the client's trace id, for the log
	session string    // the client's: its requests prefer one replica
	version string    // of the program of replicas that may run it; "" is any
	stays   bool      // once tokens have come, it must not go on elsewhere
	key     string    // whose request it is, for the limit per API key; "" if there are no keys

	logprobs       bool              // report those of the answer
	logprobsTop    int               // and of so many likeliest tokens
	promptLogprobs bool              // report those of the prompt
	promptTop      int               // and of so many likeliest tokens
	echo           bool              // begin the answer with the prompt
	discard        bool              // the one token that is sampled is not wanted
	tools          *toolset          // nil if the answer cannot call any
	response       *schemas.Response // what a response repeats of its request
	embed          *embedForm        // the prompts' embeddings are wanted, not text

	sampling   schemas.SamplingParams
	guideParam string // the field that asks for sampling.Rules.Guide, "" for none
	seeded     bool   // the client chose the seed
	maxTokens  int32  // 0: the default
	minTokens  int32
	stopTokens schemas.I32
	ignoreEOS  bool
	priority   int32
	timeMax    time.Duration // the client's own limit for the answer; 0 is none
	user       string

	promptField, maxTokensField string // what errors call them
}

func newJob(p *schemas.GenerationParams, cfg *Config) (*job, *schemas.Error) {
	sampling, err := p.Apply(cfg.Defaults)
	if err != nil {
		return nil, err
	}
	j := &job{model: p.Model, n: 1, stream: p.Stream, sampling: sampling, seeded: p.Seed != nil,
		minTokens: int32(p.MinTokens), ignoreEOS: p.IgnoreEOS, priority: int32(p.Priority), timeMax: time.Duration(p.Deadline) * time.Millisecond, user: p.User,
		maxTokensField: "max_tokens"}
	if p.PromptLogprobs != nil {
		j.promptLogprobs, j.promptTop = true, int(*p.PromptLogprobs)
	}
	if p.N != nil {
		j.n = int(*p.N)
	}
	if p.MaxTokens != nil {
		j.maxTokens = int32(*p.MaxTokens)
	}
	for _, id := range p.StopTokenIDs {
		j.stopTokens = append(j.stopTokens, int32(id))
	}
	j.ledger = p.Troupe != nil && p.Troupe.Ledger
	j.usage = p.StreamOptions != nil && p.StreamOptions.IncludeUsage
	j.detok = schemas.DetokSpec{Choices: int32(j.n), Stop: p.Stop, KeepStop: p.IncludeStop,
		KeepSpecial: p.SkipSpecialTokens != nil && !*p.SkipSpecialTokens}
	guide, param, err := p.Guide()
	if err != nil {
		return nil, err
	}
	if guide != nil {
		j.rules().Guide, j.guideParam = guide, param
	}
	return j, nil
}

// addPrompts takes what a client wants continued or embedded. addSpecial is true unless it says otherwise.
func (j *job) addPrompts(p *schemas.Prompts, addSpecial *bool) {
	raw := addSpecial != nil && !*addSpecial
	for _, text := range p.Texts {
		j.prompts = append(j.prompts, schemas.EncodeRequest{Prompt: text, Raw: raw})
	}
	for _, tokens := range p.Tokens {
		j.prompts = append(j.prompts, schemas.EncodeRequest{Tokens: tokens})
	}
}

// rules are the job's own, for writing.
func (j *job) rules() *schemas.SamplingRules {
	if j.sampling.Rules == nil {
		j.sampling.Rules = &schemas.SamplingRules{}
	}
	return j.sampling.Rules
}

// guide is what constrains the answer's text, or nil.
func (j *job) guide() *schemas.Guide {
	if j.sampling.Rules == nil {
		return nil
	}
	return j.sampling.Rules.Guide
}

// reportLogprobs asks for the log-probabilities of the answer's tokens and of the top likeliest ones.
func (j *job) reportLogprobs(top int64) {
	j.logprobs, j.logprobsTop = true, int(top)
	j.rules().Logprobs = 1 + int32(top)
}

// check finds what contradicts itself or the configuration.
func (j *job) check(cfg *Config) *schemas.Error {
	switch {
	case cfg.OutputTokensMax != 0 && j.maxTokens > cfg.OutputTokensMax:
		return invalid(j.maxTokensField, "%s is %d; this server allows at most %d", j.maxTokensField, j.maxTokens, cfg.OutputTokensMax)
	case j.maxTokens != 0 && j.minTokens > j.maxTokens:
		return invalid("min_tokens", "min_tokens is %d; expected at most %s (%d)", j.minTokens, j.maxTokensField, j.maxTokens)
	case j.tools != nil && j.tools.required && j.guideParam != "" && j.guideParam != toolChoiceField:
		return invalid(toolChoiceField, "tool_choice asks for a call, but %s constrains the answer to something else", j.guideParam)
	case j.guideParam != "" && j.ignoreEOS:
		return invalid("ignore_eos", "ignore_eos is true together with %s, whose answers end where they are complete", j.guideParam)
	case j.guideParam != "" && j.minTokens > 0:
		return invalid("min_tokens", "min_tokens is %d together with %s, whose answers end where they are complete", j.minTokens, j.guideParam)
	}
	return nil
}

// submission is what the scheduler gets for a prompt, once its tokens are known.
func (j *job) submission(p *part, tokens schemas.I32, engine *schemas.EngineInfo, cfg *Config) (*schemas.SubmitRequest, *schemas.Error) {
	if err := j.checkPrompt(tokens, engine, cfg); err != nil {
		return nil, err
	}
	left := engine.ContextMax - int32(len(tokens))
	r := j.template()
	r.Request, r.Tokens, r.Tokenizer = p.id, tokens, p.tokenizer.name
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
	r.CacheSalt = j.salt(p.id)
	return r, nil
}

// template is what the submissions of all prompts have in common.
func (j *job) template() *schemas.SubmitRequest {
	r := &schemas.SubmitRequest{Choices: int32(j.n), MaxTokens: j.maxTokens, MinTokens: j.minTokens,
		Sampling: j.sampling, Priority: j.priority, User: j.user, Embed: j.embed != nil, Ledger: j.ledger}
	if r.User == "" {
		r.User = j.key
	}
	return r
}

// salt keeps a prompt apart from others' in the prefix cache: what comes from there has no log-probabilities.
func (j *job) salt(id schemas.RequestID) uint64 {
	if rules := j.sampling.Rules; rules != nil && rules.PromptLogprobs > 0 {
		return uint64(id)
	}
	return 0
}

// checkPrompt finds what does not fit the model.
func (j *job) checkPrompt(tokens schemas.I32, engine *schemas.EngineInfo, cfg *Config) *schemas.Error {
	left := engine.ContextMax - int32(len(tokens))
	tooLong := func(param, format string, args ...any) *schemas.Error {
		return schemas.Errorf(schemas.KindInvalid, schemas.OpContext, format, args...).WithParam(param)
	}
	switch {
	case len(tokens) == 0:
		return invalid(j.promptField, "%s has no tokens; expected at least one", j.promptField)
	case left < 1:
		return tooLong(j.promptField, "%s has %d tokens; the context holds %d, one of them for the answer", j.promptField, len(tokens), engine.ContextMax).
			WithHint("shorten the prompt")
	case cfg.PromptTokensMax != 0 && len(tokens) > int(cfg.PromptTokensMax):
		return tooLong(j.promptField, "%s has %d tokens; this server allows at most %d", j.promptField, len(tokens), cfg.PromptTokensMax).
			WithHint("shorten the prompt")
	case j.maxTokens > left:
		return tooLong(j.maxTokensField, "%s has %d tokens and %s asks for %d more; the context holds %d", j.promptField, len(tokens), j.maxTokensField, j.maxTokens, engine.ContextMax).
			WithHint("ask for at most %d", left)
	case j.minTokens > left:
		return tooLong("min_tokens", "%s has %d tokens and min_tokens asks for %d more; the context holds %d", j.promptField, len(tokens), j.minTokens, engine.ContextMax)
	}
	for i, id := range j.stopTokens {
		if id >= engine.VocabSize {
			return invalid("stop_token_ids", "stop_token_ids[%d] is %d; the vocabulary has 0 to %d", i, id, engine.VocabSize-1)
		}
	}
	if rules := j.sampling.Rules; rules != nil {
		for _, id := range rules.BiasTokens {
			if id >= engine.VocabSize {
				return invalid("logit_bias", "logit_bias has token %d; the vocabulary has 0 to %d", id, engine.VocabSize-1)
			}
		}
	}
	return nil
}
