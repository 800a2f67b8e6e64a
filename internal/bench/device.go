package bench

import (
	"sync/atomic"
	"time"

	"github.com/troupe-engine/troupe/schemas"
)

const (
	vocabulary  = 32000
	deviceQueue = 8 // steps; as in actors/compute
)

// device stands for a model on a device: it executes plans in order, each for exactly the same time, and
// samples tokens that follow from sequence and position. It occupies a processor while it computes, as a
// CPU backend does; sleeping would be inexact by more than what is measured here.
type device struct {
	step    time.Duration
	sleeps  bool // instead of computing: then what the process uses is the host's work
	queue   chan *schemas.StepPlan
	results chan *schemas.StepResult

	rows  int             // expected in every measured step
	skip  int             // steps before the first measured one
	began []time.Duration // when measured steps began, since the device was opened
	short atomic.Int64    // measured steps that had fewer rows
	ran   int
	ended []time.Duration // when steps ended, since the first began; to read once the device has stopped
}

func newDevice(step time.Duration, rows, skip, measured int) *device {
	return &device{step: step, queue: make(chan *schemas.StepPlan, deviceQueue), results: make(chan *schemas.StepResult, deviceQueue),
		rows: rows, skip: skip, began: make([]time.Duration, 0, measured+1)}
}

// run executes plans until the queue closes, then closes results.
func (d *device) run() {
	defer close(d.results)
	opened := time.Now()
	first, free := time.Duration(-1), time.Duration(0)
	for plan := range d.queue {
		began := time.Since(opened)
		d.note(plan, began)
		if first < 0 {
			first, free = began, began
		}
		if d.sleeps {
			time.Sleep(d.step)
		}
		for time.Since(opened)-began < d.step {
		}
		r := sample(plan)
		ended := time.Since(opened)
		r.Ledger = schemas.Ledger{Idle: (began - free).Nanoseconds(), Device: (ended - began).Nanoseconds(), Steps: 1}
		free, d.ended = ended, append(d.ended, ended-first)
		d.results <- r
	}
}

// wall is how long the first steps took together, with the time between them.
func (d *device) wall(steps int64) time.Duration {
	if steps < 1 || steps > int64(len(d.ended)) {
		return 0
	}
	return d.ended[steps-1]
}

func (d *device) note(plan *schemas.StepPlan, began time.Duration) {
	if d.ran++; d.ran <= d.skip || len(d.began) == cap(d.began) {
		return
	}
	d.began = append(d.began, began)
	if len(plan.Seq) != d.rows {
		d.short.Add(1)
	}
}

// periods are the times between the beginnings of measured steps, in microseconds: what a step takes with
// everything around it.
func (d *device) periods() []float64 {
	var list []float64
	for i := 1; i < len(d.began); i++ {
		list = append(list, float64((d.began[i]-d.began[i-1]).Nanoseconds())/1e3)
	}
	return list
}

func sample(p *schemas.StepPlan) *schemas.StepResult {
	r := &schemas.StepResult{Epoch: p.Epoch, Step: p.Step, Row: make(schemas.I32, 0, len(p.Seq)), Token: make(schemas.I32, 0, len(p.Seq))}
	for i, seq := range p.Seq {
		if p.Sample[i] == 1 {
			r.Row = append(r.Row, int32(i))
			r.Token = append(r.Token, tokenAt(schemas.SeqID(seq), p.Start[i]+p.Count[i]))
		}
	}
	return r
}

// tokenAt is the token of a sequence at a position: any fixed function that tells both apart.
func tokenAt(seq schemas.SeqID, position int32) int32 {
	x := uint64(seq)*0x9e3779b97f4a7c15 + uint64(position)*0xbf58476d1ce4e5b9
	return int32((x >> 33) % vocabulary)
}
