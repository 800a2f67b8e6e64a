package model

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/troupe-engine/troupe/gpu"
)

// base is a valid config of the given type; edits set keys, or remove them with nil.
func base(modelType string, edits map[string]any) []byte {
	c := map[string]any{
		"model_type": modelType, "vocab_size": 100, "hidden_size": 32, "intermediate_size": 48,
		"num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
	}
	maps.Copy(c, edits)
	for k, v := range c {
		if v == nil {
			delete(c, k)
		}
	}
	text, err := json.Marshal(c)
	if err != nil {
		panic(err)
	}
	return text
}

func parse(t *testing.T, modelType string, edits map[string]any) *Spec {
	t.Helper()
	s, err := ParseConfig(base(modelType, edits), nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func windows(s *Spec) []int {
	var w []int
	for _, l := range s.Layers {
		w = append(w, l.Window)
	}
	return w
}

// jsonNull is an explicit null, which some keys tell from absence.
var jsonNull = json.RawMessage("null")

func TestWindows(t *testing.T) {
	sliding := []string{"full_attention", "sliding_attention", "full_attention", "sliding_attention"}
	cases := []struct {
		modelType string
		edits     map[string]any
		want      []int
	}{
		{"llama", nil, []int{0, 0, 0, 0}},
		{"mistral", nil, []int{4096, 4096, 4096, 4096}}, // the class default
		{"mistral", map[string]any{"sliding_window": jsonNull}, []int{0, 0, 0, 0}},
		{"mixtral", nil, []int{0, 0, 0, 0}},
		{"qwen2", map[string]any{"sliding_window": 9}, []int{0, 0, 0, 0}}, // use_sliding_window is off
		{"qwen2", map[string]any{"sliding_window": 9, "use_sliding_window": true}, []int{0, 0, 0, 0}},
		{"qwen2", map[string]any{"sliding_window": 9, "use_sliding_window": true, "max_window_layers": 3}, []int{0, 0, 0, 9}},
		{"qwen3", map[string]any{"sliding_window": 9, "use_sliding_window": true, "layer_types": sliding}, []int{0, 9, 0, 9}},
		{"phi3", map[string]any{"sliding_window": 5}, []int{5, 5, 5, 5}},
		{"gemma2", nil, []int{4096, 0, 4096, 0}},
		{"gemma3_text", map[string]any{"sliding_window": 7, "sliding_window_pattern": 3}, []int{7, 7, 0, 7}},
		{"gemma3_text", map[string]any{"sliding_window": 7, "layer_types": sliding}, []int{0, 7, 0, 7}},
	}
	for _, c := range cases {
		if got := windows(parse(t, c.modelType, c.edits)); !slices.Equal(got, c.want) {
			t.Errorf("%s %v: windows %v, want %v", c.modelType, c.edits, got, c.want)
		}
	}
}

func TestDefaults(t *testing.T) {
	s := parse(t, "llama", map[string]any{"head_dim": nil, "num_key_value_heads": nil})
	if s.HeadDim != 8 || s.KVHeads != 4 || s.TiedEmbeddings || s.Activation != gpu.SiLU || s.ContextMax != 2048 || s.RoPE[0].Theta != 10000 {
		t.Errorf("llama defaults: %+v", s)
	}
	if s := parse(t, "qwen3", map[string]any{"head_dim": nil}); s.HeadDim != 128 {
		t.Errorf("qwen3 head_dim defaults to %d, want 128", s.HeadDim)
	}
	if s := parse(t, "mixtral", nil); s.RoPE[0].Theta != 1e6 || s.Experts != 8 || s.ExpertsPerToken != 2 || !s.ExpertsNormalize {
		t.Errorf("mixtral defaults: %+v", s)
	}
	s = parse(t, "gemma2", nil)
	if !s.TiedEmbeddings || s.Activation != gpu.GELUTanh || s.AttentionSoftCap != 50 || s.LogitSoftCap != 30 || s.AttentionScale != 1.0/16 || s.NormOffset != 1 {
		t.Errorf("gemma2 defaults: %+v", s)
	}
	if s := parse(t, "gemma2", map[string]any{"attn_logit_softcapping": jsonNull}); s.AttentionSoftCap != 0 {
		t.Errorf("a null soft cap is %g, want off", s.AttentionSoftCap)
	}
	// sqrt(32) in float32, and as a bfloat16 model has it.
	if got := parse(t, "gemma2", nil).EmbedScale; got != float32(math.Sqrt(32)) {
		t.Errorf("embedding scale %v", got)
	}
	for _, key := range []string{"dtype", "torch_dtype"} {
		if got := parse(t, "gemma2", map[string]any{key: "bfloat16"}).EmbedScale; got != 5.65625 {
			t.Errorf("embedding scale with %s bfloat16 is %v, want 5.65625", key, got)
		}
	}
}

func TestSparseLayers(t *testing.T) {
	s := parse(t, "qwen3_moe", map[string]any{"decoder_sparse_step": 2, "mlp_only_layers": []int{3}, "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 12})
	var got []string
	for _, l := range s.Layers {
		got = append(got, fmt.Sprint(l.MoE, l.Intermediate))
	}
	if want := []string{"false 48", "true 12", "false 48", "false 48"}; !slices.Equal(got, want) {
		t.Errorf("layers %v, want %v", got, want)
	}
	if s.Experts != 6 || s.ExpertsNormalize {
		t.Errorf("experts %d normalize %v", s.Experts, s.ExpertsNormalize)
	}
}

// TestConfigStyles: transformers 4 and 5 spell the same model differently.
func TestConfigStyles(t *testing.T) {
	scaled := map[string]any{"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
	v4, v5 := maps.Clone(scaled), maps.Clone(scaled)
	v4["rope_type"] = "llama3"
	v5["rope_type"], v5["rope_theta"] = "llama3", 5e5
	old := parse(t, "llama", map[string]any{"rope_theta": 5e5, "rope_scaling": v4})
	now := parse(t, "llama", map[string]any{"rope_parameters": v5})
	if old.RoPE[0].Type != "llama3" || !slices.Equal(old.RoPE[0].InvFreq, now.RoPE[0].InvFreq) {
		t.Errorf("transformers 4: %+v\ntransformers 5: %+v", old.RoPE, now.RoPE)
	}
	oldest := parse(t, "llama", map[string]any{"rope_scaling": map[string]any{"type": "linear", "factor": 2}})
	if oldest.RoPE[0].Type != "linear" || oldest.RoPE[0].InvFreq[0] != 0.5 {
		t.Errorf("rope_scaling with type: %+v", oldest.RoPE)
	}
	g4 := parse(t, "gemma3_text", map[string]any{"rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": map[string]any{"rope_type": "linear", "factor": 8.0}})
	g5 := parse(t, "gemma3_text", map[string]any{"rope_parameters": map[string]any{
		"full_attention":    map[string]any{"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
		"sliding_attention": map[string]any{"rope_type": "default", "rope_theta": 1e4}}})
	for i := range g4.RoPE {
		if !slices.Equal(g4.RoPE[i].InvFreq, g5.RoPE[i].InvFreq) {
			t.Errorf("gemma3 scheme %d: %v and %v", i, g4.RoPE[i], g5.RoPE[i])
		}
	}
	nested := parse(t, "qwen3", map[string]any{"layer_types": []string{"full_attention", "sliding_attention", "full_attention", "full_attention"},
		"use_sliding_window": true, "sliding_window": 9, "rope_parameters": map[string]any{
			"full_attention":    map[string]any{"rope_type": "default", "rope_theta": 1e6},
			"sliding_attention": map[string]any{"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}})
	if nested.RoPE[nested.Layers[0].RoPE].Theta != 1e6 || nested.RoPE[nested.Layers[1].RoPE].InvFreq[0] != 0.5 {
		t.Errorf("rope nested by layer type: %+v %+v", nested.Layers, nested.RoPE)
	}
	whole := parse(t, "llama", map[string]any{"hidden_size": 32.0, "architectures": []string{"LlamaForCausalLM"}, "model_type": nil})
	if whole.HiddenSize != 32 || whole.ModelType != "llama" {
		t.Errorf("%+v", whole)
	}
}

// TestScaledRoPE holds the scaled schemes to numbers that transformers 5.17's
// ROPE_INIT_FUNCTIONS give for head_dim 8.
func TestScaledRoPE(t *testing.T) {
	cases := []struct {
		name  string
		edits map[string]any
		freq  []float64
		scale float64
	}{
		{"llama3", map[string]any{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64},
			[]float64{1, 0.013042256236076355, 0.0012499999720603228, 0.0001250000059371814}, 1},
		{"yarn", map[string]any{"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}, []float64{1, 0.0625, 0.0024999999441206455, 0.0002500000118743628}, 1.138629436111989},
		{"yarn with mscale", map[string]any{"rope_type": "yarn", "factor": 40.0, "mscale": 1.0, "mscale_all_dim": 0.5, "beta_fast": 16, "beta_slow": 2,
			"truncate": false, "original_max_position_embeddings": 512}, []float64{1, 0.068363718688488, 0.0002500000118743628, 2.499999936844688e-05}, 1.1557219901962608},
	}
	for _, c := range cases {
		r := parse(t, "llama", map[string]any{"rope_scaling": c.edits}).RoPE[0]
		for i, f := range c.freq {
			if math.Abs(float64(r.InvFreq[i])-f) > 2e-7*f {
				t.Errorf("%s: frequencies %v, want %v", c.name, r.InvFreq, c.freq)
				break
			}
		}
		if len(r.InvFreq) != len(c.freq) || math.Abs(float64(r.Scale)-c.scale) > 1e-6 {
			t.Errorf("%s: %d frequencies, scale %v, want %d and %v", c.name, len(r.InvFreq), r.Scale, len(c.freq), c.scale)
		}
	}
}

func TestLongRoPEChoosesByServedContext(t *testing.T) {
	r := parse(t, "phi3", map[string]any{"max_position_embeddings": 4096, "original_max_position_embeddings": 1024, "rope_theta": 100,
		"rope_scaling": map[string]any{"type": "su", "short_factor": []int{1, 1, 1, 1}, "long_factor": []int{2, 2, 2, 2}}}).RoPE[0]
	if short, long := r.Frequencies(1024)[0], r.Frequencies(1025)[0]; short != 1 || long != 0.5 {
		t.Errorf("first frequency %v up to the original context, %v beyond; want 1 and 0.5", short, long)
	}
	if want := math.Sqrt(1 + math.Log(4)/math.Log(1024)); math.Abs(float64(r.Scale)-want) > 1e-6 {
		t.Errorf("scale %v, want %v", r.Scale, want)
	}
}

func TestGenerationConfig(t *testing.T) {
	s, err := ParseConfig(base("llama", map[string]any{"eos_token_id": 2, "bos_token_id": 1}),
		[]byte(`{"eos_token_id":[3,4],"temperature":0.6,"top_p":0.9,"top_k":20,"min_p":null,"do_sample":true}`))
	if err != nil {
		t.Fatal(err)
	}
	g := s.Generation
	if !slices.Equal(g.EOS, []int32{3, 4}) || !slices.Equal(g.BOS, []int32{1}) || *g.Temperature != 0.6 || *g.TopP != 0.9 || *g.TopK != 20 || g.MinP != nil || !*g.DoSample {
		t.Errorf("%+v", g)
	}
	for text, want := range map[string]string{
		`{"eos_token_id":100}`:    "eos_token_id is 100, want a token id in 0..99",
		`{"eos_token_id":"</s>"}`: "eos_token_id",
		`{"eos_token_id":[1,-2]}`: "eos_token_id",
		`{"temperature":-1}`:      "temperature is -1, want a number in 0..100",
		`{"top_k":1.5}`:           "top_k is 1.5",
		`[]`:                      "generation_config.json is not a JSON object",
	} {
		if _, err := ParseConfig(base("llama", nil), []byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", text, err, want)
		}
	}
}

// TestConfigErrors: each error names the key, its value and what is expected.
func TestConfigErrors(t *testing.T) {
	rope := func(keys map[string]any) map[string]any { return map[string]any{"rope_scaling": keys} }
	cases := []struct {
		modelType string
		edits     map[string]any
		want      string
	}{
		{"llama", map[string]any{"vocab_size": nil}, "vocab_size is missing"},
		{"llama", map[string]any{"hidden_size": "big"}, `hidden_size is "big", want a whole number`},
		{"llama", map[string]any{"hidden_size": 1e12}, "hidden_size is 1000000000000, want"},
		{"llama", map[string]any{"num_hidden_layers": 0}, "num_hidden_layers is 0"},
		{"llama", map[string]any{"num_hidden_layers": 2.5}, "num_hidden_layers is 2.5"},
		{"llama", map[string]any{"num_attention_heads": -4}, "num_attention_heads is -4"},
		{"llama", map[string]any{"num_key_value_heads": 3}, "num_key_value_heads is 3, want a divisor of num_attention_heads 4"},
		{"llama", map[string]any{"head_dim": nil, "num_attention_heads": 5, "num_key_value_heads": 5}, "head_dim is missing"},
		{"llama", map[string]any{"head_dim": 7}, "head_dim gives 7 rotated elements"},
		{"llama", map[string]any{"hidden_act": "relu"}, `hidden_act is "relu"`},
		{"llama", map[string]any{"rms_norm_eps": -1}, "rms_norm_eps is -1"},
		{"llama", map[string]any{"tie_word_embeddings": "yes"}, "tie_word_embeddings"},
		{"llama", map[string]any{"quantization_config": map[string]any{"quant_method": "gptq"}}, "quantization_config"},
		{"llama", map[string]any{"layer_types": []string{"full_attention"}}, "layer_types has 1 entries"},
		{"llama", map[string]any{"layer_types": []string{"full_attention", "full_attention", "linear_attention", "full_attention"}}, "layer_types[2]"},
		{"llama", map[string]any{"layer_types": []string{"full_attention", "sliding_attention", "full_attention", "full_attention"}}, "layer_types[1]"},
		{"llama", map[string]any{"rope_theta": 0}, "rope_theta is 0"},
		{"llama", map[string]any{"rope_scaling": "yes"}, "rope_scaling"},
		{"llama", map[string]any{"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"},
		{"llama", rope(map[string]any{"rope_type": "dynamic", "factor": 2}), `rope_scaling: rope_type is "dynamic", which is not supported`},
		{"llama", rope(map[string]any{"type": "mrope"}), `rope_scaling: type is "mrope"`},
		{"llama", rope(map[string]any{"rope_type": "linear"}), "rope_scaling: factor is missing"},
		{"llama", rope(map[string]any{"rope_type": "linear", "factor": 0.5}), "rope_scaling: factor is 0.5"},
		{"llama", rope(map[string]any{"rope_type": "llama3", "factor": 2, "low_freq_factor": 4, "high_freq_factor": 4}), "high_freq_factor is 4, want more than low_freq_factor 4"},
		{"phi3", rope(map[string]any{"type": "longrope", "short_factor": []int{1, 2}, "long_factor": []int{1, 1, 1, 1}}), "short_factor is [1,2], want an array of 4"},
		{"phi3", rope(map[string]any{"type": "longrope", "short_factor": []int{1, 1, 1, 1}}), "long_factor"},
		{"phi3", map[string]any{"partial_rotary_factor": 0.1}, "head_dim gives 0 rotated elements"},
		{"llama", map[string]any{"max_position_embeddings": 1, "rope_scaling": map[string]any{"rope_type": "yarn", "factor": 2}},
			"original_max_position_embeddings is missing, and max_position_embeddings, its default, is 1"},
		{"mixtral", map[string]any{"num_experts_per_tok": 9}, "num_experts_per_tok is 9, want a whole number in 1..8"},
		{"mixtral", map[string]any{"num_local_experts": 1, "num_experts_per_tok": nil}, "num_experts_per_tok is missing, and its default of 2 is more than there are experts (1)"},
		{"qwen3_moe", map[string]any{"mlp_only_layers": []int{4}}, "mlp_only_layers"},
		{"gemma3_text", map[string]any{"use_bidirectional_attention": true}, "use_bidirectional_attention"},
		{"gemma3_text", map[string]any{"rope_parameters": map[string]any{"rope_theta": 1e6}}, "full_attention"},
		{"gpt2", nil, `model_type is "gpt2"; supported architectures: Gemma2ForCausalLM, Gemma3ForCausalLM, LlamaForCausalLM`},
		{"llama", map[string]any{"architectures": []string{"BertModel"}}, `architectures is "BertModel"; supported: Gemma2ForCausalLM`},
		{"llama", map[string]any{"architectures": "LlamaForCausalLM"}, "architectures"},
	}
	for _, c := range cases {
		_, err := ParseConfig(base(c.modelType, c.edits), nil)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %v:\n got %v\nwant %q", c.modelType, c.edits, err, c.want)
		}
	}
	_, err := ParseConfig(base("llama", map[string]any{"vocab_size": 0, "hidden_size": 0}), nil)
	if err == nil || !strings.Contains(err.Error(), "vocab_size") || !strings.Contains(err.Error(), "hidden_size") {
		t.Errorf("two wrong keys: %v, want both named", err)
	}
}

func TestReadSpecLimits(t *testing.T) {
	if _, err := ReadSpec(fstest.MapFS{}); err == nil || !strings.Contains(err.Error(), "config.json") {
		t.Errorf("no config: %v", err)
	}
	huge := fstest.MapFS{"config.json": {Data: make([]byte, ConfigBytesMax+1)}}
	if _, err := ReadSpec(huge); err == nil || !strings.Contains(err.Error(), "limit") {
		t.Errorf("huge config: %v", err)
	}
}

func TestKVBytesPerBlock(t *testing.T) {
	s := parse(t, "llama", nil) // 4 layers, 2 KV heads of 8
	if got := s.KVBytesPerBlock(16, gpu.BF16); got != 2*4*2*8*16*2 {
		t.Errorf("KVBytesPerBlock = %d", got)
	}
}

// FuzzConfig: any text gives an error or a Spec whose numbers the loader can rely on.
func FuzzConfig(f *testing.F) {
	paths, _ := filepath.Glob("testdata/golden/*/config.json")
	for _, p := range paths {
		text, err := os.ReadFile(p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text, []byte(`{"eos_token_id":[1,2],"top_p":0.5}`))
	}
	f.Add(base("mixtral", nil), []byte(nil))
	f.Fuzz(func(t *testing.T, config, generation []byte) {
		s, err := ParseConfig(config, generation)
		if err != nil {
			if len(err.Error()) > 1<<14 {
				t.Fatalf("an error of %d bytes", len(err.Error()))
			}
			return
		}
		if s.Heads%s.KVHeads != 0 || s.QueryWidth() < 2 || len(s.RoPE) == 0 || s.ExpertsPerToken > s.Experts {
			t.Fatalf("%+v", s)
		}
		for _, l := range s.Layers {
			if l.RoPE >= len(s.RoPE) || l.Intermediate < 1 || l.Window < 0 || l.MoE && s.Experts == 0 {
				t.Fatalf("layer %+v of %+v", l, s)
			}
		}
		for _, r := range s.RoPE {
			for _, v := range append(slices.Clone(r.InvFreq), r.Scale) {
				if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
					t.Fatalf("rope %+v", r)
				}
			}
		}
	})
}
