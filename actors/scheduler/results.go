package scheduler

import (
	"slices"

	"github.com/troupe-engine/troupe/schemas"
)

// done takes the tokens of a finished step. Results of another epoch, or of a step that is not in
// flight (a repeat), are ignored. Results come in the order of steps: one that comes too early means that
// those before it are lost, and with them the tokens that precede its own.
func (c *Core) done(r *schemas.StepResult) {
	if r.Epoch != c.epoch {
		return
	}
	at := slices.IndexFunc(c.flights, func(f *flight) bool { return f.step == r.Step })
	if at < 0 {
		return
	}
	if r.Error != nil {
		c.lost(r.Error)
		return
	}
	f := c.flights[0]
	if err := f.check(r); err != nil {
		c.lost(err)
		return
	}
	c.flights = slices.Delete(c.flights, 0, 1)
	c.headNs = c.now
	for i, s := range f.rows {
		s.inFlight--
		if f.sampled[i] {
			s.pending--
		}
	}
	c.emit = slices.Grow(c.emit, len(r.Row))
	extras := f.extras(r)
	for i, row := range r.Row {
		c.sampled(f.rows[row], r.Token[i], extras[row])
	}
}

// extra is what a row yields besides its token.
type extra struct {
	logprobs  *schemas.TokenLogprobs
	embedding *schemas.Embedding
	failure   *schemas.Error
}

// extras sorts what a result has beside tokens by row; those of prompts are kept with their sequences.
func (f *flight) extras(r *schemas.StepResult) map[int32]extra {
	if len(r.Logprobs) == 0 && len(r.Embeddings) == 0 && len(r.Failed) == 0 {
		return nil
	}
	extras := map[int32]extra{}
	for i := range r.Failed {
		if row := slices.IndexFunc(f.rows, func(s *Sequence) bool { return s.id == r.Failed[i].Seq }); row >= 0 {
			extras[int32(row)] = extra{failure: &r.Failed[i].Error}
		}
	}
	for i := range r.Logprobs {
		l := &r.Logprobs[i]
		if l.Prompt {
			f.rows[l.Row].keepPromptLogprobs(l)
			continue
		}
		e := extras[l.Row]
		e.logprobs = l
		extras[l.Row] = e
	}
	for i := range r.Embeddings {
		e := extras[r.Embeddings[i].Row]
		e.embedding = &r.Embeddings[i]
		extras[r.Embeddings[i].Row] = e
	}
	return extras
}

// keepPromptLogprobs adds a chunk's. A chunk that is computed again after a preemption says the same again.
func (s *Sequence) keepPromptLogprobs(l *schemas.TokenLogprobs) {
	if s.ended || s.reportsPrompt() != l.Width {
		return
	}
	if s.promptLogprobs == nil {
		n := int(s.PromptTokens()-1) * int(l.Width)
		s.promptLogprobs = &schemas.TokenLogprobs{Prompt: true, Start: 1, Width: l.Width, Tokens: make(schemas.I32, n), Values: make(schemas.F32, n)}
		if l.Ranks != nil {
			s.promptLogprobs.Ranks = make(schemas.I32, s.PromptTokens()-1)
		}
	}
	first := max(int(l.Start-1), 0)
	if at := first * int(l.Width); at < len(s.promptLogprobs.Tokens) {
		copy(s.promptLogprobs.Tokens[at:], l.Tokens)
		copy(s.promptLogprobs.Values[at:], l.Values)
	}
	if first < len(s.promptLogprobs.Ranks) {
		copy(s.promptLogprobs.Ranks[first:], l.Ranks)
	}
}

// check holds a result to the plan that is due: one token for each row that samples, in the plan's order.
func (f *flight) check(r *schemas.StepResult) *schemas.Error {
	if r.Step != f.step {
		return badResult(r, "step", "%d, but step %d has no result yet", r.Step, f.step)
	}
	row := 0
	for i, sampled := range f.sampled {
		if !sampled {
			continue
		}
		if row >= len(r.Row) || r.Row[row] != int32(i) {
			return badResult(r, "row", "element %d is not row %d, which samples according to the plan", row, i)
		}
		row++
	}
	switch {
	case row < len(r.Row):
		return badResult(r, "row", "element %d is row %d, which does not sample again according to the plan", row, r.Row[row])
	case len(r.Token) != len(r.Row):
		return badResult(r, "token", "%d tokens for %d rows", len(r.Token), len(r.Row))
	}
	for i := range r.Logprobs {
		l := &r.Logprobs[i]
		if !l.Fits(len(f.rows)) {
			return badResult(r, "logprobs", "element %d has row %d of %d, %d tokens, %d values and %d ranks, %d wide", i, l.Row, len(f.rows), len(l.Tokens), len(l.Values), len(l.Ranks), l.Width)
		}
	}
	for i := range r.Embeddings {
		if row := r.Embeddings[i].Row; row < 0 || int(row) >= len(f.rows) {
			return badResult(r, "embeddings", "element %d has row %d of %d", i, row, len(f.rows))
		}
	}
	return nil
}

func badResult(r *schemas.StepResult, param, format string, args ...any) *schemas.Error {
	e := schemas.Errorf(schemas.KindInternal, "step result", param+": "+format, args...).WithParam(param)
	e.Step = r.Step
	return e
}

// repeatAfterNs is how late a result must be for its plan to be repeated.
const repeatAfterNs = 2_000_000_000

