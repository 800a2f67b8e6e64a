package scheduler

import (
	"slices"

	"github.com/troupe-engine/troupe/schemas"
)

// restart begins a new epoch: memory and compute forget everything, and every running sequence is recomputed from its
// tokens. Sampling depends only on seed and position, so the tokens that were in flight come out the same.
func (c *Core) restart() {
	for _, f := range c.flights {
		for _, s := range f.rows {
			s.inFlight, s.pending = 0, 0
		}
	}
	c.epoch++
	// Memory hears of it with the next rows or, if there are none, at once; but it is not asked for ever.
	c.forget = c.asked == nil || len(c.asked.rows) > 0
	c.flights, c.asked, c.release = nil, nil, nil
	for _, s := range slices.Clone(c.running) {
		c.preempt(s)
	}
	for _, s := range c.waiting {
		s.admitted, s.learned = false, 0
	}
	c.quarantine = slices.ContainsFunc(c.waiting, c.onTrial)
}

// checkpoint begins a new epoch and describes the core as it is then. A core that is restored from that goes on as
// this one does.
func (c *Core) checkpoint() *schemas.SchedulerCheckpoint {
	c.restart()
	c.freeAllSlots() // their order depends on what ran before
	c.headNs, c.guilty = 0, 0
	c.renewPolicy()
	p := &schemas.SchedulerCheckpoint{Info: *c.Info(), ContextMax: c.cfg.ContextMax, RecoveriesMax: c.cfg.RecoveriesMax, StepTimeMaxMs: c.cfg.StepTimeMaxMs,
		RecentlyDoneMax: int32(c.cfg.RecentlyDoneMax), Epoch: c.epoch, Step: c.step, Arrivals: c.arrivals, Costs: c.cfg.Costs}
	for _, r := range slices.Concat(c.recent.ring[c.recent.next:], c.recent.ring[:c.recent.next]) {
		p.Recent = append(p.Recent, uint64(r))
	}
	requests := map[schemas.RequestID]int32{}
	for _, s := range c.waiting {
		at, known := requests[s.request.Request]
		if !known {
			at = int32(len(p.Requests))
			requests[s.request.Request] = at
			p.Requests = append(p.Requests, *s.request)
		}
		logprobs := s.promptLogprobs
		if logprobs != nil { // the core goes on to write into its own
			l := *logprobs
			l.Tokens, l.Values, l.Ranks = slices.Clone(l.Tokens), slices.Clone(l.Values), slices.Clone(l.Ranks)
			logprobs = &l
		}
		p.Seqs = append(p.Seqs, schemas.SeqCheckpoint{Seq: s.id, Request: at, Arrival: s.arrival, ArrivedNs: s.arrivedNs, MaxTokens: s.maxTokens,
			Output: slices.Clone(s.output), Cached: s.cached, Started: s.started, Preemptions: s.preemptions, Recoveries: s.recoveries, PromptLogprobs: logprobs})
	}
	return p
}

// renewPolicy makes the policy forget what it has learned, as a restored one has not learned it either.
func (c *Core) renewPolicy() {
	c.questions = questionsFrom(c.step)
	for _, s := range c.waiting {
		s.reached, s.startedNs = 0, 0
	}
	p, err := PolicyByName(c.policy.Name())
	if err != nil {
		p = c.policy // one that only its maker knows; it cannot be restored
	}
	c.setPolicy(p)
}

// questionsFrom numbers questions so that no two have the same number: a step is asked about only a few times.
func questionsFrom(step schemas.StepID) uint64 { return uint64(step) << 12 }

// ConfigOf is the configuration that a checkpoint was made with.
func ConfigOf(p *schemas.SchedulerCheckpoint) Config {
	i := &p.Info
	return Config{Model: i.Model, Replica: i.Replica, Device: i.Device, VocabSize: i.VocabSize, ContextMax: p.ContextMax, SequencesMax: i.SequencesMax,
		WaitingMax: i.WaitingMax, TokensStepMax: i.TokensStepMax, BlockSize: i.BlockSize, Blocks: i.Blocks, PipelineDepth: i.PipelineDepth,
		Policy: i.Policy, EndTokens: i.EndTokens, PrefixCacheOff: i.PrefixCacheOff, RecoveriesMax: p.RecoveriesMax, StepTimeMaxMs: p.StepTimeMaxMs,
		RecentlyDoneMax: int(p.RecentlyDoneMax), Costs: p.Costs}
}

