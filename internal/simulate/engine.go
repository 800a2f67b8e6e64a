package simulate

import (
	"fmt"
	"math"

	"github.com/troupe-engine/troupe/actors/memory"
	"github.com/troupe-engine/troupe/actors/scheduler"
	"github.com/troupe-engine/troupe/internal/profile"
	"github.com/troupe-engine/troupe/internal/traces"
	"github.com/troupe-engine/troupe/schemas"
)

// engine is one replica: scheduler and memory, and a device that takes time and samples made-up tokens.
type engine struct {
	world     *world
	name      schemas.Instance
	scheduler *scheduler.Core
	memory    *memory.Core

	// The device executes plans in order. flights are those that the scheduler has not heard of again.
	flights []flight
	freeAt  int64 // when the device has done all of them
	result  schemas.StepResult

	// A scheduler that waits for a policy in another process does nothing else before busyUntil. answer is that of a policy that
	// it does not wait for, nil if none is on its way.
	busyUntil int64
	answer    *answer

	load load
}

type flight struct {
	plan *schemas.StepPlan
	done int64 // when the scheduler has the result
}

// load is what a replica tells a router and the report.
type load struct {
	waiting, running    int
	queued              int64 // prompt tokens of requests that have not begun
	free, evictable     int32 // blocks
	total               int32
	steps, rows, tokens int64
	busyNs              int64
	usedPeak            int32
	outside             int64 // steps larger than any that was measured
}

// step gives the scheduler an event and does what it asks for, as its actor does.
func (r *engine) step(event scheduler.Event) (scheduler.Effects, error) {
	now := max(r.world.now, r.busyUntil)
	fx := r.scheduler.Step(now, event)
	first, ahead := fx, (*scheduler.Question)(nil)
	for {
		r.world.take(r, now, fx.Emit)
		if fx.Lost != nil {
			return first, fmt.Errorf("simulate: a step was lost: %w", fx.Lost)
		}
		if fx.Rank != nil && !fx.Rank.Wait {
			ahead = fx.Rank
		}
		switch {
		case fx.Reserve != nil:
			reply, err := r.memory.Reserve(fx.Reserve)
			if err != nil {
				return first, fmt.Errorf("simulate: memory refused: %w", err)
			}
			r.load.free, r.load.evictable, r.load.total = reply.Free, reply.Evictable, reply.Total
			r.load.usedPeak = max(r.load.usedPeak, reply.Total-reply.Free-reply.Evictable)
			event = scheduler.Granted{Reply: reply}
		case fx.Execute != nil:
			r.execute(now, fx.Execute)
			event = scheduler.More{}
		case fx.Rank != nil && fx.Rank.Wait:
			outcome, err := r.world.ask(fx.Rank)
			if err != nil {
				return first, err
			}
			now += outcome.TripNs
			r.busyUntil = now
			event = scheduler.Ranked{Outcome: outcome}
		default:
			return first, r.askAhead(now, ahead)
		}
		fx = r.scheduler.Step(now, event)
	}
}

// askAhead puts a question for the steps to come, if there is one: the device has its work.
func (r *engine) askAhead(now int64, q *scheduler.Question) error {
	if q == nil {
		return nil
	}
	outcome, err := r.world.ask(q)
	if err == nil {
		r.answer = &answer{outcome, now + outcome.TripNs}
	}
	return err
}

// due is when the next event of the replica comes; MaxInt64 if none does by itself.
func (r *engine) due() int64 {
	at := int64(math.MaxInt64)
	if len(r.flights) > 0 {
		at = r.flights[0].done
	}
	if r.answer != nil {
		at = min(at, r.answer.at)
	}
	return at
}

// proceed tells the scheduler of what is due.
func (r *engine) proceed() error {
	if a := r.answer; a != nil && (len(r.flights) == 0 || a.at < r.flights[0].done) {
		r.answer = nil
		_, err := r.step(scheduler.Ranked{Outcome: a.outcome})
		return err
	}
	return r.finish()
}

// execute queues a plan on the device.
func (r *engine) execute(now int64, p *schemas.StepPlan) {
	start := max(now, r.freeAt)
	shape := profile.ShapeOf(p).After(start - r.freeAt)
	cost := r.world.cfg.Profile.StepNs(shape)
	r.freeAt = start + cost
	if pace := r.world.cfg.Pace; pace != nil {
		r.freeAt = max(start, pace.Done(start, cost))
		cost = r.freeAt - start
	}
	r.flights = append(r.flights, flight{p, r.freeAt + r.world.resultNs})
	l := &r.load
	l.steps++
	l.rows += int64(shape.Rows)
	l.tokens += int64(shape.Tokens)
	l.busyNs += cost
	if !r.world.cfg.Profile.Covers(shape) {
		l.outside++
	}
}

// finish reports the oldest step.
func (r *engine) finish() error {
	p := r.flights[0].plan
	copy(r.flights, r.flights[1:])
	r.flights = r.flights[:len(r.flights)-1]
	_, err := r.step(scheduler.Done{Result: r.sample(p)})
	return err
}

// sample makes up the tokens of a step: those that later prompts of the workload have where they repeat an answer. The
// result is valid until the next one.
func (r *engine) sample(p *schemas.StepPlan) *schemas.StepResult {
	out := &r.result
	out.Epoch, out.Step, out.Row, out.Token = p.Epoch, p.Step, out.Row[:0], out.Token[:0]
	for i, sampled := range p.Sample {
		if sampled == schemas.SampleNone {
			continue
		}
		n := indexOf(schemas.SeqID(p.Seq[i]))
		q := &r.world.trace.Requests[n]
		position := p.Start[i] + p.Count[i] - q.Input
		out.Row = append(out.Row, int32(i))
		out.Token = append(out.Token, traces.TokenAt(q.ReplyTokens(n), position, vocabulary))
	}
	return out
}

// submit hands request number n over.
func (r *engine) submit(n int, prompt schemas.I32) (*schemas.Error, error) {
	q := &r.world.trace.Requests[n]
	r.load.waiting++
	r.load.queued += int64(q.Input)
	fx, err := r.step(scheduler.Submitted{Request: &schemas.SubmitRequest{Request: requestID(n), Choices: 1, Tokens: prompt, MaxTokens: q.Output,
		Sampling: schemas.SamplingParams{TopP: 1}, Priority: q.Priority, User: q.User}})
	if fx.Refused != nil {
		r.load.waiting--
		r.load.queued -= int64(q.Input)
	}
	return fx.Refused, err
}

func requestID(n int) schemas.RequestID { return schemas.NewRequestID(1, uint32(n)+1) }

func indexOf(s schemas.SeqID) int { return int(uint32(s>>8)) - 1 }
