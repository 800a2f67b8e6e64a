package model

import (
	"fmt"
	"math"

	"github.com/troupe-engine/troupe/gpu"
)

// architecture is one supported model family: the defaults of its transformers config class,
// and how the rest of its config becomes a Spec.
type architecture struct {
	name, modelType string
	headDim         int // 0: hidden_size / num_attention_heads
	contextMax      int
	normEps         float64
	tied            bool
	activationKey   string
	activation      string
	read            func(*Spec, *object)
}

// architectures lists what this package runs. Semantics and defaults are those of transformers
// 5.17 (models/<model_type>), which the goldens were made with.
var architectures = []architecture{
	{name: "LlamaForCausalLM", modelType: "llama", contextMax: 2048, normEps: 1e-6,
		activationKey: "hidden_act", activation: "silu", read: readLlama},
	{name: "MistralForCausalLM", modelType: "mistral", contextMax: 131072, normEps: 1e-6,
		activationKey: "hidden_act", activation: "silu", read: readMistral},
	{name: "Qwen2ForCausalLM", modelType: "qwen2", contextMax: 32768, normEps: 1e-6,
		activationKey: "hidden_act", activation: "silu", read: readQwen2},
	{name: "Qwen3ForCausalLM", modelType: "qwen3", contextMax: 32768, normEps: 1e-6, headDim: 128,
		activationKey: "hidden_act", activation: "silu", read: readQwen3},
	{name: "Qwen3MoeForCausalLM", modelType: "qwen3_moe", contextMax: 32768, normEps: 1e-6,
		activationKey: "hidden_act", activation: "silu", read: readQwen3MoE},
	{name: "MixtralForCausalLM", modelType: "mixtral", contextMax: 131072, normEps: 1e-5,
		activationKey: "hidden_act", activation: "silu", read: readMixtral},
	{name: "Phi3ForCausalLM", modelType: "phi3", contextMax: 4096, normEps: 1e-5,
		activationKey: "hidden_act", activation: "silu", read: readPhi3},
	{name: "Gemma2ForCausalLM", modelType: "gemma2", contextMax: 8192, normEps: 1e-6, headDim: 256, tied: true,
		activationKey: "hidden_activation", activation: "gelu_pytorch_tanh", read: readGemma2},
	{name: "Gemma3ForCausalLM", modelType: "gemma3_text", contextMax: 131072, normEps: 1e-6, headDim: 256, tied: true,
		activationKey: "hidden_activation", activation: "gelu_pytorch_tanh", read: readGemma3},
}

// expertNames is how a checkpoint spells its mixture-of-experts tensors, under model.layers.N.
type expertNames struct {
	router, gate, up, down string // %d is the expert
}

func readLlama(s *Spec, c *object) {
	s.QKVBias = c.boolean("attention_bias", false)
	s.OutputBias = s.QKVBias
	s.MLPBias = c.boolean("mlp_bias", false)
	s.setWindows(c, 0, fullEverywhere)
	s.addRoPE(c, 10000, 1)
}

func readMistral(s *Spec, c *object) {
	s.setWindows(c, window(c, 4096), everyLayer)
	s.addRoPE(c, 10000, 1)
}

func readQwen2(s *Spec, c *object) {
	s.QKVBias = true
	s.readQwenWindows(c)
	s.addRoPE(c, 10000, 1)
}

func readQwen3(s *Spec, c *object) {
	s.QKNorm = true
	s.QKVBias = c.boolean("attention_bias", false)
	s.OutputBias = s.QKVBias
	s.readQwenWindows(c)
	s.addRoPE(c, 10000, 1)
}

// readQwenWindows: layers from max_window_layers on slide, if use_sliding_window says so.
func (s *Spec) readQwenWindows(c *object) {
	from := c.integer("max_window_layers", 28, 0, math.MaxInt32)
	size := 0
	if c.boolean("use_sliding_window", false) {
		size = window(c, 4096)
	}
	s.setWindows(c, size, func(i int) bool { return i >= from })
}

func readQwen3MoE(s *Spec, c *object) {
	s.QKNorm = true
	s.QKVBias = c.boolean("attention_bias", false)
	s.OutputBias = s.QKVBias
	size := 0
	if c.boolean("use_sliding_window", false) {
		size = window(c, 4096)
	}
	s.setWindows(c, size, everyLayer)
	s.addRoPE(c, 10000, 1)

	s.readExperts(c, 128, 8)
	s.ExpertsNormalize = c.boolean("norm_topk_prob", false)
	s.experts = expertNames{"mlp.gate.weight", "mlp.experts.%d.gate_proj.weight", "mlp.experts.%d.up_proj.weight", "mlp.experts.%d.down_proj.weight"}
	width := c.integer("moe_intermediate_size", 768, 1, IntermediateMax)
	step := c.integer("decoder_sparse_step", 1, 1, LayersMax)
	dense := map[int]bool{}
	if c.has("mlp_only_layers") {
		for _, i := range c.ids("mlp_only_layers", len(s.Layers)) {
			dense[int(i)] = true
		}
	}
	for i := range s.Layers {
		if !dense[i] && (i+1)%step == 0 {
			s.Layers[i].MoE, s.Layers[i].Intermediate = true, width
		}
	}
}

