package model

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/internal/gguf"
)

// weights are a checkpoint's tensors on the device. Zero tensors are absent parts.
type weights struct {
	embed     gpu.Tensor // [V, H]
	finalNorm gpu.Tensor // [H] F32
	output    gpu.Tensor // packed [V, H]
	layers    []layerWeights
}

type layerWeights struct {
	attentionNorm, mlpNorm         gpu.Tensor // [H] F32, before each block
	attentionPostNorm, mlpPostNorm gpu.Tensor // [H] F32, after each block (Gemma)

	qkv projection // [QueryWidth+2*KVWidth, H]; where they are of several types, q, k and v are apart
	q   projection // [QueryWidth, H]
	k   projection // [KVWidth, H]
	v   projection // [KVWidth, H]
	out projection // [H, QueryWidth]

	queryNorm, keyNorm gpu.Tensor // [D] F32

	gateUp projection // [2F, H]
	down   projection // [H, F]

	router      projection   // [E, H]
	expertsIn   []gpu.Tensor // per expert, packed [2F, H]
	expertsDown []gpu.Tensor // per expert, packed [H, F]
}

// apart reports whether queries, keys and values have matrices of their own, together whether they share one.
func (w layerWeights) apart() bool    { return w.v.w.Valid() }
func (w layerWeights) together() bool { return w.qkv.w.Valid() }

// projection is a packed weight matrix [N, K] and its bias [N] F32, or no bias.
type projection struct{ w, bias gpu.Tensor }

// loader copies tensors from a checkpoint to the device. The first error sticks: later calls
// do nothing, so that the code that names the tensors reads as a list.
type loader struct {
	mem        *memory
	file       source
	random     *drawnWeights // instead of file, or nil
	quantize   string        // Options.Quantize
	refused    map[gpu.DType]bool
	spec       *Spec
	used       map[string]bool
	done       int64 // bytes
	parameters int64 // elements of the tensors used, each counted once
	widened    []Widened
	common     []gpu.DType // what experts' matrices are limited to, or nil
	progress   func(done, total int64)
	err        error
}

// part is a tensor by name with the rows it must have.
type part struct {
	name string
	rows int
}

// load reads everything the Spec calls for and returns it with the names of the tensors that
// nothing called for.
func (l *loader) load() (weights, []string, error) {
	s := l.spec
	w := weights{
		embed:     l.table("model.embed_tokens.weight", s.VocabSize, s.HiddenSize),
		finalNorm: l.vector(part{"model.norm.weight", s.HiddenSize}),
		layers:    make([]layerWeights, len(s.Layers)),
	}
	outputName := "lm_head.weight"
	if s.TiedEmbeddings {
		outputName = "model.embed_tokens.weight"
	}
	if s.TiedEmbeddings && w.embed.Packed { // one copy serves both
		w.output = w.embed
	} else {
		w.output = l.stacked(s.HiddenSize, output, part{outputName, s.VocabSize})
	}
	for i := range w.layers {
		l.layer(&w.layers[i], fmt.Sprintf("model.layers.%d.", i), s.Layers[i])
	}
	if l.err != nil {
		return weights{}, nil, l.err
	}
	var unused []string
	for _, name := range l.file.Names() {
		if !l.used[name] && !strings.HasSuffix(name, "rotary_emb.inv_freq") {
			unused = append(unused, name)
		}
	}
	if l.progress != nil {
		l.progress(l.file.Bytes(), l.file.Bytes())
	}
	return w, unused, nil
}

