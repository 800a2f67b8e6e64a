package model

import (
	"errors"

	"github.com/troupe-engine/troupe/gpu"
)

// replays records decode steps on devices that can (gpu.Recorder) and repeats them: hundreds of launches
// become one. A recording is of a shape, so a step of decodes is padded to the next of a few sizes; the
// padding tokens write no keys, and nobody reads their logits.
type replays struct {
	recorder gpu.Recorder // nil: launch everything
	steps    map[stepShape]*replay
	padded   StepInput
}

// replay is a shape that was seen. The first step of it is launched, which prepares what the device
// allocates or measures at first, and the second is recorded.
type replay struct{ recording gpu.Recording }

const (
	decodesMax = 1024 // sequences of a recorded step
	replaysMax = 128  // recordings; beyond that they start anew
)

// decodeBucket rounds a number of decodes up to one that steps are recorded for: powers of two, and from
// 8 on the middle between two of them. Up to 8 at most three are padding, then a third.
func decodeBucket(n int) int {
	bucket := 1
	for bucket < n {
		bucket *= 2
	}
	if middle := bucket / 4 * 3; bucket > 8 && n <= middle {
		return middle
	}
	return bucket
}

// decodes reports whether each sequence has one token, whose logits are wanted, in order.
func (in *StepInput) decodes() bool {
	if len(in.Tokens) != len(in.Slots) || len(in.Tokens) != len(in.LogitRows) {
		return false
	}
	for i, row := range in.LogitRows {
		if int(row) != i {
			return false
		}
	}
	return true
}

// pad returns in, or a copy with more rows if it is a step to be recorded.
func (r *replays) pad(m *Model, in *StepInput) *StepInput {
	n := len(in.Tokens)
	if r.recorder == nil || n > decodesMax || !in.decodes() {
		return in
	}
	room := min(m.options.SequencesMax, m.options.TokensPerStepMax)
	more := min(decodeBucket(n), max(n, room)) - n
	if more == 0 {
		return in
	}
	p := &r.padded
	fill := func(to *[]int32, from []int32, value int32) {
		*to = append((*to)[:0], from...)
		for range more {
			*to = append(*to, value)
		}
	}
	fill(&p.Tokens, in.Tokens, 0)
	fill(&p.Positions, in.Positions, 0)
	fill(&p.TokenSlots, in.TokenSlots, 0)
	fill(&p.SlotMapping, in.SlotMapping, -1)
	fill(&p.Slots, in.Slots, 0)
	fill(&p.QueryStart, in.QueryStart, 0)
	fill(&p.LogitRows, in.LogitRows, 0)
	for i := range more {
		p.QueryStart[n+1+i] = int32(n + 1 + i)
		p.LogitRows[n+i] = int32(n + i)
	}
	return p
}

// run launches a step whose inputs were uploaded, from a recording if there is one.
func (r *replays) run(m *Model, shape stepShape) error {
	if r.recorder == nil || shape.queryMax > 1 || shape.rows != shape.tokens || shape.tokens > decodesMax {
		return m.launchStep(shape)
	}
	step := r.steps[shape]
	if step == nil {
		if len(r.steps) >= replaysMax {
			r.drop()
		}
		if r.steps == nil {
			r.steps = map[stepShape]*replay{}
		}
		r.steps[shape] = &replay{}
		return m.launchStep(shape)
	}
	if step.recording == nil {
		var err error
		if step.recording, err = r.recorder.Record(func() error { return m.launchStep(shape) }); err != nil {
			return err
		}
	}
	err := step.recording.Replay()
	if errors.Is(err, gpu.ErrStale) {
		r.drop()
		return m.launchStep(shape)
	}
	return err
}

// drop frees the recordings.
func (r *replays) drop() {
	for _, step := range r.steps {
		if step.recording != nil {
			step.recording.Free()
		}
	}
	clear(r.steps)
}
