package model

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/internal/prequant"
)

// Limits on what a config may ask for, far above any published model, so that a damaged file
// is refused by name and not by an allocation.
const (
	ConfigBytesMax  = 4 << 20
	VocabMax        = 1 << 22
	HiddenMax       = 1 << 16
	IntermediateMax = 1 << 18
	LayersMax       = 1 << 10
	HeadsMax        = 1 << 10
	HeadDimMax      = 1 << 10
	ExpertsMax      = 1 << 10
	ContextMax      = 1 << 27 // tokens
)

// Spec describes a decoder-only transformer. One forward pass executes every supported
// architecture from it; nothing after the config asks which architecture it was.
type Spec struct {
	Architecture string    // "LlamaForCausalLM", as config.json names it
	ModelType    string    // "llama"
	Stored       gpu.DType // what config.json calls the checkpoint's type: BF16, F16, F32 or, where it says nothing known, 0

	// Quantization says how the checkpoint's matrices are quantized; nil if it does not say that they are.
	Quantization *prequant.Config

	VocabSize  int
	HiddenSize int
	Heads      int // query heads
	KVHeads    int // divides Heads
	HeadDim    int // elements; Heads*HeadDim may differ from HiddenSize
	ContextMax int // tokens the model was made for
	Layers     []LayerSpec
	RoPE       []RoPE // distinct rotary schemes, chosen per layer

	NormEps    float32
	NormOffset float32 // added to every norm weight: 1 for Gemma, otherwise 0
	QKNorm     bool    // RMS norm of each query and key head before RoPE
	PostNorms  bool    // norms after attention and MLP too, before their residual adds (Gemma)

	QKVBias    bool
	OutputBias bool // on the attention output projection
	MLPBias    bool
	// FusedProjections: the checkpoint stores qkv_proj and gate_up_proj, as Phi-3's do.
	FusedProjections bool

	Activation       gpu.Activation
	AttentionScale   float32 // multiplies q·k
	AttentionSoftCap float32 // 0 is off
	LogitSoftCap     float32 // 0 is off
	EmbedScale       float32 // multiplies embeddings
	TiedEmbeddings   bool    // the output projection is the embedding table

	Experts          int // 0 for dense models
	ExpertsPerToken  int
	ExpertsNormalize bool // the chosen experts' weights are made to sum to 1
	experts          expertNames

	Generation Generation
}

// LayerSpec is what may differ between layers.
type LayerSpec struct {
	Window       int  // sliding attention window in tokens, the query's own included; 0 is full
	RoPE         int  // index in Spec.RoPE
	MoE          bool // routed experts in place of one MLP
	Intermediate int  // MLP width, or each expert's
}

// Generation holds a checkpoint's own defaults for generating, from generation_config.json and,
// for the token ids, config.json. Nil means that the checkpoint says nothing.
type Generation struct {
	BOS               []int32
	EOS               []int32 // any of them ends a sequence
	DoSample          *bool
	Temperature       *float32
	TopP              *float32
	TopK              *int32
	MinP              *float32
	RepetitionPenalty *float32
}

// KVBytesPerBlock returns the bytes that one KV block of blockSize tokens takes over all
// layers, keys and values, when the pools hold elements of type kv.
func (s *Spec) KVBytesPerBlock(blockSize int, kv gpu.DType) int64 {
	return 2 * int64(len(s.Layers)) * int64(s.KVHeads) * int64(blockSize) * int64(kv.RowBytes(s.HeadDim))
}

// QueryWidth returns the elements of one token's queries, over all heads.
func (s *Spec) QueryWidth() int { return s.Heads * s.HeadDim }

// KVWidth returns the elements of one token's keys, over all KV heads.
func (s *Spec) KVWidth() int { return s.KVHeads * s.HeadDim }

// ReadSpec reads config.json and, where there is one, generation_config.json.
func ReadSpec(files fs.FS) (*Spec, error) {
	config, err := readLimited(files, "config.json")
	if err != nil {
		return nil, fmt.Errorf("model: reading config.json: %w", err)
	}
	generation, err := readLimited(files, "generation_config.json")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("model: reading generation_config.json: %w", err)
	}
	return ParseConfig(config, generation)
}

func readLimited(files fs.FS, name string) ([]byte, error) {
	f, err := files.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, ConfigBytesMax+1))
	if err == nil && len(data) > ConfigBytesMax {
		err = fmt.Errorf("it exceeds the limit of %d bytes", ConfigBytesMax)
	}
	return data, err
}

// ParseConfig builds a Spec from the text of a Hugging Face config.json and of a
// generation_config.json, which may be empty. It reads the keys of transformers 4
// (rope_theta, rope_scaling, torch_dtype) and 5 (rope_parameters, layer_types, dtype). The
// error lists every key that is wrong with its value and what is expected.
func ParseConfig(config, generation []byte) (*Spec, error) {
	c, err := parseObject("config.json", config)
	if err != nil {
		return nil, fmt.Errorf("model: %w", err)
	}
	arch, err := architectureOf(c)
	if err != nil {
		return nil, fmt.Errorf("model: %w", err)
	}
	s := &Spec{Architecture: arch.name, ModelType: arch.modelType}
	s.readCommon(c, arch)
	if err := c.err(); err != nil { // later steps size slices by these
		return nil, fmt.Errorf("model: %w", err)
	}
	arch.read(s, c)
	s.readGeneration(c, generation)
	if err := c.err(); err != nil {
		return nil, fmt.Errorf("model: %w", err)
	}
	return s, nil
}

