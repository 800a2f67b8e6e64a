package scheduler

import (
	"maps"
	"slices"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

// Clone copies the core: what happens to the copy does not touch c. Messages are shared, since they do not change. The
// policy of the copy is a new one of the same name, which has learned nothing yet (FCFS if the name is known only to its
// maker), and it has no shadow.
func (c *Core) Clone() *Core {
	d := *c
	d.cfg.Stopwatch = nil
	copies := map[*Sequence]*Sequence{}
	sequences := func(list []*Sequence) []*Sequence {
		own := make([]*Sequence, len(list))
		for i, s := range list {
			own[i] = s.clone(copies)
		}
		return own
	}
	d.waiting, d.running, d.release = sequences(c.waiting), sequences(c.running), sequences(c.release)
	d.alive = make(map[schemas.SeqID]*Sequence, len(c.alive))
	for id, s := range c.alive {
		d.alive[id] = s.clone(copies)
	}
	d.slots = slices.Clone(c.slots)
	d.flights = make([]*flight, len(c.flights))
	for i, f := range c.flights {
		own := *f
		own.rows, own.sampled = sequences(f.rows), slices.Clone(f.sampled)
		d.flights[i] = &own
	}
	if c.asked != nil {
		d.asked = &proposal{step: c.asked.step, rows: sequences(c.asked.rows), wants: slices.Clone(c.asked.wants)}
	}
	d.recent.ring, d.recent.set = slices.Clone(c.recent.ring), maps.Clone(c.recent.set)
	d.emit, d.shadow, d.shadowRank, d.disagreed = nil, nil, nil, nil
	policy, err := PolicyByName(c.policy.Name())
	if err != nil {
		policy = FCFS{}
	}
	d.setPolicy(policy)
	return &d
}

// clone copies a sequence, once.
func (s *Sequence) clone(copies map[*Sequence]*Sequence) *Sequence {
	if s == nil {
		return nil
	}
	if own := copies[s]; own != nil {
		return own
	}
	own := new(Sequence)
	*own = *s
	copies[s] = own
	own.output, own.parent = slices.Clone(s.output), s.parent.clone(copies)
	if l := s.promptLogprobs; l != nil {
		reported := *l
		reported.Tokens, reported.Values = slices.Clone(l.Tokens), slices.Clone(l.Values)
		own.promptLogprobs = &reported
	}
	return own
}

// trials are the messages that can be tried on a copy of the scheduler.
func (a *Actor) trials() map[string]bus.Trial {
	return map[string]bus.Trial{
		"submit":    bus.TrialOf(func(r *schemas.SubmitRequest) (bus.Tried, error) { return a.try(Submitted{r}) }),
		"cancel":    bus.TrialOf(func(r *schemas.CancelRequest) (bus.Tried, error) { return a.try(Cancelled{r}) }),
		"step_done": bus.TrialOf(func(r *schemas.StepResult) (bus.Tried, error) { return a.try(Done{r}) }),
		"policy": bus.TrialOf(func(r *schemas.PolicyRequest) (bus.Tried, error) {
			policy, err := PolicyByName(r.Name)
			if err != nil {
				return bus.Tried{}, schemas.AsError(err, "policy").WithParam("name")
			}
			return a.try(PolicyChosen{policy})
		}),
	}
}

// try steps a copy of the core. Its effects are told as in a journal.
func (a *Actor) try(event Event) (bus.Tried, error) {
	sandbox, now := a.core.Clone(), a.now()
	fx := sandbox.Step(now, event)
	tried := bus.Tried{Effects: JournalOf(now, event, &fx), State: sandbox.State(now)}
	if fx.Refused != nil {
		return tried, fx.Refused
	}
	switch event.(type) {
	case Submitted:
		tried.Reply = fx.Accepted
	case Cancelled:
		tried.Reply = &schemas.CancelReply{Cancelled: fx.Cancelled}
	case Done:
		tried.Reply = &schemas.Ack{}
	case PolicyChosen:
		tried.Reply = &schemas.PolicyReply{Active: sandbox.policy.Name(), Policies: Policies()}
	}
	return tried, nil
}

// ailments says why the scheduler cannot do its work.
func (a *Actor) ailments() []string { return a.core.ailments(a.now()) }
