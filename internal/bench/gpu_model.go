package bench

import (
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"slices"
	"time"
	"unsafe"

	"github.com/troupe-engine/troupe/actors/compute/model"
	"github.com/troupe-engine/troupe/gpu"
)

const (
	gpuBlockSize  = 16
	gpuStepTokens = 2048 // of the prefills before a decode
	gpuWarmSteps  = 8    // decode steps before the first measured one
	gpuWeightSeed = 1
)

// gpuModel is a model that is driven as the engine drives it, with nothing in between: every sequence owns
// its blocks from the start.
type gpuModel struct {
	*gpuBench
	m      *model.Model
	name   string
	blocks int // of a sequence, in the current measurement
	input  model.StepInput
}

// load draws a model that has room for all measurements.
func (b *gpuBench) load(name string, files fs.FS, spec *model.Spec) (*model.Model, error) {
	began := time.Now()
	seed := uint64(gpuWeightSeed)
	prompt, batch := 1, 1
	if len(b.cfg.Prompts) > 0 {
		prompt = slices.Max(b.cfg.Prompts)
	}
	if len(b.cfg.Batches) > 0 {
		batch = slices.Max(b.cfg.Batches)
	}
	context := max(prompt, b.cfg.Contexts+b.cfg.Steps+gpuWarmSteps)
	blocks := max(blocksOf(prompt), batch*blocksOf(b.cfg.Contexts+b.cfg.Steps+gpuWarmSteps))
	m, err := model.Load(b.dev, files, model.Options{SequencesMax: batch, TokensPerStepMax: max(prompt, gpuStepTokens, batch),
		ContextMax: min(context, spec.ContextMax), BlockSize: gpuBlockSize, KVBlocks: blocks, RandomSeed: &seed, RandomType: b.cfg.Weights}, nil)
	if err == nil {
		err = b.dev.Sync()
	}
	if err != nil {
		return nil, err
	}
	took := time.Since(began).Seconds()
	b.r.Loads = append(b.r.Loads, GPULoad{Shape: name, Parameters: m.Parameters(), Seconds: took})
	b.note("%s: %.2f billion parameters drawn in %.1f s", name, float64(m.Parameters())/1e9, took)
	return m, nil
}

func blocksOf(tokens int) int { return (tokens + gpuBlockSize - 1) / gpuBlockSize }

// own gives each of n sequences the blocks for so many tokens.
func (d *gpuModel) own(n, tokens int) error {
	d.blocks = blocksOf(tokens)
	list := make([]int32, d.blocks)
	for s := range n {
		for i := range list {
			list[i] = int32(s*d.blocks + i)
		}
		if err := d.m.SetBlocks(s, 0, list); err != nil {
			return err
		}
	}
	return nil
}

// begin starts a step; add appends count tokens of a sequence from a position on. With token below 0 it
// takes the newest one on the device, otherwise they follow from it at random.
func (d *gpuModel) begin() {
	in := &d.input
	in.Tokens, in.Positions, in.TokenSlots, in.SlotMapping = in.Tokens[:0], in.Positions[:0], in.TokenSlots[:0], in.SlotMapping[:0]
	in.Slots, in.LogitRows, in.QueryStart = in.Slots[:0], in.LogitRows[:0], append(in.QueryStart[:0], 0)
}

func (d *gpuModel) add(sequence, from, count int, rng *rand.Rand) {
	in := &d.input
	for p := from; p < from+count; p++ {
		token := int32(-1)
		if rng != nil {
			token = rng.Int32N(int32(d.m.Spec().VocabSize))
		}
		in.Tokens = append(in.Tokens, token)
		in.Positions = append(in.Positions, int32(p))
		in.TokenSlots = append(in.TokenSlots, int32(sequence))
		in.SlotMapping = append(in.SlotMapping, int32(sequence*d.blocks*gpuBlockSize+p))
	}
	in.Slots = append(in.Slots, int32(sequence))
	in.LogitRows = append(in.LogitRows, int32(len(in.Tokens)-1))
	in.QueryStart = append(in.QueryStart, int32(len(in.Tokens)))
}

// step runs what was added and samples a token of each sequence, greedily.
func (d *gpuModel) step() (gpu.Tensor, error) {
	logits, err := d.m.Forward(&d.input)
	if err != nil {
		return gpu.Tensor{}, err
	}
	params := make([]gpu.SampleParams, len(d.input.Slots))
	for i, slot := range d.input.Slots {
		params[i] = gpu.SampleParams{TopP: 1, Slot: slot}
	}
	return d.m.Sample(params, logits)
}

