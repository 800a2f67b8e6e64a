package replay

import (
	"bytes"
	"fmt"

	"github.com/troupe-engine/troupe/actors/scheduler"
	"github.com/troupe-engine/troupe/internal/recording"
	"github.com/troupe-engine/troupe/schemas"
)

// Divergence is the first decision of a run that differs.
type Divergence struct {
	Entry    uint64         `json:"entry"` // its number in the recording
	AtMs     float64        `json:"at_ms"` // after the checkpoint
	Step     schemas.StepID `json:"step"`  // the last one that had been asked for
	Event    string         `json:"event"` // what the actor was told
	What     string         `json:"what"`  // which decision: "reserve", "execute", "grant", …
	Recorded string         `json:"recorded"`
	Replayed string         `json:"replayed"`
	Why      string         `json:"why,omitempty"`
}

// SchedulerReport says how a scheduler's replay went.
type SchedulerReport struct {
	Actor       string       `json:"actor"`
	Policy      string       `json:"policy"`      // that decided, in the end
	Runs        int          `json:"runs"`        // checkpoints from which it was replayed
	Events      uint64       `json:"events"`      // that were compared
	Steps       uint64       `json:"steps"`       // planned in them
	Skipped     uint64       `json:"skipped"`     // events before a checkpoint, and after a gap or a divergence
	Divergences []Divergence `json:"divergences"` // one per run at most
	Gaps        int          `json:"gaps,omitempty"`
}

// Scheduler replays one scheduler of a recording.
type Scheduler struct {
	// Change alters the configuration with which every run starts: what an experiment changes. nil changes nothing.
	Change func(*scheduler.Config)
	// Look, if not nil, sees every event after it was compared; differs is nil where nothing does.
	Look func(e *recording.Entry, core *scheduler.Core, fx *scheduler.Effects, differs *Divergence) error

	// Ask puts a question to a policy in another process, if Change chose one that waits for answers.
	Ask func(*scheduler.Question) *schemas.RankOutcome

	Report SchedulerReport

	core     *scheduler.Core
	changed  bool // the policy is not the recorded one: recorded changes of it do not count
	beganNs  int64
	thread   thread
	lastStep schemas.StepID
}

// Take replays an entry of the recording. Entries of other actors count only as a proof that nothing is missing.
func (s *Scheduler) Take(e *recording.Entry) error {
	if s.thread.lost(e) && s.core != nil {
		s.core = nil
		s.Report.Gaps++
	}
	if e.Actor != s.Report.Actor || e.Scheduler == nil {
		return nil
	}
	if e.Scheduler.Checkpoint != nil {
		return s.begin(e)
	}
	if s.core == nil {
		s.Report.Skipped++
		return nil
	}
	return s.compare(e)
}

// begin starts a run at a checkpoint.
func (s *Scheduler) begin(e *recording.Entry) error {
	p := e.Scheduler.Checkpoint
	cfg := scheduler.ConfigOf(p)
	if s.Change != nil {
		recorded := cfg.Policy
		s.Change(&cfg)
		s.changed = cfg.Policy != recorded
	}
	core, err := scheduler.Restore(cfg, p, e.Scheduler.NowNs)
	if err != nil {
		return fmt.Errorf("replay: entry %d: %w", e.Number, err)
	}
	s.core, s.beganNs, s.Report.Policy = core, e.Scheduler.NowNs, cfg.Policy
	s.thread.begin(e)
	s.Report.Runs++
	fx := s.step(e.Scheduler.NowNs, scheduler.More{})
	fx.Checkpoint = p
	return s.judge(e, scheduler.CheckpointWanted{}, &fx)
}

func (s *Scheduler) compare(e *recording.Entry) error {
	if s.changed && e.Scheduler.Event == schemas.EventRanked {
		return nil // what another policy said
	}
	var event scheduler.Event = scheduler.More{}
	if e.Scheduler.Event != schemas.EventPolicy || !s.changed {
		var err error
		if event, err = scheduler.EventOf(e.Scheduler); err != nil {
			return fmt.Errorf("replay: entry %d: %w", e.Number, err)
		}
	}
	if chosen, is := event.(scheduler.PolicyChosen); is {
		s.Report.Policy = chosen.Policy.Name()
	}
	fx := s.step(e.Scheduler.NowNs, event)
	return s.judge(e, event, &fx)
}

