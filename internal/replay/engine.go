package replay

import (
	"fmt"
	"strings"

	"github.com/troupe-engine/troupe/actors/memory"
	"github.com/troupe-engine/troupe/actors/scheduler"
	"github.com/troupe-engine/troupe/internal/recording"
	"github.com/troupe-engine/troupe/schemas"
)

// EngineReport says how the replay of a whole engine went.
type EngineReport struct {
	Actor       string       `json:"actor"`
	Model       string       `json:"model"`
	Runs        int          `json:"runs"`
	Events      uint64       `json:"events"`
	Steps       uint64       `json:"steps"`  // that were computed again
	Tokens      uint64       `json:"tokens"` // of these, that were sampled and compared
	Skipped     uint64       `json:"skipped"`
	Divergences []Divergence `json:"divergences"`
	Gaps        int          `json:"gaps,omitempty"`
	Adopted     int          `json:"adopted,omitempty"` // runs that ended early: KV came from another replica, and is not in the recording
}

// Compute runs plans on a device.
type Compute interface {
	// Execute queues a plan.
	Execute(p *schemas.StepPlan) error
	// Result waits for the result of a step that was queued.
	Result(epoch schemas.Epoch, step schemas.StepID) (*schemas.StepResult, error)
	Close() error
}

// Engine replays a scheduler together with its memory and compute: requests, cancellations and the clock come from the
// recording, in the recorded order, everything else is done again. Every epoch computes its keys and values from tokens,
// so a recording of any moment of an engine's life can be replayed.
type Engine struct {
	Scheduler string
	// Open makes what computes, at the first checkpoint and where a later one is of another engine.
	Open func(p *schemas.SchedulerCheckpoint, m *recording.Manifest) (Compute, error)

	Report EngineReport

	compute Compute
	info    schemas.EngineInfo // of what computes
	memory  Memory             // for its configuration, and how it was switched
	core    *scheduler.Core
	blocks  *memory.Core
	epoch   schemas.Epoch
	asked   *schemas.ReserveRequest
	refused bool // a fault let the question go without a grant
	queued  map[schemas.StepID]bool
	beganNs int64
	thread  thread
}

// Take replays an entry of the recording.
func (r *Engine) Take(e *recording.Entry) error {
	if r.thread.lost(e) && r.core != nil {
		r.core = nil
		r.Report.Gaps++
	}
	if e.Delivery != nil {
		r.memory.Scheduler, r.memory.core = r.Scheduler, r.blocks
		return r.told(e)
	}
	r.refused = r.refused || refusal(e, r.Scheduler)
	if e.Actor != r.Scheduler || e.Scheduler == nil {
		return nil
	}
	if e.Scheduler.Checkpoint != nil {
		return r.begin(e)
	}
	if r.core == nil {
		r.Report.Skipped++
		return nil
	}
	event, d, err := r.event(e)
	if err != nil {
		return err
	}
	if d != nil {
		r.diverge(e, d)
		return nil
	}
	fx := r.core.Step(e.Scheduler.NowNs, event)
	return r.judge(e, event, &fx)
}

// told follows what memory was told. What it adopts from another replica is in no recording: from then on, nothing can be
// computed again until the next checkpoint.
func (r *Engine) told(e *recording.Entry) error {
	adopt := schemas.AdoptKV.Subject(schemas.Instance(strings.TrimPrefix(r.Scheduler, "scheduler.")))
	if r.core == nil || e.Delivery.Subject != adopt {
		return r.memory.told(e)
	}
	if q, ok := recording.Message(e.Delivery).(*schemas.KVAdoptRequest); ok && q.Undone {
		return r.memory.told(e)
	}
	r.core = nil
	r.Report.Adopted++
	return nil
}

func (r *Engine) begin(e *recording.Entry) error {
	p := e.Scheduler.Checkpoint
	if r.compute != nil && !sameSize(&r.info, &p.Info) {
		if err := r.Close(); err != nil {
			return err
		}
	}
	if r.compute == nil {
		var err error
		if r.compute, err = r.Open(p, e.Manifest); err != nil {
			return err
		}
		r.info = p.Info
	}
	core, err := scheduler.Restore(scheduler.ConfigOf(p), p, e.Scheduler.NowNs)
	if err != nil {
		return fmt.Errorf("replay: entry %d: %w", e.Number, err)
	}
	blocks, err := memory.NewCore(r.memory.config(&p.Info, e.Manifest))
	if err != nil {
		return fmt.Errorf("replay: entry %d: %w", e.Number, err)
	}
	r.core, r.blocks, r.epoch, r.asked, r.queued = core, blocks, p.Epoch, nil, map[schemas.StepID]bool{}
	r.beganNs = e.Scheduler.NowNs
	r.thread.begin(e)
	r.Report.Runs++
	fx := core.Step(e.Scheduler.NowNs, scheduler.More{})
	fx.Checkpoint = p
	return r.judge(e, scheduler.CheckpointWanted{}, &fx)
}

// Close ends what computes.
func (r *Engine) Close() error {
	if r.compute == nil {
		return nil
	}
	err := r.compute.Close()
	r.compute = nil
	return err
}

