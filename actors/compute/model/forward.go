package model

import (
	"slices"

	"github.com/troupe-engine/troupe/gpu"
)

// scratch is the work space of one step, sized for TokensPerStepMax tokens (T below) and used
// by every layer in turn. Elements have the device's compute type unless said otherwise.
type scratch struct {
	ids       gpu.Tensor // [T] I32, this step's tokens
	residual  gpu.Tensor // [T, H]
	hidden    gpu.Tensor // [T, H], a normalized input or a block's output
	qkv       gpu.Tensor // [T, QueryWidth+2*KVWidth]
	q         gpu.Tensor // [T, QueryWidth], with k and v in place of qkv in layers whose weights are apart
	k, v      gpu.Tensor // [T, KVWidth]
	attention gpu.Tensor // [T, QueryWidth]
	gateUp    gpu.Tensor // [T, 2F]
	gated     gpu.Tensor // [T, F]

	routerLogits   gpu.Tensor // [T, E]
	experts        gpu.Tensor // [T, TopK] I32
	expertWeights  gpu.Tensor // [T, TopK] F32
	expertsGateUp  gpu.Tensor // [T*TopK, 2F]
	expertsGated   gpu.Tensor // [T*TopK, F]
	invFreq        []gpu.Tensor
	cosines, sines []gpu.Tensor // per RoPE scheme [T, D_rot/2] F32
	tokensCapacity int          // T
}

func (x *scratch) allocate(s *Spec, w *weights, o Options, compute gpu.DType, alloc func(gpu.DType, ...int) gpu.Tensor) {
	t := o.TokensPerStepMax
	x.tokensCapacity = t
	x.ids = alloc(gpu.I32, t)
	x.residual = alloc(compute, t, s.HiddenSize)
	x.hidden = alloc(compute, t, s.HiddenSize)
	if slices.ContainsFunc(w.layers, layerWeights.apart) {
		x.q = alloc(compute, t, s.QueryWidth())
		x.k = alloc(compute, t, s.KVWidth())
		x.v = alloc(compute, t, s.KVWidth())
	}
	if slices.ContainsFunc(w.layers, layerWeights.together) {
		x.qkv = alloc(compute, t, s.QueryWidth()+2*s.KVWidth())
	}
	x.attention = alloc(compute, t, s.QueryWidth())
	var dense, expert int
	for _, l := range s.Layers {
		if l.MoE {
			expert = l.Intermediate
		} else {
			dense = l.Intermediate
		}
	}
	if dense > 0 {
		x.gateUp = alloc(compute, t, 2*dense)
		x.gated = alloc(compute, t, dense)
	}
	if expert > 0 {
		x.routerLogits = alloc(compute, t, s.Experts)
		x.experts = alloc(gpu.I32, t, s.ExpertsPerToken)
		x.expertWeights = alloc(gpu.F32, t, s.ExpertsPerToken)
		x.expertsGateUp = alloc(compute, t*s.ExpertsPerToken, 2*expert)
		x.expertsGated = alloc(compute, t*s.ExpertsPerToken, expert)
	}
	for i := range s.RoPE {
		half := len(s.RoPE[i].InvFreq)
		x.cosines = append(x.cosines, alloc(gpu.F32, t, half))
		x.sines = append(x.sines, alloc(gpu.F32, t, half))
	}
}

// Forward runs one step and returns the logits of in.LogitRows, [R, V] F32, valid until the
// next Forward; the zero Tensor if none are asked for. R may be anything up to the step's
// tokens: beyond SequencesMax rows the logits buffer grows, to TokensPerStepMax*V*4 bytes at most.
//
// Every number of in is checked first; an error of a check leaves the model as it was.
func (m *Model) Forward(in *StepInput) (gpu.Tensor, error) {
	if err := in.check(m); err != nil {
		return gpu.Tensor{}, err
	}
	rows := len(in.LogitRows)
	in = m.replays.pad(m, in)
	shape := in.shape()
	if err := m.growLogits(shape.rows); err != nil {
		return gpu.Tensor{}, err
	}
	m.input.arrange(shape)
	if err := m.input.upload(m.dev, in); err != nil {
		return gpu.Tensor{}, err
	}
	if err := m.replays.run(m, shape); err != nil || rows == 0 {
		return gpu.Tensor{}, err
	}
	return m.head.logits.Slice(0, rows), nil
}

