package checkpoint_test

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/troupe-engine/troupe/internal/gguf/checkpoint"
	"github.com/troupe-engine/troupe/internal/tokenizers"
)

// TestTokensAreThoseOfLlamaCpp: the ids that llama.cpp (node-llama-cpp 3.22) gives for texts with all kinds of
// characters, of a byte-level and of a sentencepiece vocabulary.
func TestTokensAreThoseOfLlamaCpp(t *testing.T) {
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Skip("SKIPPED: no cache directory: ", err)
	}
	store := os.Getenv("TROUPE_MODELS")
	if store == "" {
		store = filepath.Join(cache, "troupe", "models")
	}
	for expected, file := range map[string]string{
		"smollm2_tokens.json":     filepath.Join(store, "smollm2-135m", "SmolLM2-135M-Instruct.Q4_1.gguf"),
		"stories260k_tokens.json": filepath.Join("..", "..", "..", "..", "shared", "models", "stories260K-f32.gguf"),
	} {
		t.Run(expected, func(t *testing.T) {
			if _, err := os.Stat(file); err != nil {
				t.Skipf("SKIPPED: the model is not here (scripts/fetch_smollm2.sh): %v", err)
			}
			raw, err := fs.ReadFile(checkpoint.NewDir(file), "tokenizer.json")
			if err != nil {
				t.Fatal(err)
			}
			tok, err := tokenizers.Load(raw)
			if err != nil {
				t.Fatal(err)
			}
			var cases []struct {
				Text string
				IDs  []int32
			}
			if raw, err = os.ReadFile(filepath.Join("testdata", expected)); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(raw, &cases); err != nil {
				t.Fatal(err)
			}
			for _, c := range cases {
				got, err := tok.Encode(c.Text, false)
				if err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(got, c.IDs) {
					t.Errorf("%q\n got %v\nwant %v", c.Text, got, c.IDs)
				}
			}
		})
	}
}
