package scheduler

import (
	"slices"

	"github.com/troupe-engine/troupe/schemas"
)

// proposal is a reserve request and the sequences behind its rows.
type proposal struct {
	step  schemas.StepID
	rows  []*Sequence
	wants []int32
	alone bool // the row is that of a sequence on trial
}

// flight is a planned step that has not finished.
type flight struct {
	step schemas.StepID
	rows []*Sequence
	// sampled[i] says that row i sampled; its token comes with the result.
	sampled  []bool
	plan     *schemas.StepPlan
	repeated bool // the plan went out again
}

// propose asks memory for the next step, or returns nil if the pipeline is full, memory has yet to
// answer, or there is nothing to run and nothing to tell.
func (c *Core) propose() *schemas.ReserveRequest {
	if c.asked != nil || c.deviceLost != nil {
		return nil
	}
	p := &proposal{}
	if len(c.flights) < int(c.cfg.PipelineDepth) && !c.refused {
		c.chooseRows(p)
	}
	if len(p.rows) == 0 && len(c.release) == 0 && !c.forget {
		return nil
	}
	c.step++
	p.step = c.step
	c.asked = p
	return c.request(p)
}

// chooseRows lists who could run, in policy order: running sequences that have something to compute, and as
// many waiting ones as there are free slots.
func (c *Core) chooseRows(p *proposal) {
	if c.quarantine && c.chooseAlone(p) {
		return
	}
	if c.dynamic != nil {
		c.rekey()
	}
	if c.shadow != nil {
		v := c.view()
		c.disagreed, c.shadowRank = c.shadow.decide(&v)
	}
	free := len(c.slots)
	run, wait := c.running, c.waiting
	rowsMax := len(run) + min(len(wait), free)
	p.rows, p.wants = make([]*Sequence, 0, rowsMax), make([]int32, 0, rowsMax)
	for len(run) > 0 || (len(wait) > 0 && free > 0) {
		var s *Sequence
		if len(wait) == 0 || free == 0 || (len(run) > 0 && before(run[0], wait[0])) {
			s, run = run[0], run[1:]
		} else {
			s, wait = wait[0], wait[1:]
			if !s.startable() {
				continue
			}
			free--
		}
		if want := s.want(); want > 0 {
			p.rows = append(p.rows, s)
			p.wants = append(p.wants, want)
		}
	}
	if c.external != nil && len(p.rows) > 0 {
		c.external.decided()
	}
}

// onTrial reports whether one more lost step would end s. It runs alone, so that it ends by itself if it breaks steps,
// and not because of another if it does not.
func (c *Core) onTrial(s *Sequence) bool {
	return s.recoveries > 0 && s.recoveries >= c.cfg.RecoveriesMax
}

// chooseAlone lists the first sequence on trial, once no step is in flight, and reports whether others have to wait.
func (c *Core) chooseAlone(p *proposal) bool {
	c.quarantine = false
	for _, queue := range [...][]*Sequence{c.running, c.waiting} {
		for _, s := range queue {
			if !c.onTrial(s) {
				continue
			}
			c.quarantine = true
			switch {
			case len(c.flights) > 0:
				return true
			case s.want() > 0 && (s.slot != noSlot || len(c.slots) > 0 && s.startable()):
				p.rows, p.wants, p.alone = []*Sequence{s}, []int32{s.want()}, true
				return true
			}
		}
	}
	return false // none is left, or what they wait for is up to others
}

// startable reports whether a waiting sequence can get its first (or next) blocks now.
func (s *Sequence) startable() bool {
	// A preempted sequence must know all its tokens before it is recomputed.
	if s.inFlight > 0 {
		return false
	}
	// A further choice waits until its request's prompt is computed, and then shares it.
	if p := s.parent; p != nil && !s.started && !p.ended {
		return p.started && p.planned >= p.PromptTokens()
	}
	return true
}

// request writes the proposal down for memory, with everything that memory has yet to hear.
func (c *Core) request(p *proposal) *schemas.ReserveRequest {
	n := len(p.rows)
	r := &schemas.ReserveRequest{Epoch: c.epoch, Step: p.step, Seq: make(schemas.U64, 0, n), WantMax: make(schemas.I32, 0, n),
		MayPreempt: make(schemas.U8, 0, n), Victims: make(schemas.U64, 0, n), LearnSeq: make(schemas.U64, 0, n),
		LearnCount: make(schemas.I32, 0, n), LearnTokens: make(schemas.I32, 0, n)}
	c.forget = false
	for _, s := range c.release {
		learn(r, s)
		r.Release = append(r.Release, uint64(s.id))
	}
	clear(c.release) // keeps no prompt alive
	c.release = c.release[:0]
	budget := c.cfg.TokensStepMax
	for i, s := range p.rows {
		if !s.admitted {
			r.Admit = append(r.Admit, s.admission())
		}
		learn(r, s)
		if p.wants[i] == 1 {
			budget--
		}
		r.Seq = append(r.Seq, uint64(s.id))
		r.WantMax = append(r.WantMax, p.wants[i])
		mayPreempt := byte(0)
		if c.mayPreempt(s) {
			mayPreempt = 1
		}
		r.MayPreempt = append(r.MayPreempt, mayPreempt)
	}
	// Single tokens are set aside first, so that a long prefill never keeps a decode from its step.
	r.TokensMax = budget
	// Worst first. A waiting row stands in the list at its rank and yields there: it takes blocks only
	// from running sequences that come after it.
	for i := len(p.rows) - 1; i >= 0; i-- {
		r.Victims = append(r.Victims, uint64(p.rows[i].id))
	}
	return r
}

