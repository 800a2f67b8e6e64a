package prequant

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/troupe-engine/troupe/internal/gguf"
	"github.com/troupe-engine/troupe/internal/safetensors"
)

// TestConfigErrors: each error names the field, what it is and what is supported.
func TestConfigErrors(t *testing.T) {
	group := func(text string) string {
		return `{"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"a": ` + text + `}}`
	}
	for _, c := range []struct{ config, want string }{
		{`[]`, "not a JSON object"},
		{`null`, "not a JSON object"},
		{`{}`, `quant_method is ""; supported: awq, compressed-tensors, fbgemm_fp8, fp8, gptq`},
		{`{"quant_method": 3}`, "quant_method is 3, want a string"},
		{`{"quant_method": "bitsandbytes"}`, `quant_method is "bitsandbytes"; supported: awq`},
		{`{"quant_method": "gptq"}`, "bits is 0; supported with gptq: 4, 8"},
		{`{"quant_method": "gptq", "bits": 3, "group_size": 128}`, "bits is 3; supported"},
		{`{"quant_method": "gptq", "bits": "4"}`, `bits is "4", want 4 or 8`},
		{`{"quant_method": "gptq", "bits": 4}`, "group_size is missing, want -1 or"},
		{`{"quant_method": "gptq", "bits": 8, "group_size": -1}`, ""},
		{`{"quant_method": "gptq", "bits": 4, "group_size": 0}`, "group_size is 0, want -1 or"},
		{`{"quant_method": "gptq", "bits": 4, "group_size": -2}`, "group_size is -2"},
		{`{"quant_method": "gptq", "bits": 4, "group_size": 1e9}`, "group_size is 1e9"},
		{`{"quant_method": "gptq", "bits": 4, "group_size": 128, "checkpoint_format": "marlin"}`, `checkpoint_format is "marlin"; supported: gptq, gptq_v2`},
		{`{"quant_method": "gptq", "bits": 4, "group_size": 128, "is_marlin_format": true}`, "is_marlin_format"},
		{`{"quant_method": "gptq", "bits": 4, "group_size": 128, "pack_dtype": "int16"}`, "pack_dtype"},
		{`{"quant_method": "gptq", "bits": 4, "group_size": 128, "dynamic": {"+:a": {"bits": 8}}}`, "dynamic is set"},
		{`{"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemv"}`, `version is "gemv"; supported with awq: gemm`},
		{`{"quant_method": "awq", "w_bit": 8, "q_group_size": 128}`, "w_bit is 8"},
		{`{"quant_method": "awq", "w_bit": 4, "q_group_size": 128, "version": "GEMM"}`, ""},
		{`{"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": false}`, "zero_point is false"},
		{`{"quant_method": "fp8", "fmt": "e5m2"}`, `fmt is "e5m2"; supported: e4m3`},
		{`{"quant_method": "fp8", "activation_scheme": "group"}`, `activation_scheme is "group"; supported: dynamic, static`},
		{`{"quant_method": "fp8", "scale_fmt": "log"}`, `scale_fmt is "log"; supported: ue8m0`},
		{`{"quant_method": "modelopt"}`, `quant_algo is ""; supported with modelopt: FP8`},
		{`{"quant_method": "modelopt", "quant_algo": "NVFP4"}`, `quant_algo is "NVFP4"; supported with modelopt: FP8, FP8_PER_CHANNEL_PER_TOKEN`},
		{`{"quant_method": "fp8", "weight_block_size": [128]}`, "weight_block_size is [128], want two"},
		{`{"quant_method": "fp8", "weight_block_size": [128, 0]}`, "weight_block_size is [128, 0]"},
		{`{"quant_method": "fp8", "ignored_layers": "lm_head"}`, `ignored_layers is "lm_head", want a list`},
		{`{"quant_method": "fp8", "ignore": ["re:("]}`, `ignore[0] is "re:(", which is no regular expression`},
		{`{"quant_method": "fp8", "ignore": [` + strings.Repeat(`"a",`, PatternsMax) + `"a"]}`, "ignore has 8193 entries, the limit is 8192"},
		{`{"quant_method": "compressed-tensors", "format": "pack-quantized"}`, "config_groups has 0 entries"},
		{`{"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": []}`, "config_groups is []"},
		{`{"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized", "config_groups": {"a": {"weights": {"num_bits": 4}}}}`, `format is "nvfp4-pack-quantized"; supported: float-quantized`},
		{`{"quant_method": "compressed-tensors", "format": "dense", "sparsity_config": {"format": "sparse-24-bitmask"}}`, "sparsity_config.format"},
		{`{"quant_method": "compressed-tensors", "format": "pack-quantized", "transform_config": {"config_groups": {"u": {}}}}`, "transform_config is set"},
		{group(`3`), "config_groups is"},
		{group(`{"weights": 3}`), "config_groups.a.weights is 3, want an object"},
		{group(`{"weights": {"num_bits": 3}}`), "config_groups.a.weights.num_bits is 3; supported with pack-quantized: [4 8]"},
		{group(`{"weights": {"num_bits": 4, "type": "float"}}`), `config_groups.a.weights.type is "float", want int`},
		{group(`{"weights": {"num_bits": 4, "dynamic": true}}`), "weights.dynamic is true"},
		{group(`{"weights": {"num_bits": 4, "strategy": "attn_head"}}`), `weights.strategy is "attn_head"; supported: tensor`},
		{group(`{"weights": {"num_bits": 4, "strategy": "block", "block_structure": [128, 128]}}`), "strategy is block; supported with integers"},
		{group(`{"weights": {"num_bits": 4, "strategy": "group", "group_size": 1.5}}`), "weights.group_size is 1.5"},
		{group(`{"weights": {"num_bits": 8, "type": "float", "symmetric": false}, "format": "float-quantized"}`), "symmetric is false"},
		{group(`{"targets": ["Linear", 3], "weights": {"num_bits": 4}}`), "config_groups.a.targets is"},
		{group(`{"weights": null}`), ""},
	} {
		_, err := ParseConfig([]byte(c.config))
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s:\n got %v\nwant %q", c.config, err, c.want)
		}
	}
}

