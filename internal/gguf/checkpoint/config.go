package checkpoint

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/troupe-engine/troupe/internal/gguf"
)

// family is how an architecture of GGUF becomes one of Hugging Face.
type family struct {
	permuted  bool // query and key rows are interleaved
	shifted   bool // norm weights have 1 added
	postNorms bool // norms after the blocks too, which shifts what ffn_norm is
	fused     bool // gate and up are one tensor
	config    func(m *metadata, c map[string]any)
}

// families lists what general.architecture may be.
var families = map[string]family{
	"llama":    {permuted: true, config: llamaConfig},
	"qwen2":    {config: func(_ *metadata, c map[string]any) { name(c, "Qwen2ForCausalLM", "qwen2") }},
	"qwen3":    {config: func(_ *metadata, c map[string]any) { name(c, "Qwen3ForCausalLM", "qwen3") }},
	"qwen3moe": {config: qwen3MoEConfig},
	"phi3":     {fused: true, config: phi3Config},
	"gemma2":   {shifted: true, postNorms: true, config: gemma2Config},
	"gemma3":   {shifted: true, postNorms: true, config: gemma3Config},
}

func name(c map[string]any, architecture, modelType string) {
	c["architectures"], c["model_type"] = []string{architecture}, modelType
}

// familyOf looks up the file's architecture.
func familyOf(f *gguf.File) (string, family, error) {
	m := &metadata{file: f}
	arch := m.text("general.architecture", "")
	if kind := m.text("general.type", "model"); kind != "model" {
		m.failf("metadata \"general.type\" is %q: the file is no language model", clip(kind))
	}
	if n := m.integer("split.count", 1); n > 1 {
		m.failf("metadata \"split.count\" is %d: files in parts are not supported, merge them with llama-gguf-split --merge", n)
	}
	fam, ok := families[arch]
	if !ok {
		m.failf("metadata \"general.architecture\" is %q, supported are %s and %s", clip(arch), ArchiveArchitecture, strings.Join(slices.Sorted(maps.Keys(families)), ", "))
	}
	return arch, fam, m.err()
}

// config returns what config.json would say.
func config(f *gguf.File) (map[string]any, error) {
	arch, fam, err := familyOf(f)
	if err != nil {
		return nil, err
	}
	m := &metadata{file: f, arch: arch}
	heads, hidden := m.required(".attention.head_count"), m.required(".embedding_length")
	c := map[string]any{
		"hidden_size":             hidden,
		"num_hidden_layers":       m.required(".block_count"),
		"num_attention_heads":     heads,
		"num_key_value_heads":     m.integer(".attention.head_count_kv", heads),
		"intermediate_size":       m.required(".feed_forward_length"),
		"max_position_embeddings": m.required(".context_length"),
		"rms_norm_eps":            m.number(".attention.layer_norm_rms_epsilon", 1e-5),
		"rope_theta":              m.number(".rope.freq_base", 10000),
		"tie_word_embeddings":     !f.Has("output.weight"),
		"attention_bias":          f.Has("blk.0.attn_q.bias"),
		"dtype":                   storedType(f),
	}
	if t, err := f.Tensor("token_embd.weight"); err != nil || len(t.Dims) != 2 {
		m.failf("tensor \"token_embd.weight\" is missing or no matrix")
	} else {
		c["vocab_size"] = t.Dims[1]
	}
	headDim := 0
	if heads > 0 {
		headDim = hidden / heads
	}
	headDim = m.integer(".attention.key_length", headDim)
	c["head_dim"] = headDim
	if v := m.integer(".attention.value_length", headDim); v != headDim {
		m.failf("metadata %q is %d but key_length %d: heads of two sizes are not supported", m.name(".attention.value_length"), v, headDim)
	}
	if rotated := m.integer(".rope.dimension_count", headDim); rotated != headDim && headDim > 0 {
		c["partial_rotary_factor"] = float64(rotated) / float64(headDim)
	}
	m.ropeScaling(c)
	fam.config(m, c)
	return c, m.err()
}