func (l *loader) layer(w *layerWeights, prefix string, layer LayerSpec) {
	s := l.spec
	hidden, qWidth, kvWidth := s.HiddenSize, s.QueryWidth(), s.KVWidth()
	norm := func(name string) gpu.Tensor { return l.vector(part{prefix + name + ".weight", hidden}) }
	w.attentionNorm = norm("input_layernorm")
	if s.PostNorms {
		w.attentionPostNorm = norm("post_attention_layernorm")
		w.mlpNorm = norm("pre_feedforward_layernorm")
		w.mlpPostNorm = norm("post_feedforward_layernorm")
	} else {
		w.mlpNorm = norm("post_attention_layernorm")
	}
	attention := prefix + "self_attn."
	q, k, v := part{attention + "q_proj", qWidth}, part{attention + "k_proj", kvWidth}, part{attention + "v_proj", kvWidth}
	switch {
	case s.FusedProjections:
		w.qkv = l.projection(hidden, s.QKVBias, part{attention + "qkv_proj", qWidth + 2*kvWidth})
	case l.stackable(hidden, q, k, v):
		w.qkv = l.projection(hidden, s.QKVBias, q, k, v)
	default:
		w.q = l.projection(hidden, s.QKVBias, q)
		w.k = l.projection(hidden, s.QKVBias, k)
		w.v = l.projectionFor(values, hidden, s.QKVBias, v)
	}
	if s.QKNorm {
		w.queryNorm = l.vector(part{attention + "q_norm.weight", s.HeadDim})
		w.keyNorm = l.vector(part{attention + "k_norm.weight", s.HeadDim})
	}
	w.out = l.projection(qWidth, s.OutputBias, part{attention + "o_proj", hidden})
	if layer.MoE {
		l.experts(w, prefix, layer.Intermediate)
		return
	}
	mlp := prefix + "mlp."
	if s.FusedProjections {
		w.gateUp = l.projection(hidden, s.MLPBias, part{mlp + "gate_up_proj", 2 * layer.Intermediate})
	} else {
		w.gateUp = l.projection(hidden, s.MLPBias, part{mlp + "gate_proj", layer.Intermediate}, part{mlp + "up_proj", layer.Intermediate})
	}
	w.down = l.projection(layer.Intermediate, s.MLPBias, part{mlp + "down_proj", hidden})
}

func (l *loader) experts(w *layerWeights, prefix string, width int) {
	s := l.spec
	w.router.w = l.stacked(s.HiddenSize, routing, part{prefix + s.experts.router, s.Experts})
	var in, down [][]part // of each expert
	for e := range s.Experts {
		name := func(format string) string { return prefix + fmt.Sprintf(format, e) }
		in = append(in, []part{{name(s.experts.gate), width}, {name(s.experts.up), width}})
		down = append(down, []part{{name(s.experts.down), s.HiddenSize}})
	}
	commonIn, commonDown := l.commonLayouts(s.HiddenSize, in), l.commonLayouts(width, down)
	if l.err == nil {
		commonIn, commonDown = besideQuantized(commonIn, commonDown, l.mem.dev.Info().Compute)
	}
	for e := range s.Experts {
		l.common = commonIn
		w.expertsIn = append(w.expertsIn, l.stacked(s.HiddenSize, expert, in[e]...))
		l.common = commonDown
		w.expertsDown = append(w.expertsDown, l.stacked(width, expert, down[e]...))
	}
	l.common = nil
}

// besideQuantized leaves plain layouts only the type that a device computes in where the other matrices of the experts would be
// quantized: it multiplies no others together.
func besideQuantized(in, down []gpu.DType, compute gpu.DType) (theIn, theDown []gpu.DType) {
	if len(in) == 0 || len(down) == 0 || in[0].Quantized() == down[0].Quantized() {
		return in, down
	}
	other := func(dtype gpu.DType) bool { return !dtype.Quantized() && dtype != compute }
	return slices.DeleteFunc(in, other), slices.DeleteFunc(down, other)
}

// commonLayouts are those that all experts' matrices can have, each made of parts, where the device takes experts of one type alone:
// a single expert may be stored otherwise than the rest, or have a scale that a type cannot hold. Elsewhere they are nil.
func (l *loader) commonLayouts(k int, experts [][]part) (common []gpu.DType) {
	info := l.mem.dev.Info()
	if l.random != nil || !info.ExpertsAlike {
		return nil
	}
	for e, parts := range experts {
		var tensors []tensor
		for _, p := range parts {
			tensors = append(tensors, l.view(p.name, p.rows, k))
		}
		if l.err != nil {
			return nil
		}
		if list := l.layouts(k, expert, tensors); e == 0 {
			common = list
		} else {
			common = slices.DeleteFunc(common, func(dtype gpu.DType) bool { return !slices.Contains(list, dtype) })
		}
	}
	if len(common) == 0 {
		return []gpu.DType{info.Compute}
	}
	return common
}

