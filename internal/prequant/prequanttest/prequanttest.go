// Package prequanttest helps to test devices and loaders with checkpoints that are quantized.
package prequanttest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"testing/fstest"

	"github.com/troupe-engine/troupe/internal/gguf"
	"github.com/troupe-engine/troupe/internal/prequant"
	"github.com/troupe-engine/troupe/internal/safetensors"
)

// Cases are the directories of internal/prequant/testdata.
var Cases = []string{"awq", "float-channel", "fp8-block", "fp8-block-128", "fp8-tensor", "gptq-8bit", "gptq-channel", "gptq-v1", "gptq-v2-act-order",
	"int8-channel", "int8-zeros", "packed-mixed", "packed-symmetric"}

// Vocabulary is the number of tokens of each case's model.
const Vocabulary = 32

// Dequantized is the model in files with the matrices that are quantized as float32 instead.
func Dequantized(files fs.FS) (fs.FS, error) {
	text, err := fs.ReadFile(files, "config.json")
	if err != nil {
		return nil, err
	}
	config := map[string]json.RawMessage{}
	if err := json.Unmarshal(text, &config); err != nil {
		return nil, err
	}
	quantization, err := prequant.ParseConfig(config["quantization_config"])
	if err != nil {
		return nil, err
	}
	delete(config, "quantization_config")
	if text, err = json.Marshal(config); err != nil {
		return nil, err
	}
	file, err := safetensors.OpenDir(files)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = writeDequantized(&out, file, prequant.Open(file, quantization))
	if cerr := file.Close(); err == nil {
		err = cerr
	}
	return fstest.MapFS{"config.json": {Data: text}, "model.safetensors": {Data: out.Bytes()}}, err
}

func writeDequantized(out *bytes.Buffer, file *safetensors.File, source *prequant.Source) error {
	var tensors []safetensors.Named
	for _, name := range source.Names() {
		w, err := source.Weight(name)
		if err != nil {
			return err
		}
		var v safetensors.View
		if w == nil {
			v, err = file.Tensor(name)
		} else {
			v = safetensors.View{DType: safetensors.F32, Shape: w.Shape}
			v.Data, err = w.Dequantize(gguf.F32)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		tensors = append(tensors, safetensors.Named{Name: name, View: v})
	}
	return safetensors.Write(out, tensors)
}