// growLogits makes room for rows of logits.
func (m *Model) growLogits(rows int) error {
	if rows > m.head.capacity {
		m.replays.drop() // they write to the old place
	}
	return m.head.grow(m, rows)
}

// launchStep launches everything from the tokens to the logits.
func (m *Model) launchStep(shape stepShape) error {
	if err := m.program.run(m.dev, shape); err != nil {
		return err
	}
	return m.head.run(m, shape.rows)
}

// compile writes the program: embeddings, then every layer.
func (m *Model) compile() {
	p, x, s := &m.program, &m.scratch, m.spec
	p.tokensCapacity = x.tokensCapacity
	p.feedTokens(x.ids, &m.input, m.lastToken)
	p.embed(x.residual, m.weights.embed, x.ids, s.EmbedScale)
	for i := range s.RoPE {
		p.ropeTable(x.cosines[i], x.sines[i], &m.input, x.invFreq[i], s.RoPE[i].Scale)
	}
	for i := range s.Layers {
		m.compileAttention(i)
		if s.Layers[i].MoE {
			m.compileExperts(i)
		} else {
			m.compileMLP(i)
		}
	}
}

// compileAttention adds residual += attention(norm(residual)) of layer i.
func (m *Model) compileAttention(i int) {
	p, x, s, w := &m.program, &m.scratch, m.spec, &m.weights.layers[i]
	cos, sin := x.cosines[s.Layers[i].RoPE], x.sines[s.Layers[i].RoPE]
	kPool, vPool := m.kPools[i], m.vPools[i]
	qWidth, kvWidth := s.QueryWidth(), s.KVWidth()

	query := x.qkv
	var write *gpu.KVWrite
	if w.apart() {
		// Weights of several types cannot be stacked: then Q, K and V are matrices of their own, and KVWrite, which takes
		// keys and values from one, fills one pool at a time.
		query = x.q
		p.rmsNorm(x.hidden, x.residual, w.attentionNorm, s)
		p.matMul(x.q, x.hidden, w.q, false)
		p.matMul(x.k, x.hidden, w.k, false)
		p.matMul(x.v, x.hidden, w.v, false)
		p.rope(&gpu.RoPE{X: x.q, Heads: s.Heads, HeadDim: s.HeadDim, Cos: cos, Sin: sin, Norm: m.headNorm(w, s.Heads)})
		p.rope(&gpu.RoPE{X: x.k, Heads: s.KVHeads, HeadDim: s.HeadDim, Cos: cos, Sin: sin, Norm: m.headNorm(w, 0)})
		p.kvWrite(&gpu.KVWrite{KV: x.k, KPool: kPool, VPool: kPool}, &m.input)
		p.kvWrite(&gpu.KVWrite{KV: x.v, KPool: vPool, VPool: vPool}, &m.input)
	} else {
		p.normMatMul(x.qkv, x.hidden, x.residual, w.attentionNorm, w.qkv, s)
		write = &gpu.KVWrite{KV: x.qkv, KColumn: qWidth, VColumn: qWidth + kvWidth, KPool: kPool, VPool: vPool,
			RoPE: &gpu.RoPE{X: x.qkv, Heads: s.Heads + s.KVHeads, HeadDim: s.HeadDim, Cos: cos, Sin: sin, Norm: m.headNorm(w, s.Heads)}}
	}
	p.attention(&gpu.Attention{
		Out: x.attention, Q: query, Heads: s.Heads, KPool: kPool, VPool: vPool,
		BlockTables: m.blockTables.Reshape(m.options.SequencesMax, m.tableColumns),
		Scale:       s.AttentionScale, SoftCap: s.AttentionSoftCap, Window: s.Layers[i].Window, Write: write,
	}, &m.input)
	m.project(x.attention, w.out, w.attentionPostNorm)
}

// headNorm is a layer's norm of heads, so many of which are queries; nil if it has none.
func (m *Model) headNorm(w *layerWeights, queries int) *gpu.HeadNorm {
	if !m.spec.QKNorm {
		return nil
	}
	return &gpu.HeadNorm{Query: w.queryNorm, Key: w.keyNorm, Queries: queries, Eps: m.spec.NormEps, Offset: m.spec.NormOffset}
}

