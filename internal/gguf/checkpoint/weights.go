package checkpoint

import (
	"encoding/binary"
	"fmt"
	"io/fs"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/troupe-engine/troupe/internal/gguf"
	"github.com/troupe-engine/troupe/internal/mmap"
)

// Tensor is one tensor as a safetensors checkpoint would have it, but for its type. Data is read-only and
// valid until the Weights are closed.
type Tensor struct {
	Type  gguf.Type
	Shape []int  // outermost first
	Data  []byte // row-major blocks
}

// Weights finds a GGUF file's tensors by their names in a safetensors checkpoint.
type Weights struct {
	file    *gguf.File
	family  family
	heads   int // query heads
	kvHeads int
	names   []string
	origin  map[string]source
}

// source is where a tensor comes from.
type source struct {
	name   string
	expert int // the slice of a stack of experts, or -1
}

// outside is how GGUF calls the tensors that belong to no layer.
var outside = map[string]string{
	"token_embd.weight":  "model.embed_tokens.weight",
	"output_norm.weight": "model.norm.weight",
	"output.weight":      "lm_head.weight",
}

// derived are tensors that config.json already accounts for.
var derived = []string{"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"}

// Open opens the GGUF file called name in files.
func Open(files fs.FS, name string) (*Weights, error) {
	f, err := gguf.OpenFS(files, name)
	if err != nil {
		return nil, err
	}
	w, err := newWeights(f)
	if err != nil {
		f.Close()
		return nil, err
	}
	return w, nil
}

func newWeights(f *gguf.File) (*Weights, error) {
	if isArchive(f) {
		w := &Weights{file: f, origin: map[string]source{}}
		for _, t := range f.Tensors() {
			w.add(t.Name, source{t.Name, -1})
		}
		return w, nil
	}
	arch, fam, err := familyOf(f)
	if err != nil {
		return nil, err
	}
	m := &metadata{file: f, arch: arch}
	w := &Weights{file: f, family: fam, origin: map[string]source{}}
	w.heads = m.required(".attention.head_count")
	w.kvHeads = m.integer(".attention.head_count_kv", w.heads)
	if err := m.err(); err != nil {
		return nil, err
	}
	mixtral := arch == "llama"
	for _, t := range f.Tensors() {
		if slices.Contains(derived, t.Name) {
			continue
		}
		layer, part, inLayer := layerOf(t.Name)
		if !inLayer {
			name, ok := outside[t.Name]
			if !ok {
				name = t.Name
			}
			w.add(name, source{t.Name, -1})
			continue
		}
		prefix := "model.layers." + layer + "."
		if pattern, ok := expertNames(part, mixtral); ok && len(t.Dims) == 3 && t.Dims[2] <= expertsMax {
			for e := range t.Dims[2] {
				w.add(prefix+fmt.Sprintf(pattern, e), source{t.Name, e})
			}
			continue
		}
		w.add(prefix+fam.partName(part, mixtral), source{t.Name, -1})
	}
	return w, nil
}

const expertsMax = 1 << 10

func (w *Weights) add(name string, s source) {
	if _, twice := w.origin[name]; !twice { // an odd file's second tensor of a name stays unused
		w.names = append(w.names, name)
		w.origin[name] = s
	}
}

// layerOf splits "blk.12.attn_q.weight" into "12" and "attn_q.weight".
func layerOf(name string) (layer, part string, ok bool) {
	rest, ok := strings.CutPrefix(name, "blk.")
	if !ok {
		return "", "", false
	}
	layer, part, ok = strings.Cut(rest, ".")
	if _, err := strconv.ParseUint(layer, 10, 16); err != nil {
		return "", "", false
	}
	return layer, part, ok
}

// expertNames returns the pattern of the tensors in a stack of experts.
func expertNames(part string, mixtral bool) (string, bool) {
	names := map[string]string{"ffn_gate_exps.weight": "gate_proj", "ffn_up_exps.weight": "up_proj", "ffn_down_exps.weight": "down_proj"}
	prefix := "mlp.experts.%d."
	if mixtral {
		names = map[string]string{"ffn_gate_exps.weight": "w1", "ffn_up_exps.weight": "w3", "ffn_down_exps.weight": "w2"}
		prefix = "block_sparse_moe.experts.%d."
	}
	name, ok := names[part]
	return prefix + name + ".weight", ok
}

