package scheduler

import (
	"fmt"

	"github.com/troupe-engine/troupe/schemas"
)

// Check states what holds between events. Tests call it after every step; it costs too much for
// production.
func (c *Core) Check() error {
	if err := c.checkQueues(); err != nil {
		return err
	}
	if err := c.checkFlights(); err != nil {
		return err
	}
	for name, queue := range map[string][]*Sequence{"waiting": c.waiting, "running": c.running} {
		for i := 1; i < len(queue); i++ {
			if before(queue[i], queue[i-1]) {
				return fmt.Errorf("%s[%d] %s should come before its predecessor", name, i, queue[i].id)
			}
		}
	}
	return nil
}

func (c *Core) checkQueues() error {
	used := map[schemas.Slot]bool{}
	for _, slot := range c.slots {
		if used[slot] {
			return fmt.Errorf("slot %d is free twice", slot)
		}
		used[slot] = true
	}
	for _, s := range c.running {
		if s.slot == noSlot || used[s.slot] {
			return fmt.Errorf("running sequence %s: slot %d is free or taken twice", s.id, s.slot)
		}
		used[s.slot] = true
	}
	if len(used) != int(c.cfg.SequencesMax) {
		return fmt.Errorf("%d of %d slots are accounted for", len(used), c.cfg.SequencesMax)
	}
	for _, s := range c.waiting {
		if s.slot != noSlot || s.planned != 0 {
			return fmt.Errorf("waiting sequence %s has slot %d and %d planned tokens", s.id, s.slot, s.planned)
		}
	}
	if n := len(c.waiting) + len(c.running); n != len(c.alive) {
		return fmt.Errorf("%d sequences are queued, %d alive", n, len(c.alive))
	}
	for _, queue := range [][]*Sequence{c.waiting, c.running} {
		for _, s := range queue {
			switch {
			case c.alive[s.id] != s || s.ended:
				return fmt.Errorf("sequence %s is queued but not alive", s.id)
			case s.planned > s.total():
				return fmt.Errorf("sequence %s: %d tokens planned of %d that exist", s.id, s.planned, s.total())
			case s.OutputTokens()+s.pending > s.maxTokens:
				return fmt.Errorf("sequence %s: %d known and %d pending output tokens, limit %d", s.id, len(s.output), s.pending, s.maxTokens)
			case s.total() > c.contextMax:
				return fmt.Errorf("sequence %s: %d tokens in a context of %d", s.id, s.total(), c.contextMax)
			}
		}
	}
	return nil
}

func (c *Core) checkFlights() error {
	if len(c.flights) > int(c.cfg.PipelineDepth) {
		return fmt.Errorf("%d steps in flight, pipeline depth %d", len(c.flights), c.cfg.PipelineDepth)
	}
	flying, sampling := map[*Sequence]int32{}, map[*Sequence]int32{}
	for _, f := range c.flights {
		for i, s := range f.rows {
			flying[s]++
			if f.sampled[i] {
				sampling[s]++
			}
		}
	}
	for _, queue := range [][]*Sequence{c.waiting, c.running} {
		for _, s := range queue {
			if s.inFlight != flying[s] || s.pending != sampling[s] {
				return fmt.Errorf("sequence %s: counts %d rows and %d samples in flight, there are %d and %d",
					s.id, s.inFlight, s.pending, flying[s], sampling[s])
			}
		}
	}
	return nil
}

// State is a snapshot for debugging and metrics. Sums over steps (the ledger) are the shell's.
func (c *Core) State(nowNs int64) *schemas.SchedulerState {
	st := &schemas.SchedulerState{Epoch: c.epoch, Step: c.step, InFlight: int32(len(c.flights)), Policy: c.policy.Name(),
		Waiting: int32(len(c.waiting)), Running: int32(len(c.running)), Finished: c.count.finished,
		Preemptions: c.count.preemptions, Tokens: c.count.tokens, Prefilled: c.count.prefilled,
		CachedTotal: c.count.cached, Discarded: c.count.discarded, Overloads: c.count.overloads, StepErrors: c.count.stepErrors}
	for _, queue := range [][]*Sequence{c.running, c.waiting} {
		for _, s := range queue {
			st.QueuedTokens += int64(max(s.PromptTokens()+s.OutputTokens()-s.planned, 0))
			if len(st.Seqs) == schemas.SeqStatesMax {
				st.MoreSeqs++
				continue
			}
			st.Seqs = append(st.Seqs, schemas.SeqState{Seq: s.id, Phase: s.phase(), Slot: s.slot, Prompt: s.PromptTokens(),
				Output: s.OutputTokens(), Computed: s.planned, Cached: s.cached, Priority: s.Priority(),
				Preemptions: s.preemptions, AgeMs: (nowNs - s.arrivedNs) / 1e6})
		}
	}
	return st
}

func (s *Sequence) phase() string {
	switch {
	case s.slot == noSlot && s.preemptions > 0:
		return "preempted"
	case s.slot == noSlot:
		return "waiting"
	case s.planned < s.PromptTokens():
		return "prefill"
	}
	return "decode"
}

// Info describes the replica.
func (c *Core) Info() *schemas.EngineInfo {
	return &schemas.EngineInfo{Model: c.cfg.Model, Replica: c.cfg.Replica, VocabSize: c.cfg.VocabSize, ContextMax: c.contextMax,
		SequencesMax: c.cfg.SequencesMax, WaitingMax: c.cfg.WaitingMax, BlockSize: c.cfg.BlockSize, Blocks: c.cfg.Blocks,
		TokensStepMax: c.cfg.TokensStepMax, Policy: c.policy.Name(), Policies: Policies(), Device: c.cfg.Device,
		EndTokens: c.cfg.EndTokens, PipelineDepth: c.cfg.PipelineDepth, PrefixCacheOff: c.cfg.PrefixCacheOff}
}

// ailments says, for people, why nothing or little gets done.
func (c *Core) ailments(nowNs int64) (reasons []string) {
	if err := c.Check(); err != nil {
		reasons = append(reasons, "its state contradicts itself: "+err.Error())
	}
	if len(c.flights) > 0 && nowNs-c.headNs > repeatAfterNs {
		reasons = append(reasons, fmt.Sprintf("step %d has had no result for %.1f s", c.flights[0].step, float64(nowNs-c.headNs)/1e9))
	}
	if len(c.waiting) >= int(c.cfg.WaitingMax) {
		reasons = append(reasons, fmt.Sprintf("the queue is full: %d sequences wait (waiting_max)", len(c.waiting)))
	}
	if c.external != nil && !c.external.state.Active {
		reasons = append(reasons, fmt.Sprintf("the policy %.80s does not decide: %.200s", c.policy.Name(), c.external.state.Reason))
	}
	return reasons
}
