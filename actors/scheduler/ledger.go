package scheduler

import (
	"context"
	"slices"
	"time"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

// Where the time of sequences goes whose requests ask for it. Every moment of such a sequence is counted once, for what it
// waits for:
//
//	it is in no step        queue, until the planning begins that puts it into one; then schedule, memory, serialize and
//	                        bus, as the planning's calls measure, until the plan is handed over
//	it is in a step         launch until the device has its inputs, device, and bus until the result is here; the
//	                        planning of the next step goes on meanwhile and costs it nothing
//	behind another's step   queue
//
// With no such sequence, this costs the look at an empty map for each event.

// ledgersMax bounds the sequences whose time is followed at once; further ones get no ledger.
const ledgersMax = 4096

// account is the ledger of one sequence so far.
type account struct {
	schemas.SeqLedger // without Span
	beganNs, atNs     int64
	host              hostTime         // of the actor, at atNs
	steps             []schemas.StepID // that it is in and that have no result
	wire              int64            // of Bus: the latest planning's calls under way
}

// hostTime is what the calls of all planning have taken so far, in nanoseconds.
type hostTime struct{ memory, launch, serialize, bus int64 }

// timed calls memory or compute, and adds to own what that took. While somebody's time is followed, the way there and back
// is told apart.
func timed[Req, Resp any](ctx context.Context, a *Actor, ref *bus.Ref[Req, Resp], req *Req, own *int64) (*Resp, error) {
	if len(a.accounts) == 0 {
		began := time.Now()
		resp, err := ref.Call(ctx, req)
		*own += time.Since(began).Nanoseconds()
		return resp, err
	}
	resp, t, err := ref.Measure(ctx, req)
	*own += t.Service.Nanoseconds()
	a.host.serialize += t.Serialize.Nanoseconds()
	a.host.bus += t.Bus.Nanoseconds()
	return resp, err
}

// until counts the time to nowNs as one part.
func (c *account) until(nowNs int64, part *int64, host hostTime) {
	if nowNs > c.atNs {
		*part += nowNs - c.atNs
		c.atNs = nowNs
	}
	c.host = host
}

// planned counts the time to nowNs as planning.
func (c *account) planned(nowNs int64, host hostTime) {
	memory, launch := host.memory-c.host.memory, host.launch-c.host.launch
	serialize, wire := host.serialize-c.host.serialize, host.bus-c.host.bus
	c.Memory, c.Launch, c.Serialize, c.Bus = c.Memory+memory, c.Launch+launch, c.Serialize+serialize, c.Bus+wire
	c.wire = wire
	c.atNs += memory + launch + serialize + wire
	c.until(nowNs, &c.Schedule, host)
}

// follow opens accounts for the sequences of a request that was accepted, as of nowNs.
func (a *Actor) follow(r *schemas.SubmitRequest, nowNs int64) {
	for i := range int(r.Choices) {
		if id := r.Request.Seq(i); a.accounts[id] == nil && len(a.accounts) < ledgersMax && a.core.alive[id] != nil {
			a.accounts[id] = &account{beganNs: nowNs, atNs: nowNs, host: a.host}
		}
	}
}

// beginStep notes that the actor is told something: what waited, has waited until now. A result moves on who was in its step.
func (a *Actor) beginStep(event Event, nowNs int64) {
	done, _ := event.(Done)
	for _, c := range a.accounts {
		switch {
		case len(c.steps) == 0:
			c.until(nowNs, &c.Queue, a.host)
		case done.Result == nil:
		case done.Result.Step == c.steps[0]:
			c.computed(done.Result, nowNs, a.host)
		default:
			c.until(nowNs, &c.Queue, a.host)
		}
	}
}

// computed counts a step that the sequence was in, by compute's own clock readings as far as they fit in between.
func (c *account) computed(r *schemas.StepResult, nowNs int64, host hostTime) {
	if early := max(0, min(c.atNs-r.BeganNs, c.wire)); r.BeganNs > 0 { // the device was at work when the answer to the plan was still under way
		c.Bus, c.atNs = c.Bus-early, c.atNs-early
	}
	c.wire = 0
	began := min(max(r.BeganNs, c.atNs), nowNs)
	done := min(max(r.DoneNs, began), nowNs)
	c.until(began, &c.Launch, host)
	device := max(0, min(r.Ledger.Device, done-c.atNs)) // a message may say anything
	upload := max(0, min(r.Ledger.Upload, done-c.atNs-device))
	c.Device += device
	c.Launch += upload
	c.atNs = done // what neither took is nobody's
	c.until(nowNs, &c.Bus, host)
	c.steps = slices.Delete(c.steps, 0, 1)
}

// launchedPlan notes that a plan has been handed over: whoever was in no step has waited for this one's planning.
func (a *Actor) launchedPlan(p *schemas.StepPlan) {
	if len(a.accounts) == 0 {
		return
	}
	nowNs := a.now()
	for _, id := range p.Seq {
		if c := a.accounts[schemas.SeqID(id)]; c != nil {
			if len(c.steps) == 0 {
				c.planned(nowNs, a.host)
			}
			c.steps = append(c.steps, p.Step)
		}
	}
}

// forgetSteps notes that all that was in flight is given up.
func (a *Actor) forgetSteps(nowNs int64) {
	for _, c := range a.accounts {
		c.until(nowNs, &c.Queue, a.host)
		c.steps = c.steps[:0]
	}
}

// ledgerOf is what the row of a token or an embedding says of its sequence's time; nil for most. The sequence's end closes the account.
func (a *Actor) ledgerOf(e *Emission, nowNs int64) *schemas.SeqLedger {
	c := a.accounts[e.Seq]
	if c == nil {
		return nil
	}
	if e.Finish != schemas.FinishNone {
		delete(a.accounts, e.Seq)
	}
	if e.Token < 0 && e.Embedding == nil {
		return nil // it ended without a result
	}
	so := *c // the sequence's own time goes on with its next step
	so.planned(nowNs, a.host)
	so.Span = nowNs - c.beganNs
	return &so.SeqLedger
}
