package model

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/cpu"
	"github.com/troupe-engine/troupe/internal/gguf/checkpoint"
)

// TestQuantizedGoldens: with weights quantized as they load, logits stay near those of transformers, and not a
// bit of them depends on the chunking.
func TestQuantizedGoldens(t *testing.T) {
	// What rounding does to the logits of these random models, of their root mean square; the most where it
	// sends a token to other experts.
	for quantize, limit := range map[string]float64{QuantizeQ8: 0.1, QuantizeQ4: 0.4} {
		t.Run(quantize, func(t *testing.T) {
			eachGolden(t, func(t *testing.T, g *golden) {
				o := testOptions
				o.Quantize = quantize
				e := newEngineOf(t, os.DirFS(g.dir), g.spec, o)
				whole := e.logitsInChunks(&sequence{slot: 0}, g.Prompt, len(g.Prompt))
				d := relativeDiff(whole, g.logits)
				t.Logf("difference from transformers: %.2g of the logits", d)
				limit := limit
				if g.spec.LogitSoftCap > 0 {
					limit *= 2 // Gemma 2's random queries and keys are large and not normalized: attention all but picks one
				}
				if d > limit {
					t.Errorf("logits differ by %g of their size, allowed %g", d, limit)
				}
				for i, sizes := range [][]int{{1}, {3}, {16, 1, 23}} {
					requireIdentical(t, "chunked prefill", e.logitsInChunks(&sequence{slot: i + 1}, g.Prompt, sizes...), whole)
				}
			})
		})
	}
}

// TestRoundedGoldens: with activations rounded to bfloat16 for products, logits stay near those of transformers, and
// not a bit of them depends on the chunking.
func TestRoundedGoldens(t *testing.T) {
	eachGolden(t, func(t *testing.T, g *golden) {
		dev, err := cpu.Open(cpu.Options{Threads: 2, Compute: gpu.BF16})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := dev.Close(); err != nil {
				t.Error(err)
			}
		})
		e := newEngineOn(t, dev, os.DirFS(g.dir), g.spec, testOptions)
		whole := e.logitsInChunks(&sequence{slot: 0}, g.Prompt, len(g.Prompt))
		d := relativeDiff(whole, g.logits)
		t.Logf("difference from transformers: %.2g of the logits", d)
		limit := 0.05
		if g.spec.Layers[len(g.spec.Layers)-1].MoE {
			limit = 0.25 // a token that is sent to other experts
		}
		if d > limit || d == 0 {
			t.Errorf("logits differ by %g of their size, allowed is %g and more than 0", d, limit)
		}
		for i, sizes := range [][]int{{1}, {3}, {16, 1, 23}} {
			requireIdentical(t, "chunked prefill", e.logitsInChunks(&sequence{slot: i + 1}, g.Prompt, sizes...), whole)
		}
	})
}

// relativeDiff is the root mean square of got-want, as a share of want's.
func relativeDiff(got, want [][]float32) float64 {
	var off, size float64
	for r := range want {
		for i, w := range want[r] {
			off += (float64(got[r][i]) - float64(w)) * (float64(got[r][i]) - float64(w))
			size += float64(w) * float64(w)
		}
	}
	return math.Sqrt(off / size)
}

// TestStoryFromGGUF: both forms of a model tell the same story.
func TestStoryFromGGUF(t *testing.T) {
	dir := sharedDir(t, "models", "stories260K-hf")
	o := Options{SequencesMax: 1, TokensPerStepMax: 8, BlockSize: 16, KVBlocks: 8}
	tell := func(e *engine) string {
		return decode(t, dir, e.greedy(&sequence{}, e.m.Spec().Generation.BOS, 60))
	}
	want := tell(newEngine(t, os.DirFS(dir), o))
	e := newEngine(t, checkpoint.NewDir(filepath.Join(filepath.Dir(dir), "stories260K-f32.gguf")), o)
	if got := tell(e); got != want || !strings.HasPrefix(got, "Once upon a time") {
		t.Errorf("the GGUF file tells\n%s\nand the directory\n%s", got, want)
	}
	if unused := e.m.UnusedTensors(); len(unused) != 0 {
		t.Errorf("unused tensors: %v", unused)
	}
}

func TestQuantizeOption(t *testing.T) {
	o := testOptions
	o.Quantize = "q3"
	if _, err := Load(openDevice(t), os.DirFS(tinyDir), o, nil); err == nil || !strings.Contains(err.Error(), `Options.Quantize is "q3"`) {
		t.Error(err)
	}
}

// An expert is quantized only if the rows of all of its matrices are whole blocks, so that none has two kinds of weights.
func TestExpertsAreQuantizedAsAWhole(t *testing.T) {
	dense, moe := LayerSpec{Intermediate: 90}, LayerSpec{Intermediate: 96, MoE: true}
	for elements, want := range map[int]bool{1: true, 32: true, 64: false, 128: false} {
		s := Spec{HiddenSize: 64, Layers: []LayerSpec{dense, moe}}
		if got := s.expertRows(elements); got != want {
			t.Errorf("blocks of %d: %v, want %v", elements, got, want)
		}
		if s.HiddenSize = 48; elements > 16 && s.expertRows(elements) {
			t.Errorf("blocks of %d in rows of 48", elements)
		}
	}
}