// prefill measures a prompt in one step.
func (d *gpuModel) prefill(tokens int) error {
	if tokens > d.m.Options().ContextMax {
		return nil // longer than the model was made for
	}
	if err := d.own(1, tokens); err != nil {
		return err
	}
	d.begin()
	d.add(0, 0, tokens, rand.New(rand.NewPCG(1, 1)))
	times, err := d.timed(func() error {
		_, err := d.step()
		return err
	})
	if err != nil {
		return err
	}
	d.r.Prefill = append(d.r.Prefill, d.measured(1, 0, tokens, times, d.prefillFloor(tokens)))
	d.note("%s: prefill of %d in %.1f ms", d.name, tokens, median(times)*1e3)
	return nil
}

// decode measures steps of n sequences, each of which has a context already. A step is launched before the
// tokens of the one before are read, as the engine does.
func (d *gpuModel) decode(n int) error {
	context, steps := d.cfg.Contexts, d.cfg.Steps+gpuWarmSteps
	if err := d.own(n, context+steps); err != nil {
		return err
	}
	if err := d.fill(n, context); err != nil {
		return err
	}
	times, parts, err := d.decodeSteps(n, context)
	if err != nil {
		return err
	}
	slices.Sort(times)
	mean := context + gpuWarmSteps + d.cfg.Steps/2
	m := d.measured(n, mean, n, times, d.decodeFloor(n, mean))
	m.Parts = parts
	if m.Ledger, err = d.ledger(m.Ms * 1e3); err != nil {
		return err
	}
	d.r.Decode = append(d.r.Decode, m)
	d.note("%s: %d sequences decode in %.2f ms", d.name, n, median(times)*1e3)
	return nil
}

// decodeSteps returns the seconds of each measured step, from the tokens of the one before, and where they went.
func (d *gpuModel) decodeSteps(n, context int) (times []float64, parts *GPUParts, err error) {
	ids := make([]int32, n)
	bytes := unsafe.Slice((*byte)(unsafe.Pointer(&ids[0])), 4*n)
	var prepare, launch, fetch, wait time.Duration
	var began time.Time // of the first measured step
	var before gpu.Fetched
	at := time.Now()
	for i := range gpuWarmSteps + d.cfg.Steps {
		if i == gpuWarmSteps {
			prepare, launch, fetch, wait, began = 0, 0, 0, 0, time.Now()
		}
		d.begin()
		for s := range n {
			d.add(s, context+i, 1, nil)
		}
		prepared := time.Now()
		sampled, err := d.step()
		if err != nil {
			return nil, nil, err
		}
		launched := time.Now()
		next, err := d.dev.Fetch(sampled)
		if err != nil {
			return nil, nil, err
		}
		fetched := time.Now()
		if before != nil {
			if err := before.Wait(bytes); err != nil {
				return nil, nil, err
			}
		}
		before = next
		now := time.Now()
		prepare, launch, fetch, wait = prepare+prepared.Sub(at), launch+launched.Sub(prepared), fetch+fetched.Sub(launched), wait+now.Sub(fetched)
		if i >= gpuWarmSteps {
			times = append(times, now.Sub(at).Seconds())
		}
		at = now
	}
	per := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 / float64(len(times)) }
	parts = &GPUParts{Wall: per(at.Sub(began)), Prepare: per(prepare), Launch: per(launch), Fetch: per(fetch), Wait: per(wait)}
	return times, parts, before.Wait(bytes)
}

// ledgerRest is what a step takes beyond its launches by themselves.
const ledgerRest = "the rest: sampler, gaps, less what overlaps"