// storedType is what config.json would call the type that most of the matrices have. Quantized ones are taken for
// bfloat16, as what they were made of: nothing that is computed with them deserves more.
func storedType(f *gguf.File) string {
	bytes := map[string]int{}
	for _, info := range f.Tensors() {
		t, err := f.Tensor(info.Name)
		if err != nil || len(t.Dims) < 2 {
			continue
		}
		name := "bfloat16"
		switch t.Type {
		case gguf.F32:
			name = "float32"
		case gguf.F16:
			name = "float16"
		}
		bytes[name] += len(t.Data)
	}
	most := "float32"
	for _, name := range []string{"bfloat16", "float16"} {
		if bytes[name] > bytes[most] {
			most = name
		}
	}
	return most
}

// ropeScaling translates the scaling of rotary frequencies, from metadata or from a tensor of divisors.
func (m *metadata) ropeScaling(c map[string]any) {
	original := m.integer(".rope.scaling.original_context_length", m.integer(".context_length", 0))
	long, short := m.factors("rope_factors_long.weight"), m.factors("rope_factors_short.weight")
	if freqs := m.factors("rope_freqs.weight"); freqs != nil {
		// Any scheme that only divides frequencies, such as Llama 3's, is a long rope of one set of factors.
		c["rope_scaling"] = map[string]any{"rope_type": "longrope", "short_factor": freqs, "long_factor": freqs,
			"attention_factor": 1, "factor": 1, "original_max_position_embeddings": original}
		return
	}
	if long != nil || short != nil {
		scaling := map[string]any{"rope_type": "longrope", "short_factor": short, "long_factor": long, "original_max_position_embeddings": original}
		if m.has(".rope.scaling.attn_factor") {
			scaling["attention_factor"] = m.number(".rope.scaling.attn_factor", 1)
		}
		c["rope_scaling"] = scaling
		return
	}
	factor := m.number(".rope.scaling.factor", 1)
	switch kind := m.text(".rope.scaling.type", "none"); kind {
	case "none", "":
	case "linear":
		c["rope_scaling"] = map[string]any{"rope_type": "linear", "factor": factor}
	case "yarn":
		c["rope_scaling"] = map[string]any{"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original,
			"beta_fast": m.number(".rope.scaling.yarn_beta_fast", 32), "beta_slow": m.number(".rope.scaling.yarn_beta_slow", 1),
			"attention_factor": m.number(".rope.scaling.attn_factor", 1) * (0.1*math.Log(max(1, factor)) + 1)}
	default:
		m.failf("metadata %q is %q, supported are none, linear and yarn", m.name(".rope.scaling.type"), clip(kind))
	}
}

// factors returns a vector of rotary divisors, nil if there is no such tensor.
func (m *metadata) factors(name string) []float32 {
	if !m.file.Has(name) {
		return nil
	}
	const factorsMax = 1 << 12
	t, err := m.file.Tensor(name)
	if err != nil || t.Type != gguf.F32 || len(t.Dims) != 1 || t.Dims[0] > factorsMax {
		m.failf("tensor %q is %v %v, want a vector of F32", name, t.Type, t.Dims)
		return nil
	}
	out := make([]float32, t.Dims[0])
	gguf.Dequantize(t.Type, out, t.Data)
	for i, v := range out {
		if v-v != 0 {
			m.failf("tensor %q: element %d is %v, want a finite number", name, i, v)
			return nil
		}
	}
	return out
}

func llamaConfig(m *metadata, c map[string]any) {
	switch {
	case m.integer(".expert_count", 0) > 0:
		name(c, "MixtralForCausalLM", "mixtral")
		m.experts(c)
	case m.has(".attention.sliding_window"):
		name(c, "MistralForCausalLM", "mistral")
	default:
		name(c, "LlamaForCausalLM", "llama")
	}
	m.window(c)
}

