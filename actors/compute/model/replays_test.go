package model

import (
	"os"
	"slices"
	"testing"

	"github.com/troupe-engine/troupe/gpu"
)

// tape is a CPU device that records launches as a GPU does: by their arguments at that time.
type tape struct {
	gpu.Device
	recording *taped
	recorded  int
	replayed  int
	live      int
	stale     bool
}

type taped struct {
	t        *tape
	launches []func() error
}

func (t *tape) Launch(op gpu.Op, args any) error {
	if t.recording == nil {
		return t.Device.Launch(op, args)
	}
	fixed := copyArgs(args)
	t.recording.launches = append(t.recording.launches, func() error { return t.Device.Launch(op, fixed) })
	return nil
}

func (t *tape) Record(launches func() error) (gpu.Recording, error) {
	r := &taped{t: t}
	t.recording = r
	defer func() { t.recording = nil }()
	t.recorded++
	t.live++
	return r, launches()
}

func (r *taped) Replay() error {
	if r.t.stale {
		r.t.stale = false
		return gpu.ErrStale
	}
	r.t.replayed++
	for _, launch := range r.launches {
		if err := launch(); err != nil {
			return err
		}
	}
	return nil
}

func (r *taped) Free() { r.t.live-- }

// copyArgs fixes arguments: what a step changes later must not reach a recording.
func copyArgs(args any) any {
	switch a := args.(type) {
	case *gpu.FeedTokens:
		return fix(*a)
	case *gpu.Embed:
		return fix(*a)
	case *gpu.RoPETable:
		return fix(*a)
	case *gpu.RMSNorm:
		return fix(*a)
	case *gpu.RoPE:
		return fix(*a)
	case *gpu.Attention:
		c := *a
		if a.Write != nil {
			c.Write = copyArgs(a.Write).(*gpu.KVWrite)
		}
		return &c
	case *gpu.Add:
		return fix(*a)
	case *gpu.GatherRows:
		return fix(*a)
	case *gpu.SoftCap:
		return fix(*a)
	case *gpu.KVWrite:
		c := *a
		if a.RoPE != nil {
			c.RoPE = fix(*a.RoPE)
		}
		return &c
	case *gpu.MatMul:
		c := *a
		if a.Norm != nil {
			c.Norm = fix(*a.Norm)
		}
		if a.Gate != nil {
			c.Gate = fix(*a.Gate)
		}
		return &c
	}
	panic("an op that no recorded step launches")
}

func fix[A any](a A) *A { return &a }

// Decode steps of a device that records come from recordings of a few sizes, and every logit is what it is
// without: padding changes nothing, nor do other sizes, prefills or a larger logits buffer in between.
func TestReplays(t *testing.T) {
	eachGolden(t, func(t *testing.T, g *golden) {
		if g.spec.Experts > 0 {
			t.Skip("the tape does not know the ops of experts")
		}
		plain, recorder := newTapedEngine(t, g, false), newTapedEngine(t, g, true)
		tape := recorder.dev.(*tape)
		run := func(slots int, stale bool) {
			t.Helper()
			tape.stale = stale
			requireIdentical(t, "a recorded step", recorder.decodeAll(slots, g.Greedy), plain.decodeAll(slots, g.Greedy))
		}
		for _, e := range []*tapedEngine{plain, recorder} {
			for s := range e.sequences {
				e.sequences[s] = sequence{slot: s}
				e.step(piece{&e.sequences[s], g.Prompt[:3+s], 1})
			}
		}
		for range 3 {
			run(5, false) // pads to 6, the most sequences there are
			run(3, false) // pads to 4
			run(1, false)
		}
		if tape.recorded != 3 || tape.replayed != 6 {
			t.Errorf("%d recordings and %d replays, want 3 and 6: the first step of a size is launched, the second recorded", tape.recorded, tape.replayed)
		}
		run(3, true) // a kernel was selected
		if tape.live != 0 {
			t.Errorf("%d recordings live after one was stale", tape.live)
		}
		run(3, false)
		run(3, false)
		if tape.live != 1 {
			t.Errorf("%d recordings live, want 1", tape.live)
		}
		// More rows of logits than there were buffers for: those move, and recordings that write there end.
		long := slices.Repeat([]int32{1}, 20)
		for _, e := range []*tapedEngine{plain, recorder} {
			e.step(piece{&sequence{slot: 0}, long, len(long)})
		}
		if tape.live != 0 {
			t.Errorf("%d recordings live after their logits moved", tape.live)
		}
		run(3, false)
	})
}

type tapedEngine struct {
	*engine
	sequences [5]sequence
}

func newTapedEngine(t *testing.T, g *golden, record bool) *tapedEngine {
	t.Helper()
	dev := openDevice(t)
	if record {
		dev = &tape{Device: dev}
	}
	opts := testOptions
	opts.KVBlocks = 200
	return &tapedEngine{engine: newEngineOn(t, dev, os.DirFS(g.dir), g.spec, opts)}
}

// decodeAll decodes the first n sequences by one token each.
func (e *tapedEngine) decodeAll(n int, tokens []int32) [][]float32 {
	e.t.Helper()
	var pieces []piece
	for s := range n {
		pieces = append(pieces, piece{&e.sequences[s], tokens[s : s+1], 1})
	}
	return e.step(pieces...)
}

func TestDecodeBucket(t *testing.T) {
	for n := 1; n <= decodesMax; n++ {
		b := decodeBucket(n)
		if b < n || b > 8 && 3*(b-n) > b || b <= 8 && b-n > 3 {
			t.Errorf("%d decodes are padded to %d", n, b)
		}
		if decodeBucket(b) != b {
			t.Errorf("a bucket of %d is padded to %d", b, decodeBucket(b))
		}
	}
}
