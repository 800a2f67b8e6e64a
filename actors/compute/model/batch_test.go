package model

import (
	"os"
	"slices"
	"testing"

	"github.com/troupe-engine/troupe/gpu"
)

// variants returns n prompts made from prompt, of different lengths and contents.
func variants(prompt []int32, n int) [][]int32 {
	out := make([][]int32, n)
	for i := range out {
		p := slices.Clone(prompt[i : len(prompt)-2*i])
		if i%2 == 1 {
			slices.Reverse(p)
		}
		out[i] = p
	}
	return out
}

// kvOptions are testOptions with each type of keys and values: what a type rounds, it rounds for all alike.
func kvOptions(t *testing.T, test func(*testing.T, Options)) {
	for _, kv := range []gpu.DType{gpu.F32, gpu.BF16, gpu.I8} {
		o := testOptions
		o.KV = kv
		t.Run(kv.String(), func(t *testing.T) { test(t, o) })
	}
}

// TestBatchInvariance: sequences that share steps, some in prefill chunks while others decode,
// have bit for bit the logits they have alone.
func TestBatchInvariance(t *testing.T) {
	eachGolden(t, func(t *testing.T, g *golden) {
		kvOptions(t, func(t *testing.T, o Options) { testBatchInvariance(t, g, o) })
	})
}

func testBatchInvariance(t *testing.T, g *golden, options Options) {
	const sequences, tail = 5, 4 // tail tokens go one by one
	prompts := variants(g.Prompt, sequences)
	alone := make([][][]float32, sequences)
	e := newEngineOf(t, os.DirFS(g.dir), g.spec, options)
	for i, p := range prompts {
		s := &sequence{slot: 0}
		alone[i] = e.logitsInChunks(s, p, len(p))
		e.free = append(e.free, s.blocks...)
	}

	e.scramble(11)
	seqs := make([]*sequence, sequences)
	together := make([][][]float32, sequences)
	for i := range seqs {
		seqs[i] = &sequence{slot: sequences - i}
	}
	for round := 0; ; round++ {
		var pieces []piece
		var owners []int
		for i, p := range prompts {
			n := 3 + i // a chunk size of its own
			if left := len(p) - seqs[i].cached; left <= tail {
				n = min(left, 1)
			} else {
				n = min(n, left-tail)
			}
			if n == 0 || i > round { // sequence i joins in round i
				continue
			}
			at := seqs[i].cached
			pieces = append(pieces, piece{seqs[i], p[at : at+n], n})
			owners = append(owners, i)
		}
		if len(pieces) == 0 && round >= sequences {
			break
		}
		rows := e.step(pieces...)
		for j, i := range owners {
			n := len(pieces[j].tokens)
			together[i] = append(together[i], rows[:n]...)
			rows = rows[n:]
		}
	}
	for i := range prompts {
		requireIdentical(t, "batched", together[i], alone[i])
	}
}

// TestSharedPrefixBlocks: a sequence whose first blocks are another's continues as if it had
// computed them, and a copied block serves as well as its original.
func TestSharedPrefixBlocks(t *testing.T) {
	eachGolden(t, func(t *testing.T, g *golden) {
		kvOptions(t, func(t *testing.T, o Options) { testSharedPrefixBlocks(t, g, o) })
	})
}

func testSharedPrefixBlocks(t *testing.T, g *golden, options Options) {
	e := newEngineOf(t, os.DirFS(g.dir), g.spec, options)
	e.scramble(5)
	first := &sequence{slot: 0}
	whole := e.logitsInChunks(first, g.Prompt, len(g.Prompt))

	const shared = 5 // blocks
	size := e.m.Options().BlockSize
	second := &sequence{slot: 1, blocks: slices.Clone(first.blocks[:shared]), cached: shared * size}
	if err := e.m.SetBlocks(second.slot, 0, second.blocks); err != nil {
		t.Fatal(err)
	}
	got := e.logitsInChunks(second, g.Prompt[second.cached:], 6)
	requireIdentical(t, "shared prefix", got, whole[shared*size:])

	// Copy on write: a third sequence shares all but the last of those blocks, which it copies
	// and overwrites from its middle.
	third := &sequence{slot: 2, blocks: slices.Clone(first.blocks[:shared]), cached: shared*size - 2}
	copied := e.free[len(e.free)-1]
	e.free = e.free[:len(e.free)-1]
	if err := e.m.CopyBlocks([]int32{third.blocks[shared-1], copied}); err != nil {
		t.Fatal(err)
	}
	third.blocks[shared-1] = copied
	if err := e.m.SetBlocks(third.slot, 0, third.blocks); err != nil {
		t.Fatal(err)
	}
	other := slices.Clone(g.Prompt[third.cached:])
	other[0] = (other[0] + 1) % int32(g.spec.VocabSize)
	e.logitsInChunks(third, other, 3) // diverges, and must not disturb the others
	third.cached = shared*size - 2
	got = e.logitsInChunks(third, g.Prompt[third.cached:], 4)
	requireIdentical(t, "copied block", got, whole[shared*size-2:])
	last := len(g.Prompt) - 1
	for _, s := range []*sequence{first, second} {
		s.cached = last
		got := e.step(piece{s, g.Prompt[last:], 1})
		requireIdentical(t, "after the divergence", got, whole[last:])
	}
}

