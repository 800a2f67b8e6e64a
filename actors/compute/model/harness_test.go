package model

import (
	"encoding/binary"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/cpu"
)

func TestMain(m *testing.M) {
	gpu.TraceLeaks(true)
	os.Exit(m.Run())
}

// sharedDir returns a folder of test data beside the repository, or skips the test.
func sharedDir(t testing.TB, elem ...string) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for dir != filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
		dir = filepath.Dir(dir)
	}
	path := filepath.Join(append([]string{filepath.Dir(dir), "shared"}, elem...)...)
	if _, err := os.Stat(path); err != nil {
		t.Skipf("SKIPPED: test data %s is missing: %v", path, err)
	}
	return path
}

// openDevice returns a CPU device that is checked for leaks when the test ends.
func openDevice(t testing.TB) gpu.Device {
	t.Helper()
	dev, err := cpu.Open(cpu.Options{Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := dev.Close(); err != nil {
			t.Error(err)
		}
	})
	return dev
}

// engine drives a Model as a scheduler would, with the simplest bookkeeping: a free list of
// blocks and a slot per sequence.
type engine struct {
	t    testing.TB
	m    *Model
	dev  gpu.Device
	free []int32 // blocks, taken from the end
}

// sequence is one conversation's place in the engine.
type sequence struct {
	slot   int
	blocks []int32
	cached int // tokens in the KV cache
}

// piece is a run of one sequence's tokens in a step. Logits are wanted for the last wantLast.
type piece struct {
	seq      *sequence
	tokens   []int32
	wantLast int
}

var testOptions = Options{SequencesMax: 6, TokensPerStepMax: 256, ContextMax: 128, BlockSize: 4, KVBlocks: 100}

func newEngine(t testing.TB, files fs.FS, opts Options) *engine {
	t.Helper()
	spec, err := ReadSpec(files)
	if err != nil {
		t.Fatal(err)
	}
	return newEngineOf(t, files, spec, opts)
}

// newEngineOf runs the weights in files as spec says.
func newEngineOf(t testing.TB, files fs.FS, spec *Spec, opts Options) *engine {
	t.Helper()
	return newEngineOn(t, openDevice(t), files, spec, opts)
}

func newEngineOn(t testing.TB, dev gpu.Device, files fs.FS, spec *Spec, opts Options) *engine {
	t.Helper()
	m, err := load(dev, files, spec, opts, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		if s := dev.Memory(); s.Tensors != 0 {
			t.Errorf("%d tensors left after Close", s.Tensors)
		}
	})
	e := &engine{t: t, m: m, dev: dev}
	for b := opts.KVBlocks - 1; b >= 0; b-- {
		e.free = append(e.free, int32(b))
	}
	return e
}

// scramble makes later sequences take blocks from all over the pool.
func (e *engine) scramble(seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	r.Shuffle(len(e.free), func(i, j int) { e.free[i], e.free[j] = e.free[j], e.free[i] })
}

// reserve gives s the blocks for n more tokens.
func (e *engine) reserve(s *sequence, n int) {
	e.t.Helper()
	size := e.m.Options().BlockSize
	from := len(s.blocks)
	for len(s.blocks)*size < s.cached+n {
		if len(e.free) == 0 {
			e.t.Fatal("the test's pool is too small")
		}
		s.blocks = append(s.blocks, e.free[len(e.free)-1])
		e.free = e.free[:len(e.free)-1]
	}
	if err := e.m.SetBlocks(s.slot, from, s.blocks[from:]); err != nil {
		e.t.Fatal(err)
	}
}

