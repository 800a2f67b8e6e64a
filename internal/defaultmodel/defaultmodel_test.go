package defaultmodel

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/troupe-engine/troupe/internal/jinja"
)

// sizeMaxBytes bounds everything this folder adds to the repository.
const sizeMaxBytes = 8_000_000

type config struct {
	Architectures    []string `json:"architectures"`
	HiddenSize       int      `json:"hidden_size"`
	HeadDim          int      `json:"head_dim"`
	IntermediateSize int      `json:"intermediate_size"`
	Layers           int      `json:"num_hidden_layers"`
	Heads            int      `json:"num_attention_heads"`
	KVHeads          int      `json:"num_key_value_heads"`
	MaxPosition      int      `json:"max_position_embeddings"`
	VocabSize        int      `json:"vocab_size"`
	Tied             bool     `json:"tie_word_embeddings"`
	BOS              int      `json:"bos_token_id"`
	EOS              int      `json:"eos_token_id"`
}

type tensor struct {
	DType   string   `json:"dtype"`
	Shape   []int64  `json:"shape"`
	Offsets [2]int64 `json:"data_offsets"`
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	data, err := fs.ReadFile(Files(), name)
	if err != nil {
		t.Fatalf("embedded model: %v", err)
	}
	return data
}

func readJSON(t *testing.T, name string, into any) {
	t.Helper()
	if err := json.Unmarshal(read(t, name), into); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

func readConfig(t *testing.T) config {
	t.Helper()
	var c config
	readJSON(t, "config.json", &c)
	return c
}

func TestEverythingFitsTheSizeLimit(t *testing.T) {
	var total int64
	for _, root := range []string{Name, "testdata"} {
		err := filepath.WalkDir(root, func(_ string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			info, err := entry.Info()
			if err == nil {
				total += info.Size()
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if total > sizeMaxBytes {
		t.Errorf("the model and its goldens take %d bytes, more than %d", total, sizeMaxBytes)
	}
	if total < 1_000_000 {
		t.Errorf("the model and its goldens take only %d bytes; are the weights there?", total)
	}
}

func TestConfigIsAConsistentLlama(t *testing.T) {
	c := readConfig(t)
	if len(c.Architectures) != 1 || c.Architectures[0] != "LlamaForCausalLM" {
		t.Errorf("architectures = %v", c.Architectures)
	}
	if c.Heads*c.HeadDim != c.HiddenSize || c.KVHeads < 1 || c.Heads%c.KVHeads != 0 {
		t.Errorf("%d heads of %d over %d KV heads do not make a hidden size of %d", c.Heads, c.HeadDim, c.KVHeads, c.HiddenSize)
	}
	if c.HiddenSize%32 != 0 || c.IntermediateSize%32 != 0 {
		t.Errorf("sizes %d and %d are not multiples of 32, as blockwise quantization wants", c.HiddenSize, c.IntermediateSize)
	}
	if c.MaxPosition < 1024 || !c.Tied {
		t.Errorf("max_position_embeddings = %d, tie_word_embeddings = %v", c.MaxPosition, c.Tied)
	}
}

// wantShapes lists every tensor that the config implies, with its shape.
func wantShapes(c config) map[string][]int64 {
	hidden, ffn := int64(c.HiddenSize), int64(c.IntermediateSize)
	q, kv := int64(c.Heads*c.HeadDim), int64(c.KVHeads*c.HeadDim)
	want := map[string][]int64{
		"model.embed_tokens.weight": {int64(c.VocabSize), hidden},
		"model.norm.weight":         {hidden},
	}
	for layer := range c.Layers {
		for name, shape := range map[string][]int64{
			"input_layernorm":          {hidden},
			"post_attention_layernorm": {hidden},
			"self_attn.q_proj":         {q, hidden},
			"self_attn.k_proj":         {kv, hidden},
			"self_attn.v_proj":         {kv, hidden},
			"self_attn.o_proj":         {hidden, q},
			"mlp.gate_proj":            {ffn, hidden},
			"mlp.up_proj":              {ffn, hidden},
			"mlp.down_proj":            {hidden, ffn},
		} {
			want[fmt.Sprintf("model.layers.%d.%s.weight", layer, name)] = shape
		}
	}
	return want
}

func TestWeightsHoldTheTensorsOfTheConfig(t *testing.T) {
	data := read(t, "model.safetensors")
	if len(data) < 8 {
		t.Fatalf("model.safetensors has %d bytes", len(data))
	}
	header := binary.LittleEndian.Uint64(data)
	if header > uint64(len(data)-8) {
		t.Fatalf("the header claims %d of %d bytes", header, len(data))
	}
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(data[8:8+header], &raw); err != nil {
		t.Fatal(err)
	}
	delete(raw, "__metadata__")
	want := wantShapes(readConfig(t))
	if len(raw) != len(want) {
		t.Errorf("%d tensors, want %d", len(raw), len(want))
	}
	var total int64
	for name, entry := range raw {
		var got tensor
		if err := json.Unmarshal(entry, &got); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got.DType != "BF16" || fmt.Sprint(got.Shape) != fmt.Sprint(want[name]) {
			t.Errorf("%s is %s %v, want BF16 %v", name, got.DType, got.Shape, want[name])
		}
		size := int64(2)
		for _, n := range got.Shape {
			size *= n
		}
		if got.Offsets[1]-got.Offsets[0] != size {
			t.Errorf("%s spans %v, want %d bytes", name, got.Offsets, size)
		}
		total += size
	}
	if rest := int64(len(data)) - 8 - int64(header); total != rest {
		t.Errorf("the tensors take %d bytes, the file holds %d after its header", total, rest)
	}
}

func TestTokenizerAgreesWithTheConfig(t *testing.T) {
	c := readConfig(t)
	var tokenizer struct {
		Added []struct {
			ID      int    `json:"id"`
			Content string `json:"content"`
			Special bool   `json:"special"`
		} `json:"added_tokens"`
		Model struct {
			Type  string         `json:"type"`
			Vocab map[string]int `json:"vocab"`
		} `json:"model"`
	}
	readJSON(t, "tokenizer.json", &tokenizer)
	ids := map[int]bool{}
	for token, id := range tokenizer.Model.Vocab {
		if id < 0 || id >= c.VocabSize || ids[id] {
			t.Errorf("token %q has id %d, out of range or taken", token, id)
		}
		ids[id] = true
	}
	if tokenizer.Model.Type != "BPE" || len(ids) != c.VocabSize {
		t.Errorf("a %s model of %d tokens, want BPE and %d", tokenizer.Model.Type, len(ids), c.VocabSize)
	}
	special := map[string]int{}
	for _, token := range tokenizer.Added {
		if !token.Special {
			t.Errorf("added token %q is not special", token.Content)
		}
		special[token.Content] = token.ID
	}
	var settings struct {
		BOS      string `json:"bos_token"`
		EOS      string `json:"eos_token"`
		Template string `json:"chat_template"`
	}
	readJSON(t, "tokenizer_config.json", &settings)
	if id, ok := special[settings.BOS]; !ok || id != c.BOS {
		t.Errorf("bos_token %q has id %d, config.json says %d", settings.BOS, id, c.BOS)
	}
	if id, ok := special[settings.EOS]; !ok || id != c.EOS {
		t.Errorf("eos_token %q has id %d, config.json says %d", settings.EOS, id, c.EOS)
	}
	if got, want := render(t, settings.Template), dialogue; got != want {
		t.Errorf("the chat template writes\n%s\nwant\n%s", got, want)
	}
	var generation struct {
		EOS []int `json:"eos_token_id"`
	}
	readJSON(t, "generation_config.json", &generation)
	if fmt.Sprint(generation.EOS) != fmt.Sprint([]int{c.EOS, special["<|end|>"]}) {
		t.Errorf("generation stops at %v, want <|eos|> and <|end|>", generation.EOS)
	}
}

// dialogue is what the chat template makes of render's messages: the roles that the model was trained on as it saw them,
// and the others by their means.
const dialogue = "<|bos|><|system|>Be kind.<|end|><|system|>Be brief.<|end|><|user|>How warm is it?<|end|>" +
	`<|assistant|><tool_call>{"name": "thermometer", "arguments": {"unit": "C"}}</tool_call><|end|>` +
	`<|user|>{"degrees": 21}<|end|><|assistant|>Warm.<|end|><|assistant|>`

func render(t *testing.T, source string) string {
	t.Helper()
	template, err := jinja.Parse(source)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := jinja.FromJSON([]byte(`[{"role":"system","content":" Be kind. "},{"role":"developer","content":"Be brief."},
		{"role":"user","content":"How warm is it?"},
		{"role":"assistant","content":null,"tool_calls":[{"id":"1","type":"function","function":{"name":"thermometer","arguments":{"unit":"C"}}}]},
		{"role":"tool","tool_call_id":"1","content":"{\"degrees\": 21}"},{"role":"assistant","content":"Warm."}]`))
	if err != nil {
		t.Fatal(err)
	}
	out, err := template.Render(map[string]any{"bos_token": "<|bos|>", "add_generation_prompt": true, "messages": messages})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestModelCardNamesEverySource(t *testing.T) {
	card := string(read(t, "MODEL_CARD.md"))
	for _, name := range []string{
		"r-cran-janeaustenr", "r-cran-tokenizers", "golang-github-klauspost-compress-dev", "sentencepiece", "sword-text-web",
		"public domain", "train_tiny.py",
	} {
		if !strings.Contains(card, name) {
			t.Errorf("MODEL_CARD.md does not mention %s", name)
		}
	}
}

func TestGoldenMatchesTheModel(t *testing.T) {
	c := readConfig(t)
	data, err := os.ReadFile(filepath.Join("testdata", "golden.json"))
	if err != nil {
		t.Fatal(err)
	}
	var golden struct {
		Prompt []int   `json:"prompt_ids"`
		Greedy []int   `json:"greedy_ids"`
		Margin float64 `json:"greedy_margin_min"`
	}
	if err := json.Unmarshal(data, &golden); err != nil {
		t.Fatal(err)
	}
	if len(golden.Prompt) == 0 || len(golden.Greedy) != 24 || golden.Margin < 0.01 {
		t.Errorf("%d prompt ids, %d greedy ids, margin %g", len(golden.Prompt), len(golden.Greedy), golden.Margin)
	}
	for _, id := range append(golden.Prompt, golden.Greedy...) {
		if id < 0 || id >= c.VocabSize {
			t.Errorf("id %d is outside the vocabulary of %d", id, c.VocabSize)
		}
	}
	logits, err := os.ReadFile(filepath.Join("testdata", "golden.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	shape := fmt.Sprintf(`"shape":[%d,%d]`, len(golden.Prompt), c.VocabSize)
	if !bytes.Contains(logits[:min(len(logits), 512)], []byte(shape)) {
		t.Errorf("golden.safetensors does not hold logits of %s", shape)
	}
}
