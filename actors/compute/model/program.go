package model

import (
	"iter"

	"github.com/troupe-engine/troupe/gpu"
)

// program is a step as a list of launches, written once when the model is loaded. Between
// steps only row counts and the places of the inputs change, so a step of the same shape as
// the one before it launches the same arguments again and allocates nothing.
type program struct {
	launches       []launch
	rows           []*gpu.Tensor // scratch tensors in arguments, whose first dimension follows the tokens
	rowsPerToken   []int         // of each of rows
	inputs         []inputRef
	attentions     []*gpu.Attention
	tokensCapacity int // tokens that the scratch tensors were allocated for
	bound          stepShape
}

type launch struct {
	op   gpu.Op
	args any
}

// inputRef is a tensor in an argument that names a step input.
type inputRef struct{ at, from *gpu.Tensor }

// run launches everything for a step of the given shape.
func (p *program) run(dev gpu.Device, shape stepShape) error {
	if shape != p.bound {
		for i, t := range p.rows {
			t.Dims[0] = shape.tokens * p.rowsPerToken[i]
		}
		for _, r := range p.inputs {
			*r.at = *r.from
		}
		for _, a := range p.attentions {
			a.ContextMax, a.QueryMax = shape.contextMax, shape.queryMax
		}
		p.bound = shape
	}
	for i := range p.launches {
		if err := dev.Launch(p.launches[i].op, p.launches[i].args); err != nil {
			return err
		}
	}
	return nil
}

// Launches yields what the last Forward launched, from the tokens to the logits: for measurements of a
// step's parts. The arguments are valid until the next Forward.
func (m *Model) Launches() iter.Seq2[gpu.Op, any] {
	return func(yield func(gpu.Op, any) bool) {
		for _, l := range m.program.launches {
			if !yield(l.op, l.args) {
				return
			}
		}
		_ = yield(gpu.OpGatherRows, &m.head.gather) && yield(gpu.OpMatMul, &m.head.project)
	}
}

// launch appends an op whose arguments include the given scratch tensors.
func (p *program) launch(op gpu.Op, args any, scratch ...*gpu.Tensor) {
	p.launches = append(p.launches, launch{op, args})
	p.follow(scratch...)
}

// follow says that scratch tensors in arguments have as many rows as the step's tokens ask for.
func (p *program) follow(scratch ...*gpu.Tensor) {
	for _, t := range scratch {
		p.rows = append(p.rows, t)
		p.rowsPerToken = append(p.rowsPerToken, t.Dims[0]/p.tokensCapacity)
	}
}

// input says that the tensor at, in an argument, is the step input from.
func (p *program) input(at, from *gpu.Tensor) { p.inputs = append(p.inputs, inputRef{at, from}) }

func (p *program) feedTokens(out gpu.Tensor, in *input, last gpu.Tensor) {
	a := &gpu.FeedTokens{Out: out, LastToken: last}
	p.launch(gpu.OpFeedTokens, a, &a.Out)
	p.input(&a.Tokens, &in.tokens)
	p.input(&a.Slots, &in.tokenSlots)
}

func (p *program) embed(out, table, ids gpu.Tensor, scale float32) {
	a := &gpu.Embed{Out: out, Table: table, IDs: ids, Scale: scale}
	p.launch(gpu.OpEmbed, a, &a.Out, &a.IDs)
}

func (p *program) ropeTable(cos, sin gpu.Tensor, in *input, invFreq gpu.Tensor, scale float32) {
	a := &gpu.RoPETable{Cos: cos, Sin: sin, InvFreq: invFreq, Scale: scale}
	p.launch(gpu.OpRoPETable, a, &a.Cos, &a.Sin)
	p.input(&a.Positions, &in.positions)
}

func (p *program) rmsNorm(out, x, weight gpu.Tensor, s *Spec) {
	a := &gpu.RMSNorm{Out: out, X: x, Weight: weight, Eps: s.NormEps, Offset: s.NormOffset}
	p.launch(gpu.OpRMSNorm, a, &a.Out, &a.X)
}

func (p *program) matMul(out, x gpu.Tensor, w projection, accumulate bool) {
	a := &gpu.MatMul{Out: out, X: x, W: w.w, Bias: w.bias, Accumulate: accumulate}
	p.launch(gpu.OpMatMul, a, &a.Out, &a.X)
}

// normMatMul: out = W * rmsnorm(from); normed is room for the norm alone, and useless afterwards.
func (p *program) normMatMul(out, normed, from, weight gpu.Tensor, w projection, s *Spec) {
	norm := &gpu.RMSNorm{Out: normed, X: from, Weight: weight, Eps: s.NormEps, Offset: s.NormOffset}
	a := &gpu.MatMul{Out: out, X: normed, W: w.w, Bias: w.bias, Norm: norm}
	p.launch(gpu.OpMatMul, a, &a.Out, &a.X, &norm.Out, &norm.X)
}

// gatedMatMul: out = act(gate) * up, [gate | up] = W * rmsnorm(from); normed and gateUp are room that is
// useless afterwards.
func (p *program) gatedMatMul(out, gateUp, normed, from, weight gpu.Tensor, w projection, s *Spec) {
	norm := &gpu.RMSNorm{Out: normed, X: from, Weight: weight, Eps: s.NormEps, Offset: s.NormOffset}
	gate := &gpu.ActMul{Out: out, X: gateUp, Act: s.Activation}
	a := &gpu.MatMul{Out: gateUp, X: normed, W: w.w, Bias: w.bias, Norm: norm, Gate: gate}
	p.launch(gpu.OpMatMul, a, &a.Out, &a.X, &norm.Out, &norm.X, &gate.Out, &gate.X)
}

func (p *program) rope(a *gpu.RoPE) {
	p.launch(gpu.OpRoPE, a, &a.X, &a.Cos, &a.Sin)
}

func (p *program) kvWrite(a *gpu.KVWrite, in *input) {
	p.launch(gpu.OpKVWrite, a)
	p.followWrite(a, in)
}

func (p *program) followWrite(a *gpu.KVWrite, in *input) {
	p.follow(&a.KV)
	if r := a.RoPE; r != nil {
		p.follow(&r.X, &r.Cos, &r.Sin)
	}
	p.input(&a.SlotMapping, &in.slotMapping)
}

func (p *program) attention(a *gpu.Attention, in *input) {
	p.launch(gpu.OpAttention, a, &a.Out, &a.Q)
	p.attentions = append(p.attentions, a)
	if a.Write != nil {
		p.followWrite(a.Write, in)
	}
	p.input(&a.Slots, &in.slots)
	p.input(&a.QueryStart, &in.queryStart)
	p.input(&a.Positions, &in.positions)
}

func (p *program) add(out, x, y gpu.Tensor) {
	a := &gpu.Add{Out: out, A: x, B: y}
	p.launch(gpu.OpAdd, a, &a.Out, &a.A, &a.B)
}

func (p *program) moeRoute(a *gpu.MoERoute) {
	p.launch(gpu.OpMoERoute, a, &a.Logits, &a.Experts, &a.Weights)
}

func (p *program) moeExperts(a *gpu.MoEExperts) {
	p.launch(gpu.OpMoEExperts, a, &a.Out, &a.X, &a.Experts, &a.Weights, &a.Hidden, &a.Scratch)
}
