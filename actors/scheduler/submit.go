package scheduler

import (
	"slices"

	"github.com/troupe-engine/troupe/schemas"
)

// submit queues a request's sequences. A request that is known already is acknowledged again.
func (c *Core) submit(r *schemas.SubmitRequest) (*schemas.SubmitReply, *schemas.Error) {
	ahead := &schemas.SubmitReply{Waiting: int32(len(c.waiting))}
	if c.lives(r) {
		return ahead, nil
	}
	if c.recent.has(r.Request) {
		ahead.Ended = true
		return ahead, nil
	}
	if err := c.refuse(r); err != nil {
		err.Request = r.Request
		return nil, err
	}
	for i := range int(r.Choices) { // the first may have ended so long ago that it is no longer remembered
		if c.alive[r.Request.Seq(i)] != nil {
			return ahead, nil
		}
	}
	var parent *Sequence
	for i := range int(r.Choices) {
		output, ended := r.Resume.Of(i)
		if ended {
			continue
		}
		s := &Sequence{id: r.Request.Seq(i), request: r, output: slices.Clone(output), arrival: c.arrivals, arrivedNs: c.now, slot: noSlot, rank: unranked,
			maxTokens: min(r.MaxTokens, c.contextMax-int32(len(r.Tokens))), parent: parent}
		if r.Embed {
			s.maxTokens = 1 // one row yields the embedding
		}
		if i == 0 && r.Resume == nil {
			parent = s
		}
		c.arrivals++
		c.alive[s.id] = s
		c.arrived(s)
		c.waiting = c.insert(c.waiting, s)
	}
	return ahead, nil
}

// lives reports whether a choice of r is in the engine.
func (c *Core) lives(r *schemas.SubmitRequest) bool {
	for i := range int(min(r.Choices, schemas.ChoicesMax)) {
		if c.alive[r.Request.Seq(i)] != nil {
			return true
		}
	}
	return false
}

// refuse says why r cannot run here, or nil.
func (c *Core) refuse(r *schemas.SubmitRequest) *schemas.Error {
	bad := func(param, format string, args ...any) *schemas.Error {
		return schemas.Errorf(schemas.KindInvalid, "submit", format, args...).WithParam(param)
	}
	if c.deviceLost != nil {
		lost := *c.deviceLost
		return &lost
	}
	if uint64(r.Request)&0xff != 0 || r.Request == 0 {
		return bad("request", "request id %s: the low 8 bits must be zero and the rest not", r.Request)
	}
	if r.Choices < 1 || r.Choices > schemas.ChoicesMax {
		return bad("n", "n is %d; expected 1 to %d", r.Choices, schemas.ChoicesMax)
	}
	if r.Embed && r.Choices != 1 {
		return bad("n", "n is %d; expected 1 for an embedding", r.Choices)
	}
	if err := c.refuseResume(r); err != nil {
		return err
	}
	if r.MaxTokens < 1 {
		return bad("max_tokens", "max_tokens is %d; expected at least 1", r.MaxTokens)
	}
	if err := r.Sampling.Validate(); err != nil {
		return err
	}
	if len(r.Tokens) == 0 {
		return bad("prompt", "the prompt has no tokens; expected at least one").
			WithHint("this model's tokenizer adds no beginning-of-text token: send some text")
	}
	if n := len(r.Tokens); n >= int(c.contextMax) {
		err := bad("prompt", "the prompt has %d tokens; with at least one token of output the limit is %d", n, c.contextMax-1)
		if c.contextMax < c.cfg.ContextMax {
			return err.WithHint("the KV pool holds %d tokens: raise kv_blocks for the model's %d", c.contextMax, c.cfg.ContextMax)
		}
		return err.WithHint("shorten the prompt; the model's context is %d tokens", c.cfg.ContextMax)
	}
	if r.DeadlineMs < 0 {
		return bad("deadline", "deadline is %d ms; expected unix milliseconds, or 0 for none", r.DeadlineMs)
	}
	if err := c.refuseRules(r, bad); err != nil {
		return err
	}
	for i, t := range r.Tokens {
		if t < 0 || t >= c.cfg.VocabSize {
			return bad("prompt", "token %d of the prompt is %d; the vocabulary has 0 to %d", i, t, c.cfg.VocabSize-1)
		}
	}
	if len(c.waiting)+int(r.Choices) > int(c.cfg.WaitingMax) {
		c.count.overloads++
		err := schemas.Errorf(schemas.KindOverloaded, "submit", "%d sequences are waiting and %d more would exceed the limit of %d", len(c.waiting), r.Choices, c.cfg.WaitingMax).
			WithHint("try again later, or raise waiting_max")
		err.RetryAfterMs = 1000
		return err
	}
	return nil
}