// admission introduces s to memory, with all its tokens: after a lost step it may have output already.
func (s *Sequence) admission() schemas.Admission {
	a := schemas.Admission{Seq: s.id, Tokens: s.request.Tokens, Salt: s.request.CacheSalt, Priority: s.Priority()}
	if len(s.output) > 0 {
		a.Tokens = slices.Concat(a.Tokens, s.output)
	}
	if s.parent != nil {
		a.Fork = s.parent.id
	}
	s.admitted, s.learned = true, s.OutputTokens()
	return a
}

// learn tells memory the output tokens of s that became known, so that blocks of them can be reused.
func learn(r *schemas.ReserveRequest, s *Sequence) {
	if n := s.OutputTokens() - s.learned; n > 0 {
		r.LearnSeq = append(r.LearnSeq, uint64(s.id))
		r.LearnCount = append(r.LearnCount, n)
		r.LearnTokens = append(r.LearnTokens, s.output[s.learned:]...)
		s.learned += n
	}
}

// granted turns memory's answer into the step's plan; nil if no row was granted.
func (c *Core) granted(reply *schemas.ReserveReply) *schemas.StepPlan {
	p := c.asked
	if p == nil {
		return nil // nothing was asked
	}
	if err := p.check(reply); err != nil {
		c.lost(err)
		return nil
	}
	c.asked = nil
	for _, id := range reply.Preempted {
		if s := c.alive[schemas.SeqID(id)]; s != nil && s.slot != noSlot {
			c.preempt(s)
		}
	}
	n := len(p.rows)
	plan := &schemas.StepPlan{Epoch: c.epoch, Step: p.step, Copies: reply.Copies, PlannedNs: c.now,
		Seq: make(schemas.U64, 0, n), Slot: make(schemas.I32, 0, n), Start: make(schemas.I32, 0, n), Count: make(schemas.I32, 0, n),
		Known: make(schemas.I32, 0, n), Sample: make(schemas.U8, 0, n), BlockFrom: make(schemas.I32, 0, n),
		BlockCount: make(schemas.I32, 0, n), Blocks: make(schemas.I32, 0, len(reply.Blocks))}
	f := &flight{step: p.step, plan: plan, rows: make([]*Sequence, 0, n), sampled: make([]bool, 0, n)}
	next := int32(0) // in reply.Blocks
	for i, s := range p.rows {
		blocks := reply.Blocks[next : next+reply.BlockCount[i]]
		next += reply.BlockCount[i]
		if reply.Granted[i] == 0 {
			continue
		}
		c.addRow(plan, f, s, rowGrant{start: reply.Start[i], count: reply.Granted[i], cached: reply.Cached[i],
			blockFrom: reply.BlockFrom[i], blocks: blocks})
	}
	if len(f.rows) == 0 {
		c.refused = len(p.rows) > 0 && !p.alone
		c.quarantine = c.quarantine && !p.alone // memory has no room for the sequence without taking it from others
		return nil
	}
	if len(c.flights) == 0 {
		c.headNs = c.now
	}
	c.flights = append(c.flights, f)
	return plan
}

// check holds memory's answer to the question, so that a wrong one cannot break the scheduler.
func (p *proposal) check(r *schemas.ReserveReply) *schemas.Error {
	bad := func(param, format string, args ...any) *schemas.Error {
		e := schemas.Errorf(schemas.KindInternal, "reserve reply", param+": "+format, args...).WithParam(param)
		e.Step = p.step
		return e
	}
	if r.Step != p.step {
		return bad("step", "%d, asked was %d", r.Step, p.step)
	}
	for _, c := range []struct {
		name   string
		column schemas.I32
	}{{"granted", r.Granted}, {"start", r.Start}, {"cached", r.Cached}, {"block_from", r.BlockFrom}, {"block_count", r.BlockCount}} {
		if len(c.column) != len(p.rows) {
			return bad(c.name, "%d elements for %d rows", len(c.column), len(p.rows))
		}
	}
	blocks := 0
	for i, s := range p.rows {
		n := int(r.BlockCount[i])
		if n < 0 || n > len(r.Blocks)-blocks {
			return bad("block_count", "row %d takes %d blocks; %d are left", i, n, len(r.Blocks)-blocks)
		}
		blocks += n
		granted, start := r.Granted[i], r.Start[i]
		switch {
		case granted == 0:
		case granted < 0 || granted > p.wants[i]:
			return bad("granted", "row %d got %d of %d tokens", i, granted, p.wants[i])
		case s.slot != noSlot && start != s.planned, start < 0 || start > s.total()-granted:
			return bad("start", "row %d starts at %d; %d of %d tokens are computed", i, start, s.planned, s.total())
		case r.Cached[i] < 0 || r.Cached[i] > start:
			return bad("cached", "row %d has %d cached tokens and starts at %d", i, r.Cached[i], start)
		case len(r.Preempted) > 0 && slices.Contains(r.Preempted, uint64(s.id)):
			return bad("preempted", "sequence %s, which row %d was granted to", s.id, i)
		}
	}
	return nil
}

