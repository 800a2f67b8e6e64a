package model

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestStory: a trained model tells a sane story greedily from its BOS token.
func TestStory(t *testing.T) {
	dir := sharedDir(t, "models", "stories260K-hf")
	e := newEngine(t, os.DirFS(dir), Options{SequencesMax: 1, TokensPerStepMax: 8, BlockSize: 16, KVBlocks: 8})
	bos := e.m.Spec().Generation.BOS
	if len(bos) != 1 {
		t.Fatalf("BOS = %v, want one id", bos)
	}
	story := decode(t, dir, e.greedy(&sequence{}, bos, 60))
	t.Logf("%s", story)
	if !strings.HasPrefix(story, "Once upon a time") {
		t.Errorf("story = %q", story)
	}
	if len(e.m.UnusedTensors()) != 0 {
		t.Errorf("unused tensors: %v", e.m.UnusedTensors())
	}
}

// decode looks ids up in tokenizer.json: enough for a byte-fallback sentencepiece vocabulary.
func decode(t *testing.T, dir string, ids []int32) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "tokenizer.json"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Model struct{ Vocab map[string]int32 }
	}
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	text := map[int32]string{}
	for piece, id := range file.Model.Vocab {
		if len(piece) == 6 && strings.HasPrefix(piece, "<0x") {
			if b, err := strconv.ParseUint(piece[3:5], 16, 8); err == nil {
				piece = string([]byte{byte(b)})
			}
		}
		text[id] = strings.ReplaceAll(piece, "▁", " ")
	}
	var out strings.Builder
	for _, id := range ids {
		out.WriteString(text[id])
	}
	return strings.TrimPrefix(out.String(), " ")
}