// step steps the core; what it asks another process is answered before anything else happens.
func (s *Scheduler) step(nowNs int64, event scheduler.Event) scheduler.Effects {
	fx := s.core.Step(nowNs, event)
	for s.Ask != nil && fx.Rank != nil && fx.Rank.Wait {
		after := s.core.Step(nowNs, scheduler.Ranked{Outcome: s.Ask(fx.Rank)})
		fx.Rank, fx.Reserve, fx.Emit = after.Rank, after.Reserve, append(fx.Emit, after.Emit...)
	}
	return fx
}

// judge compares the effects of an event with the recorded ones.
func (s *Scheduler) judge(e *recording.Entry, event scheduler.Event, fx *scheduler.Effects) error {
	s.Report.Events++
	if fx.Execute != nil {
		s.Report.Steps++
	}
	replayed := scheduler.JournalOf(e.Scheduler.NowNs, event, fx)
	replayed.Event, replayed.Policy = e.Scheduler.Event, e.Scheduler.Policy
	if e.Manifest.Redacted {
		redact(replayed)
	}
	d, err := differ(e.Scheduler, replayed)
	if err != nil {
		return err
	}
	if e.Scheduler.Reserve != nil {
		s.lastStep = e.Scheduler.Reserve.Step
	}
	if d != nil {
		d.Entry, d.Event, d.Step = e.Number, e.Scheduler.Event, s.lastStep
		d.AtMs = float64(e.Scheduler.NowNs-s.beganNs) / 1e6
		d.Why = why(s.core, e.Scheduler, replayed)
		s.Report.Divergences = append(s.Report.Divergences, *d)
	}
	if s.Look != nil {
		if err := s.Look(e, s.core, fx, d); err != nil {
			return err
		}
	}
	if d != nil {
		s.core = nil // what it is told from here on are answers to other questions
	}
	return nil
}

// differ finds the first decision that differs between two descriptions of an event.
func differ(recorded, replayed *schemas.SchedulerStep) (*Divergence, error) {
	for _, part := range []struct {
		what string
		of   func(*schemas.SchedulerStep) schemas.SchedulerStep
	}{
		{"accept", func(s *schemas.SchedulerStep) schemas.SchedulerStep {
			return schemas.SchedulerStep{Accepted: s.Accepted, Refused: s.Refused, Cancelled: s.Cancelled}
		}},
		{"execute", func(s *schemas.SchedulerStep) schemas.SchedulerStep {
			return schemas.SchedulerStep{Execute: s.Execute, Repeat: s.Repeat}
		}},
		{"reserve", func(s *schemas.SchedulerStep) schemas.SchedulerStep {
			return schemas.SchedulerStep{Reserve: s.Reserve}
		}},
		{"give up", func(s *schemas.SchedulerStep) schemas.SchedulerStep { return schemas.SchedulerStep{GaveUp: s.GaveUp} }},
		{"emit", func(s *schemas.SchedulerStep) schemas.SchedulerStep { return schemas.SchedulerStep{Emit: s.Emit} }},
		{"rest", func(s *schemas.SchedulerStep) schemas.SchedulerStep { return *s }},
	} {
		a, b := part.of(recorded), part.of(replayed)
		same, err := equal(&a, &b)
		if err != nil {
			return nil, err
		}
		if !same {
			return &Divergence{What: part.what, Recorded: decision(&a), Replayed: decision(&b)}, nil
		}
	}
	return nil, nil
}

// redact leaves out what a redacted recording does not have.
func redact(s *schemas.SchedulerStep) {
	s.Refused, s.GaveUp = recording.RedactError(s.Refused), recording.RedactError(s.GaveUp)
}

// equal compares messages as they are on the wire: empty and absent columns are the same.
func equal(a, b any) (bool, error) {
	x, err := schemas.Marshal(a)
	if err != nil {
		return false, err
	}
	y, err := schemas.Marshal(b)
	return bytes.Equal(x, y), err
}
