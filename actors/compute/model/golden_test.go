package model

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/troupe-engine/troupe/internal/safetensors"
)

// golden is what Hugging Face transformers computes from a checkpoint.
type golden struct {
	dir    string
	Prompt []int32 `json:"prompt_ids"`
	Greedy []int32 `json:"greedy_ids"`
	logits [][]float32
	spec   *Spec
}

func readGolden(t testing.TB, dir string) *golden {
	t.Helper()
	g := &golden{dir: dir}
	text, err := os.ReadFile(filepath.Join(dir, "golden.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, g); err != nil {
		t.Fatal(err)
	}
	if g.spec, err = ReadSpec(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	f, err := safetensors.Open(filepath.Join(dir, "golden.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	v, err := f.Tensor("logits")
	if err != nil {
		t.Fatal(err)
	}
	flat := floats(v.Data)
	for r := range v.Shape[0] {
		g.logits = append(g.logits, flat[r*v.Shape[1]:(r+1)*v.Shape[1]])
	}
	return g
}

// eachGolden runs a test on every folder with goldens: our own small ones and, where they are beside
// the repository, the larger shared ones.
func eachGolden(t *testing.T, run func(t *testing.T, g *golden)) {
	own, err := filepath.Glob("testdata/golden/*/golden.json")
	if err != nil || len(own) == 0 {
		t.Fatalf("no goldens in testdata: %v", err)
	}
	for _, path := range own {
		t.Run("own/"+filepath.Base(filepath.Dir(path)), func(t *testing.T) { run(t, readGolden(t, filepath.Dir(path))) })
	}
	for _, name := range []string{"llama", "llama-tied", "llama3-rope", "mistral-swa", "qwen2", "qwen3", "qwen3-moe", "mixtral", "phi3", "gemma2", "gemma3"} {
		t.Run("shared/"+name, func(t *testing.T) {
			g := readGolden(t, sharedDir(t, "golden", name))
			g.spec.roundFrequencies() // the shared goldens' models were cast as a whole
			run(t, g)
		})
	}
}

const goldenTolerance = 1e-4 // absolute, on logits of order 1..10 in float32

// TestGoldenLogits: the logits of every prompt token match transformers, and not a bit of them
// depends on the chunking, the block size or where the blocks lie.
func TestGoldenLogits(t *testing.T) {
	eachGolden(t, func(t *testing.T, g *golden) {
		e := newEngineOf(t, os.DirFS(g.dir), g.spec, testOptions)
		whole := e.logitsInChunks(&sequence{slot: 0}, g.Prompt, len(g.Prompt))
		d := maxDiff(t, whole, g.logits)
		t.Logf("largest difference from transformers: %.2g", d)
		if d > goldenTolerance {
			t.Fatalf("logits differ by %g, allowed %g", d, goldenTolerance)
		}
		e.scramble(7)
		for i, sizes := range [][]int{{1}, {3}, {7}, {16, 1, 23}} {
			got := e.logitsInChunks(&sequence{slot: i + 1}, g.Prompt, sizes...)
			requireIdentical(t, "chunked prefill", got, whole)
		}
		big := testOptions
		big.BlockSize, big.KVBlocks = 16, 20
		e = newEngineOf(t, os.DirFS(g.dir), g.spec, big)
		e.scramble(9)
		requireIdentical(t, "blocks of 16", e.logitsInChunks(&sequence{slot: 2}, g.Prompt, 5), whole)
	})
}

// TestGoldenGreedy: 24 tokens sampled on the device and fed back there are transformers' own.
func TestGoldenGreedy(t *testing.T) {
	eachGolden(t, func(t *testing.T, g *golden) {
		e := newEngineOf(t, os.DirFS(g.dir), g.spec, testOptions)
		e.scramble(3)
		got := e.greedy(&sequence{slot: 4}, g.Prompt, len(g.Greedy))
		if !slices.Equal(got, g.Greedy) {
			t.Errorf("greedy ids\n got %v\nwant %v", got, g.Greedy)
		}
	})
}
