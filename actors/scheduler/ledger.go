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

	// What the device may have been at work in already, the earliest first.
	handed int64 // of Launch: what the latest planning's plan was in compute
	wire   int64 // of Bus: its calls' ways
	after  int64 // of Schedule: what came after the last of them
	behind int64 // of Queue: until the result of another's step was known
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
	began := time.Now()
	resp, t, err := ref.Measure(ctx, req)
	a.called = began.Add(t.Serialize + t.Service + t.Bus)
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

// planned counts the time to nowNs as planning, whose last call ended at calledNs.
func (c *account) planned(calledNs, nowNs int64, host hostTime) {
	memory, launch := host.memory-c.host.memory, host.launch-c.host.launch
	serialize, wire := host.serialize-c.host.serialize, host.bus-c.host.bus
	c.Memory, c.Launch, c.Serialize, c.Bus = c.Memory+memory, c.Launch+launch, c.Serialize+serialize, c.Bus+wire
	c.atNs += memory + launch + serialize + wire
	c.wire, c.handed, c.after = wire, launch, max(0, nowNs-max(calledNs, c.atNs))
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
			c.behind += max(0, nowNs-c.atNs)
			c.until(nowNs, &c.Queue, a.host)
		}
	}
}

// computed counts a step that the sequence was in, by compute's own clock readings as far as they fit in between.
func (c *account) computed(r *schemas.StepResult, nowNs int64, host hostTime) {
	if r.BeganNs > 0 { // the device may have been at work before its actor could say so, or who handed the plan over could go on
		early := max(0, c.atNs-r.BeganNs)
		for _, x := range []struct{ part, latest *int64 }{{&c.Queue, &c.behind}, {&c.Schedule, &c.after}, {&c.Bus, &c.wire}, {&c.Launch, &c.handed}} {
			n := min(early, *x.latest)
			*x.part, c.atNs, early = *x.part-n, c.atNs-n, early-n
		}
	}
	c.behind, c.after, c.wire, c.handed = 0, 0, 0, 0
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
				c.planned(a.unix(a.called), nowNs, a.host)
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
	so.planned(nowNs, nowNs, a.host)
	so.Span = nowNs - c.beganNs
	return &so.SeqLedger
}