// ledger times the launches of the last step by kind, on devices that can record them. The rest of the step's microseconds
// comes last.
func (d *gpuModel) ledger(step float64) ([]GPULedger, error) {
	recorder, ok := d.dev.(gpu.Recorder)
	if !ok {
		return nil, nil
	}
	type launch struct {
		op   gpu.Op
		args any
	}
	kinds := map[string][]launch{}
	var order []string
	for op, args := range d.m.Launches() {
		kind := string(op)
		if a, ok := args.(*gpu.MatMul); ok {
			kind = fmt.Sprintf("%s [%d, %d]", op, a.W.Dims[0], a.W.Dims[1])
		}
		if kinds[kind] == nil {
			order = append(order, kind)
		}
		kinds[kind] = append(kinds[kind], launch{op, args})
	}
	var list []GPULedger
	rest := step
	for _, kind := range order {
		r, err := recorder.Record(func() error {
			for _, l := range kinds[kind] {
				if err := d.dev.Launch(l.op, l.args); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		times, err := d.timed(r.Replay)
		r.Free()
		if err != nil {
			return nil, err
		}
		us := median(times) * 1e6
		list, rest = append(list, GPULedger{Kind: kind, Launches: len(kinds[kind]), Us: us}), rest-us
	}
	return append(list, GPULedger{Kind: ledgerRest, Us: rest}), nil
}

// fill computes the contexts of n sequences, several in a step.
func (d *gpuModel) fill(n, context int) error {
	rng := rand.New(rand.NewPCG(2, uint64(n)))
	perStep := max(1, d.m.Options().TokensPerStepMax/context)
	for s := 0; s < n; s += perStep {
		d.begin()
		for i := s; i < min(n, s+perStep); i++ {
			d.add(i, 0, context, rng)
		}
		if _, err := d.step(); err != nil {
			return err
		}
	}
	return d.dev.Sync()
}

func (d *gpuModel) measured(sequences, context, tokens int, sorted []float64, floor float64) GPUStep {
	at := func(q float64) float64 { return sorted[int(q*float64(len(sorted)-1))] * 1e3 }
	ms := median(sorted) * 1e3
	return GPUStep{Shape: d.name, Sequences: sequences, Context: context, Tokens: tokens, Ms: ms, P10Ms: at(0.1), P90Ms: at(0.9),
		TokensPerSecond: float64(tokens) / ms * 1e3, FloorMs: floor * 1e3, Share: floor * 1e3 / ms}
}

// matrixElements are the weights that tokens are multiplied with: all but the embedding table, unless
// that is the output projection too.
func (d *gpuModel) matrixElements() (layers, head float64) {
	s := d.m.Spec()
	head = float64(s.VocabSize) * float64(s.HiddenSize)
	layers = float64(d.m.Parameters()) - head
	if !s.TiedEmbeddings {
		layers -= head
	}
	return layers, head
}

// expertElements are the weights of one expert of each layer together.
func (d *gpuModel) expertElements() float64 {
	s := d.m.Spec()
	n := 0.0
	for _, l := range s.Layers {
		if l.MoE {
			n += 3 * float64(s.HiddenSize) * float64(l.Intermediate)
		}
	}
	return n
}

// idleExperts are those of a layer that none of some tokens chooses, as expected if each chooses at random.
func (d *gpuModel) idleExperts(tokens int) float64 {
	s := d.m.Spec()
	if s.Experts == 0 {
		return 0
	}
	all := float64(s.Experts)
	return all * math.Pow(1-float64(s.ExpertsPerToken)/all, float64(tokens))
}

// tokenElements are the weights of the layers that one token is multiplied with.
func (d *gpuModel) tokenElements() float64 {
	layers, _ := d.matrixElements()
	return layers - d.expertElements()*d.idleExperts(1)
}

// weightBytes is what all weights take that some tokens are multiplied with.
func (d *gpuModel) weightBytes(tokens int) float64 {
	layers, head := d.matrixElements()
	layers -= d.expertElements() * d.idleExperts(tokens)
	return layers*elementBytes(d.cfg.Weights) + head*elementBytes(d.m.OutputType())
}

// decodeFloor is the seconds that a decode step takes at least: weights and the contexts' keys and values
// over the copy rate, or the operations over the product rate.
func (d *gpuModel) decodeFloor(n, context int) float64 {
	_, head := d.matrixElements()
	s := d.m.Spec()
	kv := float64(s.KVBytesPerBlock(1, d.dev.Info().Compute)) * float64(context) * float64(n)
	return max((d.weightBytes(n)+kv)/d.r.CopyRate/1e9, 2*float64(n)*(d.tokenElements()+head)/d.r.ProductRate/1e12)
}

// prefillFloor is that of a prompt: the products of every token, attention over the tokens before each, and
// the logits of the last.
func (d *gpuModel) prefillFloor(tokens int) float64 {
	_, head := d.matrixElements()
	s := d.m.Spec()
	t := float64(tokens)
	attention := 4 * t * t / 2 * float64(s.QueryWidth()) * float64(len(s.Layers))
	operations := 2*t*d.tokenElements() + 2*head + attention
	return max(operations/d.r.ProductRate/1e12, d.weightBytes(tokens)/d.r.CopyRate/1e9)
}