// partName translates a tensor's name within its layer; one without translation keeps its own.
func (fam family) partName(part string, mixtral bool) string {
	name, kind, _ := strings.Cut(part, ".")
	switch name {
	case "attn_norm":
		name = "input_layernorm"
	case "attn_q", "attn_k", "attn_v", "attn_qkv":
		name = "self_attn." + strings.TrimPrefix(name, "attn_") + "_proj"
	case "attn_output":
		name = "self_attn.o_proj"
	case "attn_q_norm", "attn_k_norm":
		name = "self_attn." + strings.TrimPrefix(name, "attn_")
	case "post_attention_norm":
		name = "post_attention_layernorm"
	case "post_ffw_norm":
		name = "post_feedforward_layernorm"
	case "ffn_norm":
		name = "post_attention_layernorm"
		if fam.postNorms {
			name = "pre_feedforward_layernorm"
		}
	case "ffn_gate", "ffn_down":
		name = "mlp." + strings.TrimPrefix(name, "ffn_") + "_proj"
	case "ffn_up":
		name = "mlp.up_proj"
		if fam.fused {
			name = "mlp.gate_up_proj"
		}
	case "ffn_gate_inp":
		name = "mlp.gate"
		if mixtral {
			name = "block_sparse_moe.gate"
		}
	default:
		return part
	}
	return name + "." + kind
}

// Names returns every tensor's name. The caller must not modify it.
func (w *Weights) Names() []string { return w.names }

// Bytes returns the size of all tensors together.
func (w *Weights) Bytes() int64 { return w.file.Bytes() }

// Origin returns where the tensor called name is stored, for messages.
func (w *Weights) Origin(name string) string {
	if s, ok := w.origin[name]; ok {
		return w.file.Label() + " (" + s.name + ")"
	}
	return w.file.Label()
}

// Close unmaps the file.
func (w *Weights) Close() error { return w.file.Close() }

// Tensor returns the tensor called name. A scale of it that is not finite is an error.
func (w *Weights) Tensor(name string) (Tensor, error) {
	s, ok := w.origin[name]
	if !ok {
		return Tensor{}, fmt.Errorf("gguf: %s has no tensor %q", w.file.Label(), clip(name))
	}
	raw, err := w.file.Tensor(s.name)
	if err != nil {
		return Tensor{}, err
	}
	t := Tensor{Type: raw.Type, Shape: slices.Clone(raw.Dims), Data: raw.Data}
	slices.Reverse(t.Shape)
	if s.expert >= 0 {
		size := len(t.Data) / t.Shape[0]
		t.Data, t.Shape = t.Data[s.expert*size:][:size], t.Shape[1:]
	}
	if err := gguf.CheckScales(t.Type, t.Data); err != nil {
		return Tensor{}, fmt.Errorf("gguf: %s: tensor %q: %w", w.file.Label(), clip(s.name), err)
	}
	switch {
	case w.family.shifted && strings.HasSuffix(s.name, "norm.weight"):
		return unshift(t), nil
	case w.family.permuted && strings.Contains(name, ".q_proj."):
		return w.untangle(t, w.heads, s.name)
	case w.family.permuted && strings.Contains(name, ".k_proj."):
		return w.untangle(t, w.kvHeads, s.name)
	}
	return t, nil
}

// unshift subtracts the 1 that converters add to Gemma's norms, as the model adds it again. No bit is lost
// of weights from 0.5 on.
func unshift(t Tensor) Tensor {
	values := make([]float32, len(t.Data)/t.Type.BlockBytes()*t.Type.BlockLen())
	gguf.Dequantize(t.Type, values, t.Data)
	data := make([]byte, 0, 4*len(values))
	for _, v := range values {
		data = binary.LittleEndian.AppendUint32(data, math.Float32bits(v-1))
	}
	return Tensor{Type: gguf.F32, Shape: t.Shape, Data: data}
}

// untangle puts the rows of each head back in order: converters of the llama family interleave a head's
// two halves, because llama.cpp rotates neighbours where Hugging Face rotates halves.
func (w *Weights) untangle(t Tensor, heads int, name string) (Tensor, error) {
	if len(t.Shape) == 0 || heads < 1 || t.Shape[0]%(2*heads) != 0 {
		return Tensor{}, fmt.Errorf("gguf: %s: tensor %q has shape %v, which does not divide into %d heads", w.file.Label(), clip(name), t.Shape, heads)
	}
	rows := t.Shape[0]
	half, size := rows/heads/2, len(t.Data)/rows
	data := make([]byte, 0, len(t.Data))
	for row := range rows {
		head, within := row/(2*half), row%(2*half)
		from := head*2*half + within%half*2 + within/half
		data = append(data, t.Data[from*size:][:size]...)
	}
	mmap.Forget(t.Data)
	t.Data = data
	return t, nil
}