// architectureOf looks up architectures[0], or model_type where that is absent.
func architectureOf(c *object) (*architecture, error) {
	names := c.texts("architectures")
	modelType := c.text("model_type", "")
	if err := c.err(); err != nil {
		return nil, err
	}
	supported := make([]string, len(architectures))
	for i := range architectures {
		a := &architectures[i]
		if len(names) > 0 && names[0] == a.name || len(names) == 0 && modelType == a.modelType {
			return a, nil
		}
		supported[i] = a.name
	}
	slices.Sort(supported)
	if len(names) == 0 {
		return nil, fmt.Errorf("config.json: architectures is missing and model_type is %q; supported architectures: %s", clip(modelType), strings.Join(supported, ", "))
	}
	return nil, fmt.Errorf("config.json: architectures is %q; supported: %s", clip(names[0]), strings.Join(supported, ", "))
}

var storedTypes = map[string]gpu.DType{"bfloat16": gpu.BF16, "float16": gpu.F16, "float32": gpu.F32}

// readCommon reads what every architecture has, with arch's defaults.
func (s *Spec) readCommon(c *object, arch *architecture) {
	if c.has("quantization_config") {
		var err error
		if s.Quantization, err = prequant.ParseConfig(c.fields["quantization_config"]); err != nil {
			c.failf("quantization_config:", "%v", err)
		}
	}
	s.Stored = storedTypes[c.text(c.firstKey("dtype", "torch_dtype"), "")]
	s.VocabSize = c.required("vocab_size", 1, VocabMax)
	s.HiddenSize = c.required("hidden_size", 1, HiddenMax)
	layers := c.required("num_hidden_layers", 1, LayersMax)
	s.Heads = c.required("num_attention_heads", 1, HeadsMax)
	s.KVHeads = c.integer("num_key_value_heads", s.Heads, 1, HeadsMax)
	if s.Heads%s.KVHeads != 0 {
		c.failf("num_key_value_heads", "is %d, want a divisor of num_attention_heads %d", s.KVHeads, s.Heads)
	}
	switch {
	case c.has("head_dim"):
		s.HeadDim = c.integer("head_dim", 0, 2, HeadDimMax)
	case arch.headDim != 0:
		s.HeadDim = arch.headDim
	default:
		s.HeadDim = s.HiddenSize / s.Heads
		if s.HiddenSize%s.Heads != 0 || s.HeadDim < 2 || s.HeadDim > HeadDimMax {
			c.failf("head_dim", "is missing and hidden_size %d / num_attention_heads %d is no whole number in 2..%d", s.HiddenSize, s.Heads, HeadDimMax)
		}
	}
	s.ContextMax = c.integer("max_position_embeddings", arch.contextMax, 1, ContextMax)
	s.NormEps = float32(c.number("rms_norm_eps", arch.normEps, 1e-12, 0.1))
	s.TiedEmbeddings = c.boolean("tie_word_embeddings", arch.tied)
	s.AttentionScale = float32(invSqrt(float64(s.HeadDim)))
	s.EmbedScale = 1

	intermediate := c.required("intermediate_size", 1, IntermediateMax)
	s.Layers = make([]LayerSpec, layers)
	for i := range s.Layers {
		s.Layers[i].Intermediate = intermediate
	}
	key := arch.activationKey
	switch name := c.text(key, arch.activation); name {
	case "silu", "swish":
		s.Activation = gpu.SiLU
	case "gelu_pytorch_tanh", "gelu_new":
		s.Activation = gpu.GELUTanh
	default:
		c.wrong(key, `"silu" or "gelu_pytorch_tanh"`)
	}
}

// readGeneration reads the token ids and sampling defaults.
func (s *Spec) readGeneration(c *object, generation []byte) {
	g := &object{path: "generation_config.json", problems: c.problems}
	if len(generation) > 0 {
		parsed, err := parseObject(g.path, generation)
		if err != nil {
			*c.problems = append(*c.problems, err)
			return
		}
		g.fields = parsed.fields
	}
	idsOf := func(key string) []int32 {
		if g.has(key) {
			return g.ids(key, s.VocabSize)
		}
		return c.ids(key, s.VocabSize)
	}
	s.Generation.BOS = idsOf("bos_token_id")
	s.Generation.EOS = idsOf("eos_token_id")
	if g.has("do_sample") {
		v := g.boolean("do_sample", false)
		s.Generation.DoSample = &v
	}
	number := func(key string, low, high float64) *float32 {
		if !g.has(key) {
			return nil
		}
		v := float32(g.number(key, 0, low, high))
		return &v
	}
	s.Generation.Temperature = number("temperature", 0, 100)
	s.Generation.TopP = number("top_p", 0, 1)
	s.Generation.MinP = number("min_p", 0, 1)
	s.Generation.RepetitionPenalty = number("repetition_penalty", 0, 100)
	if g.has("top_k") {
		v := int32(g.integer("top_k", 0, 0, VocabMax))
		s.Generation.TopK = &v
	}
}