// input builds the StepInput of pieces and advances their sequences.
func (e *engine) input(pieces []piece) *StepInput {
	e.t.Helper()
	size := e.m.Options().BlockSize
	in := &StepInput{QueryStart: []int32{0}}
	for _, p := range pieces {
		e.reserve(p.seq, len(p.tokens))
		for i, id := range p.tokens {
			at := p.seq.cached + i
			if i >= len(p.tokens)-p.wantLast {
				in.LogitRows = append(in.LogitRows, int32(len(in.Tokens)))
			}
			in.Tokens = append(in.Tokens, id)
			in.Positions = append(in.Positions, int32(at))
			in.TokenSlots = append(in.TokenSlots, int32(p.seq.slot))
			in.SlotMapping = append(in.SlotMapping, p.seq.blocks[at/size]*int32(size)+int32(at%size))
		}
		in.Slots = append(in.Slots, int32(p.seq.slot))
		in.QueryStart = append(in.QueryStart, int32(len(in.Tokens)))
		p.seq.cached += len(p.tokens)
	}
	return in
}

// step runs pieces in one Forward and returns the wanted logits, one slice per row.
func (e *engine) step(pieces ...piece) [][]float32 {
	e.t.Helper()
	logits, err := e.m.Forward(e.input(pieces))
	if err != nil {
		e.t.Fatal(err)
	}
	if !logits.Valid() {
		return nil
	}
	flat := e.download(logits)
	rows := make([][]float32, logits.Dims[0])
	for r := range rows {
		rows[r] = flat[r*logits.Dims[1] : (r+1)*logits.Dims[1]]
	}
	return rows
}

func (e *engine) download(t gpu.Tensor) []float32 {
	e.t.Helper()
	b := make([]byte, t.Bytes())
	if err := e.dev.Download(b, t); err != nil {
		e.t.Fatal(err)
	}
	return floats(b)
}

func floats(b []byte) []float32 {
	out := make([]float32, len(b)/4)
	for i := range out {
		out[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return out
}

// logitsInChunks runs prompt through s in chunks of the given sizes, the last size repeating,
// and returns the logits of every token.
func (e *engine) logitsInChunks(s *sequence, prompt []int32, sizes ...int) [][]float32 {
	e.t.Helper()
	var all [][]float32
	for i := 0; len(prompt) > 0; i++ {
		n := min(sizes[min(i, len(sizes)-1)], len(prompt))
		all = append(all, e.step(piece{s, prompt[:n], n})...)
		prompt = prompt[n:]
	}
	return all
}

// greedy continues s after prompt by n tokens, sampling on the device and feeding each token
// to the next step without the host seeing it.
func (e *engine) greedy(s *sequence, prompt []int32, n int) []int32 {
	e.t.Helper()
	ids := make([]int32, 0, n)
	next := prompt
	for range n {
		logits, err := e.m.Forward(e.input([]piece{{s, next, 1}}))
		if err != nil {
			e.t.Fatal(err)
		}
		out, err := e.m.Sample([]gpu.SampleParams{{Slot: int32(s.slot), Position: int32(s.cached)}}, logits)
		if err != nil {
			e.t.Fatal(err)
		}
		var b [4]byte
		if err := e.dev.Download(b[:], out); err != nil {
			e.t.Fatal(err)
		}
		ids = append(ids, int32(binary.LittleEndian.Uint32(b[:])))
		next = []int32{-1}
	}
	return ids
}

// maxDiff returns the largest absolute difference; NaN anywhere makes it infinite.
func maxDiff(t testing.TB, got, want [][]float32) float64 {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d rows, want %d", len(got), len(want))
	}
	worst := 0.0
	for r := range got {
		if len(got[r]) != len(want[r]) {
			t.Fatalf("row %d has %d logits, want %d", r, len(got[r]), len(want[r]))
		}
		for i := range got[r] {
			d := math.Abs(float64(got[r][i]) - float64(want[r][i]))
			if math.IsNaN(d) {
				return math.Inf(1)
			}
			worst = max(worst, d)
		}
	}
	return worst
}

// requireIdentical fails unless the logits agree in every bit.
func requireIdentical(t testing.TB, what string, got, want [][]float32) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d rows, want %d", what, len(got), len(want))
	}
	for r := range got {
		for i := range got[r] {
			if math.Float32bits(got[r][i]) != math.Float32bits(want[r][i]) {
				t.Fatalf("%s: row %d logit %d is %v, want exactly %v", what, r, i, got[r][i], want[r][i])
			}
		}
	}
}