// TestLogitRows: rows may be any subset in any order, none, or more than sequences.
func TestLogitRows(t *testing.T) {
	g := readGolden(t, "testdata/golden/llama-yarn")
	opts := testOptions
	opts.SequencesMax = 2
	e := newEngineOf(t, os.DirFS(g.dir), g.spec, opts)
	s := &sequence{slot: 1}
	in := e.input([]piece{{s, g.Prompt, 0}})
	logits, err := e.m.Forward(in)
	if err != nil || logits.Valid() {
		t.Fatalf("no rows asked for: got %v, %v", logits, err)
	}
	before := e.dev.Memory().Bytes
	for _, rows := range [][]int32{{29}, {3, 0, 17}, {5, 5}} {
		in.LogitRows = rows
		logits, err := e.m.Forward(in)
		if err != nil {
			t.Fatal(err)
		}
		flat, v := e.download(logits), g.spec.VocabSize
		for i, r := range rows {
			if d := maxDiff(t, [][]float32{flat[i*v : (i+1)*v]}, g.logits[r:r+1]); d > goldenTolerance {
				t.Errorf("rows %v: row %d differs by %g", rows, i, d)
			}
		}
	}
	if after := e.dev.Memory().Bytes; after > before+4*int64(2*g.spec.VocabSize+2*g.spec.HiddenSize) {
		t.Errorf("3 rows took the device from %d to %d bytes", before, after)
	}
}

// TestSampleFeedsForward: sampled tokens of several slots feed the next step through the
// device, and stay readable for SampleRing calls.
func TestSampleFeedsForward(t *testing.T) {
	g := readGolden(t, "testdata/golden/llama-bias-linear")
	e := newEngineOf(t, os.DirFS(g.dir), g.spec, testOptions)
	prompts := variants(g.Prompt, 3)
	want := make([][]int32, len(prompts))
	seqs := make([]*sequence, len(prompts))
	for i, p := range prompts {
		s := &sequence{slot: 0}
		want[i] = e.greedy(s, p, SampleRing)
		e.free = append(e.free, s.blocks...)
		seqs[i] = &sequence{slot: 5 - i}
	}
	params := make([]gpu.SampleParams, len(prompts))
	var results []gpu.Tensor
	for round := range SampleRing {
		var pieces []piece
		for i, s := range seqs {
			tokens := []int32{-1}
			if round == 0 {
				tokens = prompts[i]
			}
			pieces = append(pieces, piece{s, tokens, 1})
			params[i] = gpu.SampleParams{Slot: int32(s.slot)}
		}
		logits, err := e.m.Forward(e.input(pieces))
		if err != nil {
			t.Fatal(err)
		}
		out, err := e.m.Sample(params, logits)
		if err != nil {
			t.Fatal(err)
		}
		results = append(results, out)
	}
	for round, r := range results { // read only now, after every launch
		b := make([]byte, r.Bytes())
		if err := e.dev.Download(b, r); err != nil {
			t.Fatal(err)
		}
		for i := range seqs {
			if got := int32(b[4*i]) | int32(b[4*i+1])<<8; got != want[i][round] {
				t.Errorf("sequence %d token %d is %d, want %d", i, round, got, want[i][round])
			}
		}
	}
}

// TestStepAllocatesNothing: steps of a known shape cost no allocation, neither on the device
// nor, with a device that launches nothing, on the host.
func TestStepAllocatesNothing(t *testing.T) {
	for _, name := range []string{"llama-yarn", "gemma3-global", "qwen3-moe-mixed"} {
		g := readGolden(t, "testdata/golden/"+name)
		e := newEngineOf(t, os.DirFS(g.dir), g.spec, testOptions)
		in := e.input([]piece{{&sequence{slot: 0}, g.Prompt[:20], 1}, {&sequence{slot: 1}, g.Prompt[:1], 1}})
		params := []gpu.SampleParams{{Slot: 0}, {Slot: 1}}
		blocks := []int32{1, 2, 3}
		step := func() {
			if err := e.m.SetBlocks(2, 1, blocks); err != nil {
				t.Fatal(err)
			}
			logits, err := e.m.Forward(in)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := e.m.Sample(params, logits); err != nil {
				t.Fatal(err)
			}
		}
		step()
		before := e.dev.Memory()
		step()
		if after := e.dev.Memory(); after != before {
			t.Errorf("%s: device memory went from %+v to %+v", name, before, after)
		}
		e.m.dev = idleDevice{e.dev}
		if n := testing.AllocsPerRun(50, step); n != 0 {
			t.Errorf("%s: %v host allocations per step, want 0", name, n)
		}
	}
}

// idleDevice executes nothing, which leaves the model's own cost.
type idleDevice struct{ gpu.Device }

func (idleDevice) Launch(gpu.Op, any) error { return nil }
