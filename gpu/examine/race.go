package examine

import (
	"fmt"
	"slices"
	"time"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/ref"
)

const (
	raceRounds     = 9                      // of each kernel, in turns
	raceRoundTime  = 2 * time.Millisecond   // about
	raceRepeatMax  = 256                    // launches of a round
	raceTimeMax    = 200 * time.Millisecond // of all rounds; no more begin after it: a step of the engine waits meanwhile
	raceBytesTotal = 256 << 20              // of weights that a round goes through, more than any GPU's cache
)

// Race times two implementations of op at shape s in turns, and returns the median time of a launch of each. A
// device that records (gpu.Recorder) repeats recorded launches, as in a decode step.
func Race(dev gpu.Device, op gpu.Op, s gpu.KernelShape, candidate, current func(args any) error) (candidateTime, currentTime time.Duration, err error) {
	r := newRig(dev)
	defer r.free()
	args, err := r.laps(op, s)
	if err != nil {
		return 0, 0, err
	}
	lanes := []*lane{{launch: candidate}, {launch: current}}
	for _, l := range lanes {
		defer l.free()
		if err := l.prepare(dev, args); err != nil {
			return 0, 0, err
		}
	}
	for round, began := 0, time.Now(); round < raceRounds && time.Since(began) < raceTimeMax; round++ {
		for i := range lanes { // who begins takes turns too
			if err := lanes[(i+round)%len(lanes)].lap(dev); err != nil {
				return 0, 0, err
			}
		}
	}
	return lanes[0].median(), lanes[1].median(), nil
}

// lane is one of the two.
type lane struct {
	launch func(args any) error
	run    func() error // of repeat launches
	repeat int
	times  []time.Duration
	tape   gpu.Recording
}

// prepare finds how many launches make a round, and records them where the device can.
func (l *lane) prepare(dev gpu.Device, args []any) error {
	all := func(n int) func() error {
		return func() error {
			for i := range n {
				if err := l.launch(args[i%len(args)]); err != nil {
					return err
				}
			}
			return nil
		}
	}
	for _, n := range []int{1, 4} { // the first warms up
		l.run, l.repeat, l.times = all(n), n, nil
		if err := l.lap(dev); err != nil {
			return err
		}
		if l.times[0] > raceTimeMax/2 { // whatever it was that took long, it is too much to wait for four times
			break
		}
	}
	l.repeat = int(min(max(raceRoundTime/max(l.times[0], 1), 1), raceRepeatMax))
	l.run, l.times = all(l.repeat), nil
	recorder, ok := dev.(gpu.Recorder)
	if !ok {
		return nil
	}
	var err error
	if l.tape, err = recorder.Record(l.run); err != nil {
		return err
	}
	l.run = l.tape.Replay
	return l.lap(dev) // the first is slower
}

func (l *lane) lap(dev gpu.Device) error {
	began := time.Now()
	if err := l.run(); err != nil {
		return err
	}
	if err := dev.Sync(); err != nil {
		return err
	}
	l.times = append(l.times, time.Since(began)/time.Duration(l.repeat))
	return nil
}

func (l *lane) median() time.Duration {
	slices.Sort(l.times)
	return l.times[len(l.times)/2]
}

func (l *lane) free() {
	if l.tape != nil {
		l.tape.Free()
	}
}

// laps makes the arguments that a round goes through.
func (r *rig) laps(op gpu.Op, s gpu.KernelShape) (args []any, err error) {
	act := func(rows, cols int) gpu.Tensor { return r.upload(r.compute, r.tiled(r.compute, rows*cols), rows, cols) }
	f32 := func(rows, cols int) gpu.Tensor { return r.upload(gpu.F32, r.tiled(gpu.F32, rows*cols), rows, cols) }
	switch op {
	case gpu.OpRMSNorm:
		args = []any{&gpu.RMSNorm{Out: act(s.Rows, s.Cols), X: act(s.Rows, s.Cols), Weight: f32(1, s.Cols), Eps: 1e-5}}
	case gpu.OpActMul:
		args = []any{&gpu.ActMul{Out: act(s.Rows, s.Cols), X: act(s.Rows, 2*s.Cols)}}
	case gpu.OpRoPE:
		args = []any{&gpu.RoPE{X: act(s.Rows, s.Heads*s.HeadDim), Heads: s.Heads, HeadDim: s.HeadDim, Cos: f32(s.Rows, s.Cols), Sin: f32(s.Rows, s.Cols)}}
	case gpu.OpMatMul:
		out, x := act(s.Rows, s.Outputs), act(s.Rows, s.Cols)
		for _, w := range r.weights(s.Outputs, s.Cols) {
			args = append(args, &gpu.MatMul{Out: out, X: x, W: w})
		}
	default:
		return nil, fmt.Errorf("%w: kernels of %q cannot be timed; those of %q can", gpu.ErrNotSupported, op, Ops)
	}
	return args, r.err
}

// tiled is n elements of dtype, the same over and over: drawing them all would take longer than the race.
func (r *rig) tiled(dtype gpu.DType, n int) []byte {
	const tile = 1 << 14
	raw, whole := ref.Encode(dtype, r.normal(dtype, min(n, tile), 1)), make([]byte, n*dtype.Size())
	for at := 0; at < len(whole); {
		at += copy(whole[at:], raw)
	}
	return whole
}

// weights are as many copies of a weight as it takes for none of them to be in the cache when its turn comes.
func (r *rig) weights(n, k int) (list []gpu.Tensor) {
	whole := r.tiled(gpu.BF16, n*k)
	for range raceBytesTotal/len(whole) + 1 {
		list = append(list, r.pack(whole, n, k))
		if len(list) == raceRepeatMax {
			break
		}
	}
	return list
}