func readMixtral(s *Spec, c *object) {
	s.setWindows(c, window(c, 0), everyLayer)
	s.addRoPE(c, 1e6, 1)
	s.readExperts(c, 8, 2)
	s.ExpertsNormalize = true
	s.experts = expertNames{"block_sparse_moe.gate.weight", "block_sparse_moe.experts.%d.w1.weight", "block_sparse_moe.experts.%d.w3.weight", "block_sparse_moe.experts.%d.w2.weight"}
	for i := range s.Layers {
		s.Layers[i].MoE = true
	}
}

// readExperts reads the counts; transformers 4 and 5 spell the first one differently.
func (s *Spec) readExperts(c *object, experts, perToken int) {
	s.Experts = c.integer(c.firstKey("num_local_experts", "num_experts"), experts, 1, ExpertsMax)
	s.ExpertsPerToken = c.integer("num_experts_per_tok", perToken, 1, s.Experts)
	if s.ExpertsPerToken > s.Experts { // the default; a number in the file was held against the bound
		c.failf("num_experts_per_tok", "is missing, and its default of %d is more than there are experts (%d)", perToken, s.Experts)
	}
}

func readPhi3(s *Spec, c *object) {
	s.FusedProjections = true
	s.setWindows(c, window(c, 0), everyLayer)
	s.addRoPE(c, 10000, rotaryFraction(c))
}

// rotaryFraction reads the share of each head that rotates. It may stand at the top or in the
// rope object; a fraction of every other architecture is refused by parseRoPE.
func rotaryFraction(c *object) float64 {
	f := c.number("partial_rotary_factor", 1, 1.0/HeadDimMax, 1)
	for _, key := range []string{"rope_scaling", "rope_parameters"} {
		if c.has(key) {
			f = c.child(key).number("partial_rotary_factor", f, 1.0/HeadDimMax, 1)
		}
	}
	return f
}

func readGemma2(s *Spec, c *object) {
	s.readGemma(c)
	s.AttentionSoftCap = softCap(c, "attn_logit_softcapping", 50)
	s.LogitSoftCap = softCap(c, "final_logit_softcapping", 30)
	s.setWindows(c, window(c, 4096), func(i int) bool { return (i+1)%2 != 0 })
	s.addRoPE(c, 10000, 1)
}

func readGemma3(s *Spec, c *object) {
	s.readGemma(c)
	s.QKNorm = true
	s.AttentionSoftCap = softCap(c, "attn_logit_softcapping", 0)
	s.LogitSoftCap = softCap(c, "final_logit_softcapping", 0)
	pattern := c.integer(c.firstKey("sliding_window_pattern", "_sliding_window_pattern"), 6, 1, LayersMax)
	s.setWindows(c, window(c, 4096), func(i int) bool { return (i+1)%pattern != 0 })
	s.addGemma3RoPE(c)
}

// readGemma reads what Gemma 2 and 3 share.
func (s *Spec) readGemma(c *object) {
	if c.boolean("use_bidirectional_attention", false) {
		c.failf("use_bidirectional_attention", "is true: only causal models are supported")
	}
	s.PostNorms = true
	s.NormOffset = 1
	s.QKVBias = c.boolean("attention_bias", false)
	s.OutputBias = s.QKVBias
	s.AttentionScale = float32(invSqrt(c.number("query_pre_attn_scalar", 256, 1e-3, 1e6)))
	s.EmbedScale = float32(math.Sqrt(float64(s.HiddenSize)))
	if s.Stored == gpu.BF16 {
		// The scale has the weights' type where the model was trained, and in transformers.
		s.EmbedScale = roundBF16(s.EmbedScale)
	}
}

func softCap(c *object, key string, def float64) float32 {
	if raw, present := c.fields[key]; present && string(raw) == "null" {
		return 0
	}
	return float32(c.number(key, def, 1e-3, 1e6))
}

// window reads sliding_window; an explicit null switches it off whatever the default.
func window(c *object, def int) int {
	if raw, present := c.fields["sliding_window"]; present && string(raw) == "null" {
		return 0
	}
	return c.integer("sliding_window", def, 1, math.MaxInt32)
}

func everyLayer(int) bool     { return true }
func fullEverywhere(int) bool { return false }

// The values of layer_types.
const (
	slidingAttention = "sliding_attention"
	fullAttention    = "full_attention"
)

// setWindows gives each layer its window: size where layer_types says sliding_attention or,
// without layer_types, where the architecture's rule does.
func (s *Spec) setWindows(c *object, size int, slides func(layer int) bool) {
	types := c.texts("layer_types")
	if types != nil && len(types) != len(s.Layers) {
		c.failf("layer_types", "has %d entries, want one for each of the %d layers", len(types), len(s.Layers))
		return
	}
	for i := range s.Layers {
		sliding := slides(i)
		if types != nil {
			switch types[i] {
			case slidingAttention, fullAttention:
				sliding = types[i] == slidingAttention
			default:
				c.failf(fmt.Sprintf("layer_types[%d]", i), "is %q, want %q or %q", clip(types[i]), slidingAttention, fullAttention)
			}
			if sliding && size == 0 {
				c.failf(fmt.Sprintf("layer_types[%d]", i), "is %q but no sliding window is configured for this architecture", types[i])
			}
		}
		if sliding {
			s.Layers[i].Window = size
		}
	}
}

func invSqrt(x float64) float64 { return 1 / math.Sqrt(x) }

// roundBF16 rounds to the nearest bfloat16, ties to even.
func roundBF16(x float32) float32 {
	b := math.Float32bits(x)
	b += 0x7fff + b>>16&1
	return math.Float32frombits(b &^ 0xffff)
}
