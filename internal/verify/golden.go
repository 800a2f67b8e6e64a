// Package verify compares an engine with what Hugging Face transformers computes: the logits of a
// prompt and the greedy continuation, through scheduler, memory and compute, in every way in which the
// engine may choose to run them.
package verify

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io/fs"
	"math"

	"github.com/troupe-engine/troupe/internal/safetensors"
)

// Golden is what a reference computed for a model.
type Golden struct {
	Prompt []int32     // token ids
	Greedy []int32     // the tokens that follow
	Margin float64     // the smallest gap between the two largest logits on the way
	Logits [][]float32 // [len(Prompt)][vocabulary]
}

// ReadGolden reads golden.json and golden.safetensors.
func ReadGolden(files fs.FS) (*Golden, error) {
	raw, err := fs.ReadFile(files, "golden.json")
	if err != nil {
		return nil, err
	}
	var doc struct {
		Prompt []int32 `json:"prompt_ids"`
		Greedy []int32 `json:"greedy_ids"`
		Margin float64 `json:"greedy_margin_min"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, fmt.Errorf("golden.json: %w", err)
	}
	if len(doc.Prompt) == 0 || len(doc.Greedy) == 0 {
		return nil, fmt.Errorf("golden.json: prompt_ids and greedy_ids: want at least one id each, have %d and %d", len(doc.Prompt), len(doc.Greedy))
	}
	file, err := safetensors.OpenFS(files, "golden.safetensors")
	if err != nil {
		return nil, err
	}
	defer file.Close()
	logits, err := file.Tensor("logits")
	if err != nil {
		return nil, err
	}
	if logits.DType != safetensors.F32 || len(logits.Shape) != 2 || logits.Shape[0] != len(doc.Prompt) {
		return nil, fmt.Errorf("golden.safetensors: logits is %v %v; want F32 [%d, vocabulary]", logits.DType, logits.Shape, len(doc.Prompt))
	}
	g := &Golden{Prompt: doc.Prompt, Greedy: doc.Greedy, Margin: doc.Margin}
	vocab := logits.Shape[1]
	for row := range doc.Prompt {
		values := make([]float32, vocab)
		for i := range values {
			values[i] = math.Float32frombits(binary.LittleEndian.Uint32(logits.Data[4*(row*vocab+i):]))
		}
		g.Logits = append(g.Logits, values)
	}
	return g, nil
}