// stackable reports whether queries', keys' and values' projections get the same type, so that one matrix holds them.
func (l *loader) stackable(hidden int, q, k, v part) bool {
	if l.random != nil {
		return true
	}
	first := func(purpose use, p part) gpu.DType {
		t := l.view(p.name+".weight", p.rows, hidden)
		if l.err != nil {
			return 0
		}
		return l.layouts(hidden, purpose, []tensor{t})[0]
	}
	value := first(values, v)
	return first(multiplied, q) == value && first(multiplied, k) == value
}

// projection loads NAME.weight of every part, stacked, and NAME.bias where there is one.
func (l *loader) projection(k int, bias bool, parts ...part) projection {
	return l.projectionFor(multiplied, k, bias, parts...)
}

func (l *loader) projectionFor(purpose use, k int, bias bool, parts ...part) projection {
	weights, biases := slices.Clone(parts), slices.Clone(parts)
	for i := range parts {
		weights[i].name += ".weight"
		biases[i].name += ".bias"
	}
	p := projection{w: l.stacked(k, purpose, weights...)}
	if bias {
		p.bias = l.vector(biases...)
	}
	return p
}

// table loads the embeddings.
func (l *loader) table(name string, n, k int) gpu.Tensor {
	return l.stacked(k, embedding, part{name, n})
}

// stacked loads the parts, each [rows, k], as one matrix.
func (l *loader) stacked(k int, purpose use, parts ...part) gpu.Tensor {
	if l.random != nil {
		return l.randomMatrix(purpose, k, parts...)
	}
	n := 0
	tensors := make([]tensor, 0, len(parts))
	for _, p := range parts {
		tensors = append(tensors, l.view(p.name, p.rows, k))
		n += p.rows
	}
	if l.err != nil {
		return gpu.Tensor{}
	}
	t, err := l.place(parts[0].name, n, k, purpose, tensors)
	for i := range tensors {
		tensors[i].forget() // the device has its copy
	}
	l.finish(err, parts)
	return t
}

// vector uploads the parts, each [rows], end to end as F32.
func (l *loader) vector(parts ...part) gpu.Tensor {
	if l.random != nil {
		return l.randomVector(parts...)
	}
	var data []byte
	n := 0
	for _, p := range parts {
		v := l.view(p.name, p.rows)
		if l.err != nil {
			return gpu.Tensor{}
		}
		wide, err := l.convert(v.Tensor, gguf.F32, p.rows)
		if err != nil {
			l.finish(err, parts)
			return gpu.Tensor{}
		}
		data = append(data, wide...)
		n += p.rows
	}
	t, err := l.mem.alloc(gpu.F32, n)
	if err == nil {
		err = l.mem.dev.Upload(t, data)
	}
	l.finish(err, parts)
	return t
}

// view returns the tensor called name, which must have the given shape.
func (l *loader) view(name string, shape ...int) tensor {
	if l.err != nil {
		return tensor{}
	}
	v, err := l.read(name)
	if err != nil {
		hint := ""
		if name == "lm_head.weight" {
			hint = ` (if the output projection is the embedding table, config.json needs "tie_word_embeddings": true)`
		}
		l.err = fmt.Errorf("model: %s needs tensor %q of shape %v: %w%s", l.spec.Architecture, name, shape, err, hint)
		return tensor{}
	}
	if !slices.Equal(v.Shape, shape) {
		l.err = fmt.Errorf("model: %s: tensor %q has shape %v, but config.json makes it %v", l.file.Origin(name), name, v.Shape, shape)
		return tensor{}
	}
	if !l.used[name] { // a tied output projection reads the embedding table again
		l.done += int64(v.bytes())
		l.parameters += int64(v.elements())
	}
	l.used[name] = true
	return v
}

// finish records a device's error about parts, or reports progress.
func (l *loader) finish(err error, parts []part) {
	if err != nil {
		l.err = errors.Join(l.err, fmt.Errorf("model: loading tensor %q: %w", parts[0].name, err))
		return
	}
	if l.progress != nil {
		l.progress(l.done, l.file.Bytes())
	}
}
