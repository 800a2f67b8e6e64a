package replay

import (
	"context"
	"io"
	"maps"
	"slices"

	"github.com/troupe-engine/troupe/internal/profile"
	"github.com/troupe-engine/troupe/internal/recording"
	"github.com/troupe-engine/troupe/internal/simulate"
	"github.com/troupe-engine/troupe/internal/traces"
	"github.com/troupe-engine/troupe/schemas"
)

// WhatIf predicts what other policies would have meant: the recorded requests are simulated twice, with the recorded
// policies and with others, at the step costs that the recording shows.
type WhatIf struct {
	Recorded *simulate.Report `json:"recorded_policies"`
	Other    *simulate.Report `json:"other_policies"`
	FitError float64          `json:"fit_error"` // mean, of the step costs
	Steps    int              `json:"steps"`     // that they were learned from
	// Policy is the recorded policy that is simulated: the one under which most steps ran. Changes counts how often it changed,
	// and Gaps the places where entries are missing: requests that came there are not simulated.
	Policy  string `json:"policy"`
	Changes int    `json:"policy_changes,omitempty"`
	Gaps    int    `json:"gaps,omitempty"`
}

// Predict simulates the requests of one scheduler of the recording at path. Empty policies are the recorded ones; ask is needed for
// those in other processes.
func Predict(ctx context.Context, path, name, policy, eviction string, ask simulate.Asker) (*WhatIf, error) {
	past, err := recordedSteps(path, name)
	if err != nil {
		return nil, err
	}
	info, memory, steps := past.info, past.memory, past.steps
	r, err := recording.Open(path, false)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	trace, err := traces.FromRecording(r, name)
	if err != nil {
		return nil, err
	}
	p := &profile.Profile{Version: profile.Version, Name: "recording", Origin: profile.Origin{Model: info.Model, Device: info.Device, Method: "learned from a recording"}}
	if p.Terms, p.Fit, _, err = profile.Learn(steps); err != nil {
		return nil, err
	}
	cfg := simulate.DefaultConfig()
	cfg.Profile, cfg.Policy, cfg.SequencesMax, cfg.WaitingMax = p, past.policy(), int(info.SequencesMax), int(info.WaitingMax)
	cfg.TokensStepMax, cfg.BlockSize, cfg.KVBlocks, cfg.PipelineDepth = int(info.TokensStepMax), int(info.BlockSize), int(info.Blocks), int(info.PipelineDepth)
	cfg.PrefixCacheOff, cfg.Ask = info.PrefixCacheOff, ask
	if memory != nil {
		cfg.Eviction = memory.Policy
	}
	w := &WhatIf{FitError: p.Fit.Mean, Steps: len(steps), Policy: cfg.Policy, Changes: past.changes, Gaps: past.gaps}
	if w.Recorded, err = simulate.Run(ctx, cfg, trace); err != nil {
		return nil, err
	}
	if policy != "" {
		cfg.Policy = policy
	}
	if eviction != "" {
		cfg.Eviction = eviction
	}
	w.Other, err = simulate.Run(ctx, cfg, trace)
	return w, err
}

// past is what a recording says of a scheduler.
type past struct {
	info    *schemas.EngineInfo // of the first checkpoint
	memory  *schemas.MemoryState
	steps   []profile.Observation
	active  string         // policy
	ran     map[string]int // steps by policy
	changes int
	gaps    int
}

// policy is the one under which most steps ran, of equals the first by name.
func (p *past) policy() string {
	most := p.info.Policy
	for _, name := range slices.Sorted(maps.Keys(p.ran)) {
		if p.ran[name] > p.ran[most] {
			most = name
		}
	}
	return most
}

func (p *past) chosen(policy string) {
	if p.active != "" && policy != p.active {
		p.changes++
	}
	p.active = policy
}

// recordedSteps reads what a scheduler's steps took, and how its replica was configured.
func recordedSteps(path, name string) (*past, error) {
	r, err := recording.Open(path, false)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	p := &past{ran: map[string]int{}}
	plans := map[schemas.StepID]profile.Shape{}
	for {
		e, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		s := e.Scheduler
		if e.Actor != name || s == nil {
			continue
		}
		if s.Checkpoint != nil {
			clear(plans)
			if p.info == nil {
				p.info = &s.Checkpoint.Info
			}
			p.chosen(s.Checkpoint.Info.Policy)
		}
		if s.Event == schemas.EventPolicy {
			p.chosen(s.Policy)
		}
		if plan := s.Execute; plan != nil && validPlan(plan) {
			plans[plan.Step] = profile.ShapeOf(plan)
		}
		if d := s.Done; d != nil {
			if shape, known := plans[d.Step]; known && d.Error == nil && d.Ledger.Device > 0 {
				p.ran[p.active]++
				p.steps = append(p.steps, profile.Observation{Shape: shape.After(d.Ledger.Idle), Ns: float64(d.Ledger.Device + d.Ledger.Upload)})
			}
			delete(plans, d.Step)
		}
	}
	p.gaps = len(r.Gaps())
	if p.info == nil {
		return nil, schemas.Errorf(schemas.KindInvalid, "replay", "the recording has no checkpoint of %s", name)
	}
	for _, m := range r.Manifests() {
		for i := range m.Schedulers {
			if s := &m.Schedulers[i]; s.Info.Replica == p.info.Replica && s.Memory != nil {
				p.memory = s.Memory
			}
		}
	}
	return p, nil
}

// validPlan says that the columns of a plan, which may come from anywhere, are of one length.
func validPlan(p *schemas.StepPlan) bool {
	n := len(p.Seq)
	return len(p.Slot) == n && len(p.Start) == n && len(p.Count) == n && len(p.Known) == n && len(p.Sample) == n && len(p.BlockFrom) == n && len(p.BlockCount) == n
}