func qwen3MoEConfig(m *metadata, c map[string]any) {
	name(c, "Qwen3MoeForCausalLM", "qwen3_moe")
	m.experts(c)
	c["norm_topk_prob"] = true
	c["moe_intermediate_size"] = m.required(".expert_feed_forward_length")
}

func (m *metadata) experts(c map[string]any) {
	c["num_local_experts"] = m.required(".expert_count")
	c["num_experts_per_tok"] = m.required(".expert_used_count")
}

// window copies the sliding window; an explicit null switches off an architecture's default.
func (m *metadata) window(c map[string]any) {
	c["sliding_window"] = nil
	if size := m.integer(".attention.sliding_window", 0); size > 0 {
		c["sliding_window"] = size
	}
}

func phi3Config(m *metadata, c map[string]any) {
	name(c, "Phi3ForCausalLM", "phi3")
	m.window(c)
	c["original_max_position_embeddings"] = m.integer(".rope.scaling.original_context_length", m.integer(".context_length", 0))
}

func gemma2Config(m *metadata, c map[string]any) {
	name(c, "Gemma2ForCausalLM", "gemma2")
	c["attn_logit_softcapping"] = m.number(".attn_logit_softcapping", 50)
	c["final_logit_softcapping"] = m.number(".final_logit_softcapping", 30)
	m.gemma(c, 46)
}

func gemma3Config(m *metadata, c map[string]any) {
	name(c, "Gemma3ForCausalLM", "gemma3_text")
	c["rope_local_base_freq"] = m.number(".rope.freq_base_swa", 10000)
	c["sliding_window_pattern"] = m.integer(".attention.sliding_window_pattern", 6)
	m.gemma(c, 62)
}

// gemma adds what both generations share. GGUF does not store query_pre_attn_scalar: it is the size of a
// head in all published models but the 27B ones, which are known by their number of layers. The embedding
// scale is rounded as where the models were trained, in bfloat16.
func (m *metadata) gemma(c map[string]any, largeLayers int) {
	m.window(c)
	c["dtype"] = "bfloat16"
	c["query_pre_attn_scalar"] = c["head_dim"]
	if heads := c["num_attention_heads"].(int); c["num_hidden_layers"] == largeLayers && heads > 0 {
		c["query_pre_attn_scalar"] = c["hidden_size"].(int) / heads
	}
	if m.has(".attention.scale") {
		scale := m.number(".attention.scale", 1)
		c["query_pre_attn_scalar"] = 1 / (scale * scale)
	}
}

// generation returns what generation_config.json would say: the tokens that begin and end a text.
func generation(f *gguf.File) (map[string]any, error) {
	m := &metadata{file: f}
	g := map[string]any{}
	if m.has(bosKey) {
		g["bos_token_id"] = m.integer(bosKey, 0)
	}
	var ends []int
	add := func(id int) {
		if !slices.Contains(ends, id) {
			ends = append(ends, id)
		}
	}
	for _, key := range []string{eosKey, "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"} {
		if m.has(key) {
			add(m.integer(key, 0))
		}
	}
	// Converters often name only one of the tokens that end a turn.
	kinds := m.ints(kindsKey)
	for id, token := range m.texts(tokensKey) {
		if id < len(kinds) && kinds[id] == kindControl && slices.Contains(endOfTurn, token) {
			add(id)
		}
	}
	if len(ends) > 0 {
		g["eos_token_id"] = ends
	}
	return g, m.err()
}

// endOfTurn is how the families spell the end of a message or of everything.
var endOfTurn = []string{"<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|end|>", "<|endoftext|>", "<|end_of_text|>"}

// clip shortens text from a file before it goes into a message.
func clip(s string) string {
	const clipBytesMax = 120
	if len(s) <= clipBytesMax {
		return s
	}
	return fmt.Sprintf("%s…", s[:clipBytesMax])
}