// Limits of a checkpoint that is restored.
const (
	checkpointSequencesMax = 1 << 16
	checkpointBlocksMax    = 1 << 24
	checkpointRecentMax    = 1 << 20
)

// Restore makes a core that goes on from a checkpoint. The configuration may differ from the checkpoint's own, ConfigOf(p):
// that is what an experiment changes. The core is as the checkpoint's event left it before it proposed a step: a More event
// at the same time does that. Errors name the field of p.
func Restore(cfg Config, p *schemas.SchedulerCheckpoint, nowNs int64) (*Core, error) {
	bad := func(param, format string, args ...any) error {
		return schemas.Errorf(schemas.KindInvalid, "restore", param+": "+format, args...).WithParam(param)
	}
	switch { // what a checkpoint says is not trusted with memory
	case cfg.SequencesMax > checkpointSequencesMax:
		return nil, bad("sequences_max", "%d; expected at most %d", cfg.SequencesMax, checkpointSequencesMax)
	case cfg.Blocks > checkpointBlocksMax:
		return nil, bad("blocks", "%d; expected at most %d", cfg.Blocks, checkpointBlocksMax)
	case cfg.RecentlyDoneMax < 0 || cfg.RecentlyDoneMax > checkpointRecentMax:
		return nil, bad("recently_done_max", "%d; expected 0 to %d", cfg.RecentlyDoneMax, checkpointRecentMax)
	}
	c, err := NewCore(cfg, p.Epoch)
	if err != nil {
		return nil, err
	}
	c.now, c.step, c.arrivals, c.forget = nowNs, p.Step, p.Arrivals, true
	c.questions = questionsFrom(c.step)
	for _, id := range p.Recent {
		c.recent.add(schemas.RequestID(id))
	}
	for i := range p.Seqs {
		q := &p.Seqs[i]
		if q.Request < 0 || int(q.Request) >= len(p.Requests) {
			return nil, bad("seqs", "element %d is of request %d of %d", i, q.Request, len(p.Requests))
		}
		r := &p.Requests[q.Request]
		if q.Seq.Request() != r.Request || c.alive[q.Seq] != nil || len(r.Tokens) == 0 {
			return nil, bad("seqs", "element %d, sequence %s, is twice there, has no prompt or is not of its request %s", i, q.Seq, r.Request)
		}
		if err := r.Sampling.Validate(); err != nil {
			return nil, bad("requests", "%s: %v", r.Request, err)
		}
		if l := q.PromptLogprobs; l != nil && (r.Sampling.Rules == nil || l.Width != r.Sampling.Rules.PromptLogprobs || !l.Fits(int(l.Row)+1) || len(l.Tokens) != (len(r.Tokens)-1)*int(l.Width)) {
			return nil, bad("prompt_logprobs", "element %d has %d tokens and %d values, %d wide, for a prompt of %d tokens", i, len(l.Tokens), len(l.Values), l.Width, len(r.Tokens))
		}
		s := &Sequence{id: q.Seq, request: r, arrival: q.Arrival, arrivedNs: q.ArrivedNs, maxTokens: q.MaxTokens, output: slices.Clone(q.Output),
			slot: noSlot, cached: q.Cached, started: q.Started, preemptions: q.Preemptions, recoveries: q.Recoveries}
		if l := q.PromptLogprobs; l != nil {
			own := *l
			own.Tokens, own.Values, own.Ranks = slices.Clone(l.Tokens), slices.Clone(l.Values), slices.Clone(l.Ranks)
			s.promptLogprobs = &own
		}
		c.alive[s.id] = s
		c.waiting = append(c.waiting, s)
	}
	for _, s := range c.waiting {
		if s.id.Choice() > 0 && s.request.Resume == nil {
			if s.parent = c.alive[s.request.Request.Seq(0)]; s.parent == nil {
				s.parent = &Sequence{id: s.request.Request.Seq(0), request: s.request, ended: true}
			}
		}
	}
	c.setPolicy(c.policy)
	c.quarantine = slices.ContainsFunc(c.waiting, c.onTrial)
	return c, nil
}

func (c *Core) freeAllSlots() {
	c.slots = c.slots[:0]
	for slot := schemas.Slot(c.cfg.SequencesMax) - 1; slot >= 0; slot-- {
		c.slots = append(c.slots, slot)
	}
}

// Sequence is a sequence that is alive, or nil.
func (c *Core) Sequence(id schemas.SeqID) *Sequence { return c.alive[id] }