// TestPublishedConfigs: the forms that fp8 checkpoints are published in, with what shares a scale in a module and one that
// stays as it is.
func TestPublishedConfigs(t *testing.T) {
	for name, c := range map[string]struct {
		config string
		block  [2]int
		plain  string
	}{
		"Qwen3":       {`{"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", "weight_block_size": [128, 128]}`, [2]int{128, 128}, ""},
		"Qwen3 MoE":   {`{"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", "weight_block_size": [128, 128], "modules_to_not_convert": ["lm_head", "model.layers.0.mlp.gate"]}`, [2]int{128, 128}, "model.layers.0.mlp.gate"},
		"DeepSeek":    {`{"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", "scale_fmt": "ue8m0", "weight_block_size": [128, 128]}`, [2]int{128, 128}, ""},
		"MiniMax":     {`{"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "float8_e4m3fn", "weight_block_size": [128, 128], "modules_to_not_convert": ["gate", "e_score_correction_bias", "lm_head"]}`, [2]int{128, 128}, "model.layers.3.mlp.gate"},
		"Mistral":     {`{"quant_method": "fp8", "activation_scheme": "static", "dequantize": false, "weight_block_size": null, "modules_to_not_convert": ["model.vision_tower", "lm_head"]}`, [2]int{}, "model.vision_tower.layers.0.proj"},
		"AutoFP8":     {`{"quant_method": "fp8", "activation_scheme": "static", "ignored_layers": ["lm_head"], "kv_cache_scheme": "static"}`, [2]int{}, "lm_head"},
		"FBGEMM":      {`{"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0, "modules_to_not_convert": ["model.layers.0.self_attn.q_proj"]}`, [2]int{}, "model.layers.0.self_attn.q_proj"},
		"ModelOpt":    {`{"quant_method": "modelopt", "quant_algo": "FP8", "producer": {"name": "modelopt"}, "ignore": ["lm_head"], "config_groups": {"group_0": {"targets": ["Linear"]}}}`, [2]int{}, "lm_head"},
		"FP8-BLOCK":   {`{"quant_method": "compressed-tensors", "format": "float-quantized", "ignore": ["lm_head"], "config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "float", "symmetric": true, "strategy": "block", "block_structure": [128, 128], "group_size": null, "actorder": null, "dynamic": false}, "input_activations": {"num_bits": 8, "type": "float", "strategy": "group", "group_size": 128, "dynamic": true}}}}`, [2]int{128, 128}, "lm_head"},
		"FP8-dynamic": {`{"quant_method": "compressed-tensors", "format": "float-quantized", "ignore": ["re:.*lm_head"], "config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "float", "symmetric": true, "strategy": "channel", "dynamic": false}}}}`, [2]int{}, "lm_head"},
	} {
		config, err := ParseConfig([]byte(c.config))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		s := config.schemeOf("model.layers.1.self_attn.q_proj")
		if s == nil || s.layout != layoutFloats || s.block != c.block {
			t.Errorf("%s: %+v", name, s)
		}
		if c.plain != "" && config.schemeOf(c.plain) != nil {
			t.Errorf("%s: %s is quantized", name, c.plain)
		}
	}
}

func TestPatterns(t *testing.T) {
	var p patterns
	if err := p.add("ignore", []string{"lm_head", "model.layers.1", "mlp.gate", "re:model[.]layers[.]2[.].*up_proj$", "visual."}); err != nil {
		t.Fatal(err)
	}
	for module, want := range map[string]bool{
		"lm_head": true, "model.layers.1.mlp.up_proj": true, "model.layers.10.mlp.up_proj": false, "model.layers.0.mlp.gate": true,
		"model.layers.0.mlp.gate_proj": false, "model.layers.2.mlp.up_proj": true, "a.model.layers.2.mlp.up_proj": false, "visual.blocks.0": true,
	} {
		if got := p.chooses(module); got != want {
			t.Errorf("%s: %v", module, got)
		}
	}
}

// FuzzCheckpoint: any config with any tensors gives errors, or weights whose rows can be had.
func FuzzCheckpoint(f *testing.F) {
	for name := range cases {
		raw, _ := checkpoint(f, name)
		file, err := os.ReadFile(filepath.Join("testdata", name, "model.safetensors"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(raw), file)
	}
	f.Fuzz(func(t *testing.T, raw string, data []byte) {
		config, err := ParseConfig([]byte(raw))
		if err != nil {
			return
		}
		file, err := safetensors.Parse("model.safetensors", data)
		if err != nil {
			return
		}
		s := Open(file, config)
		for _, name := range s.Names() {
			w, err := s.Weight(name)
			if err != nil || w == nil || w.Shape[0]*w.Shape[1] > 1<<20 {
				continue
			}
			if wide, err := w.Dequantize(gguf.BF16); err == nil && len(wide) != 2*w.Shape[0]*w.Shape[1] {
				t.Errorf("%s: %d bytes for %v", name, len(wide), w.Shape)
			}
			for _, dtype := range w.Types {
				if rows, err := w.Rows(dtype); err == nil && len(rows) != w.Shape[0]*dtype.RowBytes(w.Shape[1]) {
					t.Errorf("%s: %d bytes of %v for %v", name, len(rows), dtype, w.Shape)
				}
			}
		}
	})
}