// refuseResume says why the output that r brings along cannot be gone on from.
func (c *Core) refuseResume(r *schemas.SubmitRequest) *schemas.Error {
	if err := r.Resume.Validate(r.Choices); err != nil || r.Resume == nil {
		return err
	}
	bad := func(format string, args ...any) *schemas.Error {
		return schemas.Errorf(schemas.KindInvalid, "submit", "resume: "+format, args...).WithParam("resume")
	}
	if r.Embed {
		return bad("an embedding has no output to go on from")
	}
	going := false
	for i, n := range r.Resume.Counts {
		going = going || n >= 0
		if n >= min(r.MaxTokens, c.contextMax-int32(len(r.Tokens))) {
			return bad("choice %d has %d tokens of output already, with %d prompt tokens and max_tokens %d", i, n, len(r.Tokens), r.MaxTokens)
		}
	}
	if !going {
		return bad("all choices have ended")
	}
	for i, t := range r.Resume.Tokens {
		if t < 0 || t >= c.cfg.VocabSize {
			return bad("token %d is %d; the vocabulary has 0 to %d", i, t, c.cfg.VocabSize-1)
		}
	}
	return nil
}

// promptLogprobsMax bounds what is kept of one prompt: tokens × candidates.
const promptLogprobsMax = 1 << 20

// refuseRules says what is wrong with r's sampling rules, as far as that depends on the model or the prompt.
func (c *Core) refuseRules(r *schemas.SubmitRequest, bad func(param, format string, args ...any) *schemas.Error) *schemas.Error {
	rules := r.Sampling.Rules
	if rules == nil {
		return nil
	}
	for i, t := range rules.BiasTokens {
		if t < 0 || t >= c.cfg.VocabSize {
			return bad("logit_bias", "element %d is for token %d; the vocabulary has 0 to %d", i, t, c.cfg.VocabSize-1)
		}
	}
	if n := len(r.Tokens) * int(rules.PromptLogprobs); n > promptLogprobsMax {
		return bad("prompt_logprobs", "%d candidates for each of %d prompt tokens; expected at most %d in all", rules.PromptLogprobs, len(r.Tokens), promptLogprobsMax)
	}
	return nil
}

// cancel ends sequences early and counts those that were alive.
func (c *Core) cancel(r *schemas.CancelRequest) (n int32, err *schemas.Error) {
	if r.Finish != schemas.FinishCancel && r.Finish != schemas.FinishStop {
		return 0, schemas.Errorf(schemas.KindInvalid, "cancel", "finish is %d (%s); expected %d (cancelled) or %d (stop)",
			r.Finish, r.Finish, schemas.FinishCancel, schemas.FinishStop).WithParam("finish")
	}
	for _, id := range r.Seq {
		if s := c.alive[schemas.SeqID(id)]; s != nil {
			// The end goes out like any other, so that nobody keeps a session for the sequence.
			c.emit = append(c.emit, Emission{Tokenizer: s.request.Tokenizer, Seq: s.id, Index: s.OutputTokens(), Token: -1,
				Finish: r.Finish, Cached: s.cached})
			c.end(s, r.Finish)
			n++
		}
	}
	return n, nil
}

// expire ends sequences whose deadline has passed.
func (c *Core) expire() {
	for _, queue := range [][]*Sequence{c.running, c.waiting} {
		for _, s := range slices.Clone(queue) {
			if d := s.request.DeadlineMs; d != 0 && c.now/1e6 > d {
				c.fail(s, schemas.Errorf(schemas.KindTimeout, "schedule", "the request's deadline passed %d ms ago, after %d of %d output tokens",
					c.now/1e6-d, len(s.output), s.maxTokens))
			}
		}
	}
}

// fail ends s with an error.
func (c *Core) fail(s *Sequence, err *schemas.Error) {
	e := *err
	e.Request = s.id.Request()
	c.emit = append(c.emit, Emission{Tokenizer: s.request.Tokenizer, Seq: s.id, Index: s.OutputTokens(), Token: -1,
		Finish: schemas.FinishError, Cached: s.cached, Err: &e})
	c.end(s, schemas.FinishError)
}

// end takes s out of the engine. Rows of it that are still in flight will be discarded. Its blocks may
// be reused at once: the device runs steps in order.
func (c *Core) end(s *Sequence, finish schemas.FinishReason) {
	s.ended, s.finish = true, finish
	c.endedSequence(s)
	delete(c.alive, s.id)
	if s.slot != noSlot {
		c.running = remove(c.running, s)
		c.freeSlot(s)
	} else {
		c.waiting = remove(c.waiting, s)
	}
	if s.admitted {
		c.release = append(c.release, s)
	}
	c.count.finished++
	c.recent.add(s.id.Request())
}

func (c *Core) freeSlot(s *Sequence) {
	c.slots = append(c.slots, s.slot)
	s.slot, s.onDevice = noSlot, false
}