// watch looks after the oldest step: late, its plan is to be repeated; much later, it is given up: it, its result
// or compute itself is gone.
func (c *Core) watch() *schemas.StepPlan {
	if len(c.flights) == 0 {
		return nil
	}
	f, late := c.flights[0], c.now-c.headNs
	if limit := c.cfg.StepTimeMaxMs; limit != 0 && late/1e6 > limit {
		e := schemas.Errorf(schemas.KindTimeout, "step", "no result for %d ms; the limit is %d ms", late/1e6, limit).
			WithHint("is compute overloaded or gone? `nats micro ls` lists the actors that run")
		e.Step = f.step
		c.lost(e)
		return nil
	}
	if f.repeated || late < repeatAfterNs {
		return nil
	}
	f.repeated = true
	return f.plan
}

// sampled appends a token to s and ends the sequence if it is the last, or if what was asked for is an embedding.
func (c *Core) sampled(s *Sequence, token int32, x extra) {
	if s.ended {
		c.count.discarded++
		return
	}
	if x.failure != nil {
		c.fail(s, x.failure)
		return
	}
	c.guilty = 0
	if s.request.Embed {
		c.embedded(s, x.embedding)
		return
	}
	if token < 0 || token >= c.cfg.VocabSize {
		c.fail(s, schemas.Errorf(schemas.KindInternal, "sample", "the logits for output token %d were not finite", len(s.output)).
			WithHint("the weights or a kernel produce NaN: `troupe verify` compares them with a reference"))
		return
	}
	s.output = append(s.output, token)
	s.recoveries = 0
	c.count.tokens++
	e := Emission{Tokenizer: s.request.Tokenizer, Seq: s.id, Index: s.OutputTokens() - 1, Token: token, Cached: s.cached}
	switch {
	case s.OutputTokens() > s.request.MinTokens && slices.Contains(s.request.StopTokens, token):
		e.Finish = schemas.FinishStop
	case s.OutputTokens() >= s.maxTokens:
		e.Finish = schemas.FinishLength
	}
	if x.logprobs != nil {
		e.Logprobs = append(e.Logprobs, *x.logprobs)
	}
	if s.promptLogprobs != nil {
		e.Logprobs = append(e.Logprobs, *s.promptLogprobs)
		s.promptLogprobs = nil
	}
	c.emit = append(c.emit, e)
	if e.Finish != schemas.FinishNone {
		c.end(s, e.Finish)
	}
}

// embedded ends a sequence with its embedding.
func (c *Core) embedded(s *Sequence, embedding *schemas.Embedding) {
	if embedding == nil {
		c.fail(s, schemas.Errorf(schemas.KindInternal, "embed", "the step has no embedding for the sequence").
			WithHint("does this compute support embeddings?"))
		return
	}
	c.emit = append(c.emit, Emission{Tokenizer: s.request.Tokenizer, Seq: s.id, Token: -1, Finish: schemas.FinishStop,
		Cached: s.cached, Embedding: embedding})
	c.end(s, schemas.FinishStop)
}

// lost recovers from a step that memory or compute did not do.
func (c *Core) lost(err *schemas.Error) {
	c.count.stepErrors++
	c.lostBy = err
	suspects := map[*Sequence]bool{}
	for _, f := range c.flights {
		for _, s := range f.rows {
			suspects[s] = true
		}
	}
	if c.asked != nil {
		for _, s := range c.asked.rows {
			suspects[s] = true
		}
	}
	c.restart()
	switch {
	case err.Kind == schemas.KindDeviceLost:
		c.loseDevice(err, suspects)
	case err.Kind != schemas.KindNoMemory || !c.failRequest(err):
		c.suspect(err, suspects)
	}
}

// guiltyMax is how many requests in a row may be found to break steps before it is not them.
const guiltyMax = 3

// suspect ends the request whose sequence was part of too many lost steps without getting on, alone in the last one: it is
// what breaks them. If that is said of one request after the other without a token between them, all on trial end.
func (c *Core) suspect(err *schemas.Error, suspects map[*Sequence]bool) {
	guilty := map[schemas.RequestID]bool{}
	for s := range suspects {
		if s.recoveries++; s.recoveries > c.cfg.RecoveriesMax && !s.ended {
			guilty[s.id.Request()] = true
		}
	}
	c.guilty += int32(len(guilty))
	for _, s := range slices.Clone(c.waiting) {
		if guilty[s.id.Request()] || c.guilty >= guiltyMax && c.onTrial(s) {
			c.fail(s, err)
		}
	}
	c.quarantine = slices.ContainsFunc(c.waiting, c.onTrial)
}

// failRequest ends the request that an error names, and reports whether it was there. The others are computed again.
func (c *Core) failRequest(err *schemas.Error) (found bool) {
	for _, s := range slices.Clone(c.waiting) {
		if s.id.Request() == err.Request {
			c.fail(s, err)
			found = true
		}
	}
	return found
}

// loseDevice ends everything, for good. Only the errors of sequences that were in the lost steps name a step.
func (c *Core) loseDevice(err *schemas.Error, suspects map[*Sequence]bool) {
	unsuspected := *err
	unsuspected.Step = 0
	c.deviceLost = &unsuspected
	for _, s := range slices.Clone(c.waiting) {
		if suspects[s] {
			c.fail(s, err)
		} else {
			c.fail(s, &unsuspected)
		}
	}
}
