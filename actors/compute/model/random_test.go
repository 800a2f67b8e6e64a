package model

import (
	"math"
	"testing"
	"testing/fstest"

	"github.com/troupe-engine/troupe/gpu"
)

// A config alone makes a model whose logits are of a sensible size, the same for a seed and others for another.
func TestRandomWeights(t *testing.T) {
	files := fstest.MapFS{"config.json": {Data: []byte(`{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 300,
		"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
		"max_position_embeddings": 128, "rms_norm_eps": 1e-5, "tie_word_embeddings": false}`)}}
	prompt := []int32{1, 17, 250, 3, 3, 99}
	run := func(seed uint64) [][]float32 {
		opts := testOptions
		opts.RandomSeed = &seed
		e := newEngine(t, files, opts)
		const parameters = 2*300*64 + 3*((64+2*32)*64+64*64+3*96*64+2*64) + 64
		if e.m.Parameters() != parameters {
			t.Errorf("%d parameters, want %d", e.m.Parameters(), parameters)
		}
		return e.logitsInChunks(&sequence{slot: 0}, prompt, len(prompt))
	}
	first, again, other := run(1), run(1), run(2)
	requireIdentical(t, "the same seed", again, first)
	if maxDiff(t, other, first) == 0 {
		t.Error("two seeds give the same logits")
	}
	for _, row := range first {
		var squares float64
		for _, v := range row {
			squares += float64(v) * float64(v)
		}
		if deviation := math.Sqrt(squares / float64(len(row))); !(deviation > 0.3 && deviation < 3) {
			t.Errorf("logits have a deviation of %g, want about 1", deviation)
		}
	}
}

// Experts are drawn quantized where the device multiplies such and all their rows are whole blocks; what is not of experts is as it
// was asked for.
func TestDrawnTypes(t *testing.T) {
	spec := &Spec{HiddenSize: 256, Layers: []LayerSpec{{Intermediate: 704, MoE: true}}}
	for _, c := range []struct {
		asked   gpu.DType
		purpose use
		experts []gpu.DType
		want    gpu.DType
	}{
		{gpu.Q4_1, expert, []gpu.DType{gpu.Q4_1, gpu.Q4_K}, gpu.Q4_1},
		{gpu.Q4_1, expert, nil, gpu.BF16},
		{gpu.Q4_K, expert, []gpu.DType{gpu.Q4_1, gpu.Q4_K}, gpu.BF16}, // blocks of 256, rows of 704
		{gpu.Q4_K, multiplied, nil, gpu.Q4_K},
		{gpu.Q4_K, output, nil, gpu.Q8_0},
		{gpu.Q4_K, embedding, nil, gpu.BF16},
	} {
		if got := (&drawnWeights{dtype: c.asked}).typeFor(c.purpose, spec, c.experts); got != c.want {
			t.Errorf("%v asked for, use %d, the device has experts of %v: %v, want %v", c.asked, c.purpose, c.experts, got, c.want)
		}
	}
}
