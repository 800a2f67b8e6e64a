package tokenizers

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// sharedDir returns ../shared/tokenizers beside the repository, or skips the test.
func sharedDir(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Fatal("no go.mod above the working directory")
		}
		dir = parent
	}
	shared := filepath.Join(dir, "..", "shared", "tokenizers")
	if _, err := os.Stat(shared); err != nil {
		t.Skipf("SKIPPED: needs the real tokenizers in %s", shared)
	}
	return shared
}

var sharedTokenizers sync.Map // name → func() (*Tokenizer, error)

// sharedTokenizer loads a tokenizer of sharedDir, once.
func sharedTokenizer(t testing.TB, name string) *Tokenizer {
	t.Helper()
	dir := filepath.Join(sharedDir(t), name)
	load, _ := sharedTokenizers.LoadOrStore(name, sync.OnceValues(func() (*Tokenizer, error) {
		data, err := readMaybeGzip(filepath.Join(dir, "tokenizer.json"))
		if err != nil {
			return nil, err
		}
		return Load(data)
	}))
	tok, err := load.(func() (*Tokenizer, error))()
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return tok
}

// readMaybeGzip reads path, or path.gz if there is no such file.
func readMaybeGzip(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err == nil || !os.IsNotExist(err) {
		return data, err
	}
	packed, err := os.ReadFile(path + ".gz")
	if err != nil {
		return nil, err
	}
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// TestLlamaCppVectors runs llama.cpp's pairs of texts and expected ids, which have no special tokens added.
func TestLlamaCppVectors(t *testing.T) {
	t.Parallel()
	for vector, name := range map[string]string{
		"gpt-2": "gpt2", "llama-bpe": "llama3.1", "llama-spm": "llama2-spm-derived", "phi-3": "phi-3-mini", "qwen2": "qwen3",
	} {
		t.Run(vector, func(t *testing.T) {
			tok := sharedTokenizer(t, name)
			base := filepath.Join(sharedDir(t), "vectors", "llamacpp", "ggml-vocab-"+vector+".gguf")
			inputs, err := os.ReadFile(base + ".inp")
			if err != nil {
				t.Fatal(err)
			}
			outputs, err := os.ReadFile(base + ".out")
			if err != nil {
				t.Fatal(err)
			}
			texts := strings.Split(string(inputs), "\n__ggml_vocab_test__\n")
			lines := strings.Split(strings.TrimSuffix(string(outputs), "\n"), "\n")
			for i, text := range texts[:min(len(texts), len(lines))] {
				var want []int32
				for _, field := range strings.Fields(lines[i]) {
					id, err := strconv.Atoi(field)
					if err != nil {
						t.Fatal(err)
					}
					want = append(want, int32(id))
				}
				got, err := tok.Encode(text, false)
				if err != nil || !slices.Equal(got, want) {
					t.Errorf("%q: got %v (%v), want %v", text, got, err, want)
				}
			}
		})
	}
}

// TestTransformersJSVectors runs the test cases of transformers.js for the tokenizers at hand.
func TestTransformersJSVectors(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile(filepath.Join(sharedDir(t), "vectors", "transformersjs_vectors.json"))
	if err != nil {
		t.Fatal(err)
	}
	var families map[string]map[string]map[string]struct {
		Text    string
		IDs     []int32
		Decoded string
	}
	if err := json.Unmarshal(data, &families); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		family, vector, name string
		special              bool
		cleaned              bool // transformers cleaned up spaces after decoding
	}{
		{"gpt2", "Xenova/gpt2", "gpt2", true, true},
		{"gpt2", "openai-community/gpt2", "gpt2", true, true},
		{"llama", "Xenova/llama3-tokenizer", "llama3.1", false, true}, // made without a post-processor
		{"llama", "Xenova/llama3-tokenizer-new", "llama3.1", true, true},
		{"llama", "Xenova/llama-tokenizer", "llama2-spm-derived", true, false},
		{"qwen2", "Xenova/Qwen1.5-0.5B-Chat", "qwen3", true, false},
	} {
		t.Run(c.vector, func(t *testing.T) {
			tok := sharedTokenizer(t, c.name)
			if len(families[c.family][c.vector]) == 0 {
				t.Fatal("no vectors")
			}
			for name, v := range families[c.family][c.vector] {
				got, err := tok.Encode(v.Text, c.special)
				if err != nil || !slices.Equal(got, v.IDs) {
					t.Errorf("%s: %q: got %v (%v), want %v", name, v.Text, got, err, v.IDs)
				}
				decoded := tok.Decode(v.IDs, false)
				if c.cleaned {
					decoded = cleanUp(decoded)
				}
				if decoded != v.Decoded {
					t.Errorf("%s: decoded %q, want %q", name, decoded, v.Decoded)
				}
			}
		})
	}
}

// TestSwiftVectors runs the long text of swift-transformers.
func TestSwiftVectors(t *testing.T) {
	t.Parallel()
	for file, name := range map[string]string{
		"gpt2_encoded_tokens": "gpt2", "llama_3.2_encoded": "llama3.1", "llama_encoded": "llama2-spm-derived",
	} {
		t.Run(file, func(t *testing.T) {
			tok := sharedTokenizer(t, name)
			data, err := os.ReadFile(filepath.Join(sharedDir(t), "vectors", "swift-transformers", file+".json"))
			if err != nil {
				t.Fatal(err)
			}
			var v struct {
				Text    string
				IDs     []int32 `json:"token_ids"`
				Decoded string  `json:"decoded_text"`
			}
			if err := json.Unmarshal(data, &v); err != nil {
				t.Fatal(err)
			}
			got, err := tok.Encode(v.Text, true)
			if err != nil || !slices.Equal(got, v.IDs) {
				t.Errorf("got %v (%v), want %v", got, err, v.IDs)
			}
			if got := tok.Decode(v.IDs, false); got != v.Decoded {
				t.Errorf("decoded %q, want %q", got, v.Decoded)
			}
		})
	}
}
