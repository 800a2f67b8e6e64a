package compute

import (
	"slices"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/schemas"
)

// stepInput is what the model would be given for a plan.
type stepInput struct {
	Tokens      []int32 `json:"tokens"`       // -1: the one last sampled in the slot
	Positions   []int32 `json:"positions"`    // of the tokens
	TokenSlots  []int32 `json:"token_slots"`  // whose they are
	SlotMapping []int32 `json:"slot_mapping"` // places of their keys and values: block × block size + offset
	Slots       []int32 `json:"slots"`        // of the rows
	QueryStart  []int32 `json:"query_start"`  // first token of each row, and the end
	LogitRows   []int32 `json:"logit_rows"`   // tokens whose logits are sampled from
}

// trials are the messages that can be tried on a copy of what the device knows of its slots.
func (a *Actor) trials() map[string]bus.Trial {
	return map[string]bus.Trial{"execute": bus.TrialOf(func(p *schemas.StepPlan) (bus.Tried, error) {
		if p.Epoch < a.epoch {
			return bus.Tried{}, epochOver(p, a.epoch)
		}
		input, err := a.exec.try(p)
		if err != nil {
			return bus.Tried{}, err
		}
		return bus.Tried{Reply: &schemas.PlanReply{Queued: a.queued.Load() + 1}, Effects: input}, nil
	})}
}

// try makes the model's input of a plan, in a copy of the tables and without the device. Rules do not change the input.
func (x *executor) try(p *schemas.StepPlan) (*stepInput, *schemas.Error) {
	x.mu.Lock()
	t, sameEpoch := x.tables.clone(), p.Epoch == x.epoch
	x.mu.Unlock()
	if !sameEpoch {
		t.reset()
	}
	vocabulary := x.model.Spec().VocabSize
	if err := t.validate(p, vocabulary); err != nil {
		return nil, err
	}
	plain := *p
	plain.Rules = nil
	t.apply(&plain, nil, vocabulary)
	var b batch
	b.fill(t, &plain, false)
	in := &b.input
	return &stepInput{in.Tokens, in.Positions, in.TokenSlots, in.SlotMapping, in.Slots, in.QueryStart, in.LogitRows}, nil
}

// clone copies what a plan changes; sequences' rules stay behind.
func (t *tables) clone() *tables {
	c := &tables{opts: t.opts, blocks: make([][]int32, len(t.blocks)), params: make([]gpu.SampleParams, len(t.params)), rules: make([]*ruled, len(t.rules))}
	for slot := range t.blocks {
		c.blocks[slot] = slices.Clone(t.blocks[slot])
	}
	copy(c.params, t.params)
	return c
}

// ailments says why compute cannot do its work.
func (a *Actor) ailments() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.failed == nil {
		return nil
	}
	return []string{"the last step failed: " + a.failed.Error()}
}