// sameSize says whether one loaded model can compute for both.
func sameSize(a, b *schemas.EngineInfo) bool {
	return a.Model == b.Model && a.SequencesMax == b.SequencesMax && a.TokensStepMax == b.TokensStepMax && a.BlockSize == b.BlockSize &&
		a.Blocks == b.Blocks && a.ContextMax == b.ContextMax
}

// event is what the core is told now: what memory and compute say is theirs, the rest is recorded.
func (r *Engine) event(e *recording.Entry) (scheduler.Event, *Divergence, error) {
	switch step := e.Scheduler; {
	case step.Grant != nil && r.asked != nil:
		reply, refused := reserve(r.blocks, r.asked, r.refused)
		if refused != nil {
			return nil, &Divergence{What: "grant", Recorded: granted(r.asked, step.Grant), Replayed: "refuses: " + refused.Error()}, nil
		}
		if same, err := equal(reply, step.Grant); err != nil || !same {
			return nil, &Divergence{What: "grant", Recorded: granted(r.asked, step.Grant), Replayed: granted(r.asked, reply), Why: grantsDiffer(r.asked, step.Grant, reply)}, err
		}
		return scheduler.Granted{Reply: reply}, nil, nil
	case step.Done != nil && step.Done.Epoch == r.epoch && r.queued[step.Done.Step] && step.Done.Error == nil:
		delete(r.queued, step.Done.Step)
		result, err := r.compute.Result(r.epoch, step.Done.Step)
		if err != nil {
			return nil, nil, fmt.Errorf("replay: step %d: %w", step.Done.Step, err)
		}
		own, recorded := *result, *step.Done
		own.Ledger, recorded.Ledger = schemas.Ledger{}, schemas.Ledger{}
		own.BeganNs, own.DoneNs, recorded.BeganNs, recorded.DoneNs = 0, 0, 0, 0
		if same, err := equal(&own, &recorded); err != nil || !same {
			return nil, &Divergence{What: "result", Recorded: sampled(&recorded), Replayed: sampled(&own), Why: resultsDiffer(&recorded, &own)}, err
		}
		r.Report.Steps++
		r.Report.Tokens += uint64(len(result.Token))
		own.Ledger = step.Done.Ledger
		return scheduler.Done{Result: &own}, nil, nil
	}
	event, err := scheduler.EventOf(e.Scheduler)
	if err != nil {
		err = fmt.Errorf("replay: entry %d: %w", e.Number, err)
	}
	return event, nil, err
}

// judge compares the effects with the recorded ones, and has compute do its part of them.
func (r *Engine) judge(e *recording.Entry, event scheduler.Event, fx *scheduler.Effects) error {
	r.Report.Events++
	replayed := scheduler.JournalOf(e.Scheduler.NowNs, event, fx)
	replayed.Event = e.Scheduler.Event
	if e.Scheduler.Done != nil {
		replayed.Done = e.Scheduler.Done // compared already
	}
	if e.Manifest.Redacted {
		redact(replayed)
	}
	d, err := differ(e.Scheduler, replayed)
	if err != nil {
		return err
	}
	if d != nil {
		d.Why = why(r.core, e.Scheduler, replayed)
		r.diverge(e, d)
		return nil
	}
	r.asked, r.refused = fx.Reserve, false
	if fx.Lost != nil {
		r.epoch++ // the core's own, since it gave up what was in flight
		clear(r.queued)
	}
	if fx.Execute != nil {
		r.epoch = fx.Execute.Epoch
		r.queued[fx.Execute.Step] = true
		if err := r.compute.Execute(fx.Execute); err != nil {
			return fmt.Errorf("replay: step %d: %w", fx.Execute.Step, err)
		}
	}
	return nil
}

func (r *Engine) diverge(e *recording.Entry, d *Divergence) {
	d.Entry, d.Event, d.AtMs = e.Number, e.Scheduler.Event, float64(e.Scheduler.NowNs-r.beganNs)/1e6
	switch {
	case e.Scheduler.Done != nil:
		d.Step = e.Scheduler.Done.Step
	case e.Scheduler.Execute != nil:
		d.Step = e.Scheduler.Execute.Step
	case r.asked != nil:
		d.Step = r.asked.Step
	}
	r.Report.Divergences = append(r.Report.Divergences, *d)
	r.core = nil
}

// sampled tells a result in a line.
func sampled(r *schemas.StepResult) string {
	if r.Error != nil {
		return "fails: " + r.Error.Error()
	}
	return fmt.Sprintf("samples %v in rows %v", []int32(r.Token[:min(len(r.Token), rowsShown)]), []int32(r.Row[:min(len(r.Row), rowsShown)]))
}

func resultsDiffer(a, b *schemas.StepResult) string {
	if b.Error != nil {
		return "compute fails now"
	}
	for i := range min(len(a.Token), len(b.Token)) {
		if i < len(a.Row) && a.Token[i] != b.Token[i] {
			return fmt.Sprintf("row %d sampled token %d; now %d: is it the same model, device and type of keys and values?", a.Row[i], a.Token[i], b.Token[i])
		}
	}
	return "log-probabilities, embeddings or failures differ"
}
