package model

import (
	"encoding/binary"
	"fmt"

	"github.com/troupe-engine/troupe/gpu"
)

// StepInput is one step's work in host memory: T tokens of S sequences, concatenated, each
// sequence's tokens together and in order.
type StepInput struct {
	Tokens      []int32 // [T] ids; -1 takes the newest token of the slot, sampled by an earlier step
	Positions   []int32 // [T] position in the sequence
	TokenSlots  []int32 // [T] slot of each token's sequence
	SlotMapping []int32 // [T] where its keys go: block*BlockSize + offset in the block; -1 nowhere
	Slots       []int32 // [S] slot of each sequence
	QueryStart  []int32 // [S+1] sequence s owns tokens [QueryStart[s], QueryStart[s+1])
	LogitRows   []int32 // [R] tokens whose logits are wanted
}

// stepShape is what a compiled step depends on.
type stepShape struct {
	tokens, sequences, rows int
	contextMax, queryMax    int // bounds on positions and on tokens of a sequence: see gpu.Attention
}

// contextStep is the least bound on positions; the others are its doubles, so that few shapes differ.
const contextStep = 512

// shape returns what a step that was checked depends on.
func (in *StepInput) shape() stepShape {
	s := stepShape{tokens: len(in.Tokens), sequences: len(in.Slots), rows: len(in.LogitRows), contextMax: contextStep}
	for _, p := range in.Positions {
		for s.contextMax <= int(p) {
			s.contextMax *= 2
		}
	}
	for i := range in.Slots {
		s.queryMax = max(s.queryMax, int(in.QueryStart[i+1]-in.QueryStart[i]))
	}
	return s
}

// check holds every number to its range, so that no kernel reads outside its buffers.
func (in *StepInput) check(m *Model) error {
	o := m.options
	tokens, sequences := len(in.Tokens), len(in.Slots)
	if tokens < 1 || tokens > o.TokensPerStepMax {
		return fmt.Errorf("model: StepInput has %d tokens, want 1..%d", tokens, o.TokensPerStepMax)
	}
	if sequences < 1 || sequences > o.SequencesMax {
		return fmt.Errorf("model: StepInput.Slots has %d sequences, want 1..%d", sequences, o.SequencesMax)
	}
	for _, f := range [...]struct {
		name      string
		values    []int32
		n         int
		low, high int
	}{
		{"Tokens", in.Tokens, tokens, -1, m.spec.VocabSize - 1},
		{"Positions", in.Positions, tokens, 0, o.ContextMax - 1},
		{"TokenSlots", in.TokenSlots, tokens, 0, o.SequencesMax - 1},
		{"SlotMapping", in.SlotMapping, tokens, -1, o.KVBlocks*o.BlockSize - 1},
		{"Slots", in.Slots, sequences, 0, o.SequencesMax - 1},
		{"QueryStart", in.QueryStart, sequences + 1, 0, tokens},
		{"LogitRows", in.LogitRows, min(len(in.LogitRows), tokens), 0, tokens - 1},
	} {
		if len(f.values) != f.n {
			return fmt.Errorf("model: StepInput.%s has %d entries, want %d", f.name, len(f.values), f.n)
		}
		for i, v := range f.values {
			if int(v) < f.low || int(v) > f.high {
				return fmt.Errorf("model: StepInput.%s[%d] is %d, want %d..%d", f.name, i, v, f.low, f.high)
			}
		}
	}
	return in.checkSequences()
}

// checkSequences requires QueryStart to divide the tokens and TokenSlots to agree with it.
func (in *StepInput) checkSequences() error {
	last := len(in.Slots)
	if in.QueryStart[0] != 0 || int(in.QueryStart[last]) != len(in.Tokens) {
		return fmt.Errorf("model: StepInput.QueryStart runs from %d to %d, want 0 to %d", in.QueryStart[0], in.QueryStart[last], len(in.Tokens))
	}
	for s, slot := range in.Slots {
		from, to := in.QueryStart[s], in.QueryStart[s+1]
		if from >= to {
			return fmt.Errorf("model: StepInput.QueryStart[%d] is %d after %d: sequence %d has no token", s+1, to, from, s)
		}
		for t := from; t < to; t++ {
			if in.TokenSlots[t] != slot {
				return fmt.Errorf("model: StepInput.TokenSlots[%d] is %d, but the token belongs to slot %d", t, in.TokenSlots[t], slot)
			}
		}
	}
	return nil
}

// input is the device's copy of a StepInput: one buffer, so that a step needs one upload. The
// vectors lie end to end, each as long as this step needs, and the views follow.
type input struct {
	buffer  gpu.Tensor // I32
	staging []byte

	tokens, positions, tokenSlots, slotMapping gpu.Tensor // [T]
	slots                                      gpu.Tensor // [S]
	queryStart                                 gpu.Tensor // [S+1]
	logitRows                                  gpu.Tensor // [R]
}

func (in *input) allocate(o Options, alloc func(gpu.DType, ...int) gpu.Tensor) {
	n := 5*o.TokensPerStepMax + 2*o.SequencesMax + 1
	in.buffer = alloc(gpu.I32, n)
	in.staging = make([]byte, 0, 4*n)
}

// arrange lays the views out for a step's shape.
func (in *input) arrange(shape stepShape) {
	at := 0
	next := func(n int) gpu.Tensor {
		at += n
		return in.buffer.Slice(at-n, at)
	}
	in.tokens, in.positions = next(shape.tokens), next(shape.tokens)
	in.tokenSlots, in.slotMapping = next(shape.tokens), next(shape.tokens)
	in.slots = next(shape.sequences)
	in.queryStart = next(shape.sequences + 1)
	in.logitRows = next(shape.rows)
}

// upload copies step to the device, in the order of arrange.
func (in *input) upload(dev gpu.Device, step *StepInput) error {
	b := in.staging[:0]
	for _, v := range [...][]int32{step.Tokens, step.Positions, step.TokenSlots, step.SlotMapping, step.Slots, step.QueryStart, step.LogitRows} {
		for _, x := range v {
			b = binary.LittleEndian.AppendUint32(b, uint32(x))
		}
	}
	in.staging = b
	return dev.Upload(in.buffer.Slice(0, len(b)/4), b)
}