// compileMLP adds residual += down(act(gate(x)) * up(x)), x = norm(residual), of layer i.
func (m *Model) compileMLP(i int) {
	p, x, s, w := &m.program, &m.scratch, m.spec, &m.weights.layers[i]
	p.gatedMatMul(x.gated, x.gateUp, x.hidden, x.residual, w.mlpNorm, w.gateUp, s)
	m.project(x.gated, w.down, w.mlpPostNorm)
}

// project adds residual += W*from, normalized first where the architecture has post-norms.
func (m *Model) project(from gpu.Tensor, w projection, postNorm gpu.Tensor) {
	p, x := &m.program, &m.scratch
	if !postNorm.Valid() {
		p.matMul(x.residual, from, w, true)
		return
	}
	p.matMul(x.hidden, from, w, false)
	p.rmsNorm(x.hidden, x.hidden, postNorm, m.spec)
	p.add(x.residual, x.residual, x.hidden)
}

// compileExperts adds residual += experts(norm(residual)) of layer i.
func (m *Model) compileExperts(i int) {
	p, x, s, w := &m.program, &m.scratch, m.spec, &m.weights.layers[i]
	p.rmsNorm(x.hidden, x.residual, w.mlpNorm, s)
	p.matMul(x.routerLogits, x.hidden, w.router, false)
	p.moeRoute(&gpu.MoERoute{Logits: x.routerLogits, Experts: x.experts, Weights: x.expertWeights, Normalize: s.ExpertsNormalize})
	p.moeExperts(&gpu.MoEExperts{
		Out: x.residual, X: x.hidden, GateUp: w.expertsIn, Down: w.expertsDown,
		Experts: x.experts, Weights: x.expertWeights, Act: s.Activation,
		Hidden: x.expertsGateUp, Scratch: x.expertsGated,
	})
}

// head turns the residual's chosen rows into logits. Its buffers grow to the most rows asked for.
type head struct {
	capacity int        // rows
	gathered gpu.Tensor // [capacity, H]
	logits   gpu.Tensor // [capacity, V] F32
	gather   gpu.GatherRows
	norm     gpu.RMSNorm
	project  gpu.MatMul
	softCap  gpu.SoftCap
}

// grow makes room for rows, doubling so that a rising demand reallocates rarely.
func (h *head) grow(m *Model, rows int) error {
	if rows <= h.capacity {
		return nil
	}
	rows = min(max(rows, 2*h.capacity), m.options.TokensPerStepMax)
	gathered, err := m.mem.alloc(m.dev.Info().Compute, rows, m.spec.HiddenSize)
	if err != nil {
		return err
	}
	logits, err := m.mem.alloc(gpu.F32, rows, m.spec.VocabSize)
	if err != nil {
		m.mem.free(gathered)
		return err
	}
	if h.capacity > 0 {
		m.mem.free(h.gathered)
		m.mem.free(h.logits)
	}
	h.capacity, h.gathered, h.logits = rows, gathered, logits
	return nil
}

func (h *head) run(m *Model, rows int) error {
	if rows == 0 {
		return nil
	}
	s := m.spec
	x, logits := h.gathered.Slice(0, rows), h.logits.Slice(0, rows)
	h.gather = gpu.GatherRows{Out: x, X: m.scratch.residual, Rows: m.input.logitRows}
	h.norm = gpu.RMSNorm{Out: x, X: x, Weight: m.weights.finalNorm, Eps: s.NormEps, Offset: s.NormOffset}
	h.project = gpu.MatMul{Out: logits, X: x, W: m.weights.output, Norm: &h.norm}
	if err := m.dev.Launch(gpu.OpGatherRows, &h.gather); err != nil {
		return err
	}
	if err := m.dev.Launch(gpu.OpMatMul, &h.project); err != nil || s.LogitSoftCap == 0 {
		return err
	}
	h.softCap = gpu.SoftCap{X: logits, Cap: s.LogitSoftCap}
	return m.dev.Launch(gpu.OpSoftCap, &h.softCap)
}
