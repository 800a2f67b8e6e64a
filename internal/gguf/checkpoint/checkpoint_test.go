package checkpoint_test

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/fstest"

	"github.com/troupe-engine/troupe/internal/gguf"
	"github.com/troupe-engine/troupe/internal/gguf/checkpoint"
	"github.com/troupe-engine/troupe/internal/safetensors"
	"github.com/troupe-engine/troupe/internal/tokenizers"
)

// shared are the two forms of one real model: a GGUF file and the directory it was made from.
func shared(t testing.TB) (file string, dir fs.FS) {
	root := filepath.Join("..", "..", "..", "..", "shared", "models")
	file = filepath.Join(root, "stories260K-f32.gguf")
	if _, err := os.Stat(file); err != nil {
		t.Skipf("SKIPPED: the real model is not here: %v", err)
	}
	return file, os.DirFS(filepath.Join(root, "stories260K-hf"))
}

// TestTensorsAreThoseOfTheCheckpoint: names, shapes, and values in the order of the other format.
func TestTensorsAreThoseOfTheCheckpoint(t *testing.T) {
	file, dir := shared(t)
	want, err := safetensors.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer want.Close()
	got, err := checkpoint.Open(os.DirFS(filepath.Dir(file)), filepath.Base(file))
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	for _, name := range got.Names() {
		g, err := got.Tensor(name)
		if err != nil {
			t.Fatal(err)
		}
		w, err := want.Tensor(name)
		if name == "lm_head.weight" && err != nil {
			w, err = want.Tensor("model.embed_tokens.weight") // tied there
		}
		if err != nil {
			t.Fatal(err)
		}
		if g.Type != gguf.F32 || !slices.Equal(g.Shape, w.Shape) || !bytes.Equal(g.Data, w.Data) {
			t.Errorf("%s: %v %v, want %v %v with the same %d bytes", name, g.Type, g.Shape, w.DType, w.Shape, len(w.Data))
		}
	}
	for _, name := range want.Names() {
		if !slices.Contains(got.Names(), name) {
			t.Errorf("%s is missing", name)
		}
	}
}

// TestConfigAndTokenizerAreThoseOfTheDirectory compares what the engine reads from both forms.
func TestConfigAndTokenizerAreThoseOfTheDirectory(t *testing.T) {
	file, dir := shared(t)
	made := checkpoint.NewDir(file)
	read := func(files fs.FS) (map[string]any, *tokenizers.Tokenizer) {
		raw, err := fs.ReadFile(files, "config.json")
		if err != nil {
			t.Fatal(err)
		}
		config := map[string]any{}
		if err := json.Unmarshal(raw, &config); err != nil {
			t.Fatal(err)
		}
		if raw, err = fs.ReadFile(files, "tokenizer.json"); err != nil {
			t.Fatal(err)
		}
		tok, err := tokenizers.Load(raw)
		if err != nil {
			t.Fatal(err)
		}
		return config, tok
	}
	gotConfig, got := read(made)
	wantConfig, want := read(dir)
	for _, key := range []string{"architectures", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
		"intermediate_size", "max_position_embeddings", "vocab_size"} {
		g, _ := json.Marshal(gotConfig[key])
		w, _ := json.Marshal(wantConfig[key])
		if !bytes.Equal(g, w) {
			t.Errorf("%s is %s, want %s", key, g, w)
		}
	}
	if gotConfig["dtype"] != "float32" { // the file was made in it
		t.Errorf("dtype is %v", gotConfig["dtype"])
	}
	for _, text := range []string{"Once upon a time", "", " two  spaces", "naïve 日本 🙂\n\tx", "<s> is no token of a text</s>"} {
		g, err := got.Encode(text, true)
		if err != nil {
			t.Fatal(err)
		}
		w, err := want.Encode(text, true)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(g, w) {
			t.Errorf("%q is %v, want %v", text, g, w)
		}
		if a, b := got.Decode(g, true), want.Decode(w, true); a != b {
			t.Errorf("%v is %q, want %q", g, a, b)
		}
	}
}

// FuzzDir: no bytes make the directory panic, and what it makes is JSON.
func FuzzDir(f *testing.F) {
	raw, err := os.ReadFile(filepath.Join("..", "testdata", "vectors.gguf"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	if file, there := sharedIfThere(); there {
		if raw, err := os.ReadFile(file); err == nil {
			f.Add(raw[:1<<15]) // metadata; the whole vocabulary would make mutations slow
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		files := fstest.MapFS{"x.gguf": {Data: data}}
		dir := checkpoint.NewDirFS(files, "x.gguf")
		for _, name := range []string{"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"} {
			if raw, err := fs.ReadFile(dir, name); err == nil && !json.Valid(raw) {
				t.Errorf("%s is no JSON: %.80s", name, raw)
			}
		}
		if w, err := checkpoint.Open(files, "x.gguf"); err == nil {
			for _, name := range w.Names() {
				_, _ = w.Tensor(name) // an error is fine, a panic is not
			}
			w.Close()
		}
	})
}

func sharedIfThere() (string, bool) {
	file := filepath.Join("..", "..", "..", "..", "shared", "models", "stories260K-f32.gguf")
	_, err := os.Stat(file)
	return file, err == nil
}

// TestStoredType: quantized matrices count as bfloat16, and norms do not count.
func TestStoredType(t *testing.T) {
	for kind, want := range map[gguf.Type]string{gguf.F32: "float32", gguf.F16: "float16", gguf.BF16: "bfloat16", gguf.Q4_0: "bfloat16"} {
		number := func(key string, n uint32) gguf.Pair { return gguf.Pair{Key: key, Value: gguf.Uint32Value(n)} }
		meta := []gguf.Pair{{Key: "general.architecture", Value: gguf.TextValue("llama")}, number("llama.attention.head_count", 1),
			number("llama.embedding_length", 32), number("llama.block_count", 1), number("llama.feed_forward_length", 32), number("llama.context_length", 32)}
		tensors := []gguf.Info{{Name: "token_embd.weight", Type: kind, Dims: []int{32, 2}}, {Name: "output_norm.weight", Type: gguf.F32, Dims: []int{32}}}
		var file bytes.Buffer
		w, err := gguf.NewWriter(&file, meta, tensors)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(make([]byte, 2*kind.Bytes(32)+4*32)); err != nil {
			t.Fatal(err)
		}
		raw, err := fs.ReadFile(checkpoint.NewDirFS(fstest.MapFS{"x.gguf": {Data: file.Bytes()}}, "x.gguf"), "config.json")
		if err != nil {
			t.Fatal(err)
		}
		config := map[string]any{}
		if err := json.Unmarshal(raw, &config); err != nil || config["dtype"] != want {
			t.Errorf("%v: dtype is %v (%v), want %s", kind, config["dtype"], err, want)
		}
	}
}