type rowGrant struct {
	start, count, cached, blockFrom int32
	blocks                          schemas.I32
}

func (c *Core) addRow(plan *schemas.StepPlan, f *flight, s *Sequence, g rowGrant) {
	if s.slot == noSlot {
		c.start(plan, s, g)
	}
	end := g.start + g.count
	known := g.count
	if s.onDevice && g.count == 1 && g.start == s.total()-1 {
		known = 0
	}
	plan.Tokens = s.appendTokens(plan.Tokens, g.start, g.start+known)
	sample := end == s.total()
	yields := byte(schemas.SampleNone)
	switch {
	case sample && s.request.Embed:
		yields = schemas.SampleEmbedding
	case sample:
		yields = schemas.SampleToken
	}
	plan.Seq = append(plan.Seq, uint64(s.id))
	plan.Slot = append(plan.Slot, int32(s.slot))
	plan.Start = append(plan.Start, g.start)
	plan.Count = append(plan.Count, g.count)
	plan.Known = append(plan.Known, known)
	plan.Sample = append(plan.Sample, yields)
	plan.BlockFrom = append(plan.BlockFrom, g.blockFrom)
	plan.BlockCount = append(plan.BlockCount, int32(len(g.blocks)))
	plan.Blocks = append(plan.Blocks, g.blocks...)

	if prompt := s.PromptTokens(); g.start < prompt {
		c.count.prefilled += uint64(min(end, prompt) - g.start)
	}
	s.planned = end
	c.plannedRow(s, g.start, end, sample)
	s.inFlight++
	if sample {
		s.pending++
		s.onDevice = true
	}
	f.rows = append(f.rows, s)
	f.sampled = append(f.sampled, sample)
}

// start moves s from waiting to running and tells the device how its slot samples.
func (c *Core) start(plan *schemas.StepPlan, s *Sequence, g rowGrant) {
	c.waiting = remove(c.waiting, s)
	c.running = c.insert(c.running, s)
	last := len(c.slots) - 1
	s.slot, c.slots = c.slots[last], c.slots[:last]
	if !s.started {
		s.started, s.startedNs = true, c.now
		s.cached = min(g.cached, s.PromptTokens())
		c.count.cached += uint64(s.cached)
	}
	p := &s.request.Sampling
	plan.InitSlot = append(plan.InitSlot, int32(s.slot))
	plan.InitTemperature = append(plan.InitTemperature, p.Temperature)
	plan.InitTopP = append(plan.InitTopP, p.TopP)
	plan.InitTopK = append(plan.InitTopK, p.TopK)
	plan.InitMinP = append(plan.InitMinP, p.MinP)
	plan.InitSeed = append(plan.InitSeed, p.Seed+uint64(s.id.Choice()))
	if rules, any := s.slotRules(); any {
		plan.Rules = append(plan.Rules, rules)
	}
}

// slotRules says what compute must know to change or to report on the sequence's logits, if it must.
// All tokens of a sequence that starts are known.
func (s *Sequence) slotRules() (rules schemas.SlotRules, any bool) {
	r := s.request
	waits := s.OutputTokens() < r.MinTokens && len(r.StopTokens) > 0
	if r.Sampling.Rules == nil && !waits {
		return rules, false
	}
	rules = schemas.SlotRules{Slot: int32(s.slot), Tokens: slices.Concat(r.Tokens, s.output), Prompt: s.PromptTokens(), MaxTokens: s.maxTokens}
	if r.Sampling.Rules != nil {
		rules.Rules = *r.Sampling.Rules
	}
	if s.reportsPrompt() == 0 {
		rules.Rules.PromptLogprobs = 0
	}
	if waits {
		rules.MinTokens, rules.StopTokens = r.MinTokens, r.StopTokens
	}
	return rules, true
}

// reportsPrompt is the width of the prompt's log-probabilities that are still to be reported, or 0: the first choice's
// speak for all, and they go out with its first token.
func (s *Sequence) reportsPrompt() int32 {
	if rules := s.request.Sampling.Rules; rules != nil && s.parent == nil && len(s.output) == 0 {
		return rules.PromptLogprobs
	}
	return 0
}

// preempt sends a running sequence back to the queue; it will be recomputed from its tokens.
func (c *Core) preempt(s *Sequence) {
	c.running = remove(c.running, s)
	c.freeSlot(s)
	s.planned = 0
	s.preemptions++
	c.count.preemptions++
	c.waiting = c.insert(c.waiting, s)
}
