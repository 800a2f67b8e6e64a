package model

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/internal/gguf"
	"github.com/troupe-engine/troupe/internal/gguf/checkpoint"
	"github.com/troupe-engine/troupe/internal/mmap"
	"github.com/troupe-engine/troupe/internal/prequant"
	"github.com/troupe-engine/troupe/internal/safetensors"
)

// source is a checkpoint, in whatever format, under the names that safetensors checkpoints use.
type source interface {
	Names() []string
	Tensor(name string) (checkpoint.Tensor, error)
	Origin(name string) string // the file that holds the tensor, for messages
	Bytes() int64
	Close() error
}

// openSource opens the safetensors files among files, whose matrices may be quantized, or else the GGUF file.
func openSource(files fs.FS, quantization *prequant.Config) (source, error) {
	file, err := safetensors.OpenDir(files)
	switch {
	case err == nil && quantization != nil:
		return quantizedSource{safetensorsSource{file}, prequant.Open(file, quantization)}, nil
	case err == nil:
		return safetensorsSource{file}, nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		if _, missing := fs.Stat(files, checkpoint.FileName); missing == nil {
			return checkpoint.Open(files, checkpoint.FileName)
		}
	}
	return nil, err
}

// safetensorsSource gives a safetensors checkpoint's tensors the types of package gguf.
type safetensorsSource struct{ *safetensors.File }

func (s safetensorsSource) Tensor(name string) (checkpoint.Tensor, error) {
	v, err := s.File.Tensor(name)
	if err != nil {
		return checkpoint.Tensor{}, err
	}
	t, ok := map[safetensors.DType]gguf.Type{safetensors.F32: gguf.F32, safetensors.F16: gguf.F16, safetensors.BF16: gguf.BF16}[v.DType]
	if !ok {
		return checkpoint.Tensor{}, fmt.Errorf("%s: tensor %q is %s, want F32, F16 or BF16 where config.json has no quantization_config for it", s.Origin(name), name, v.DType)
	}
	return checkpoint.Tensor{Type: t, Shape: v.Shape, Data: v.Data}, nil
}

// quantizedSource is a safetensors checkpoint whose config.json says that matrices are quantized.
type quantizedSource struct {
	safetensorsSource
	quantized *prequant.Source
}

func (s quantizedSource) Names() []string { return s.quantized.Names() }

// tensor is a tensor of a checkpoint. If the checkpoint's quantization_config covers it, quantized has its elements
// instead of Data, and Type is what they become on a device that does not multiply them as they are.
type tensor struct {
	checkpoint.Tensor
	quantized *prequant.Weight
}

// bytes and elements are what it has in the checkpoint.
func (t *tensor) bytes() int {
	if t.quantized != nil {
		return t.quantized.Bytes()
	}
	return len(t.Data)
}

func (t *tensor) elements() int {
	n := 1
	for _, d := range t.Shape {
		n *= d
	}
	return n
}

// forget tells the system that the checkpoint's copy is not needed any more.
func (t *tensor) forget() {
	if t.quantized != nil {
		t.quantized.Forget()
	}
	mmap.Forget(t.Data)
}

// read returns the tensor called name.
func (l *loader) read(name string) (tensor, error) {
	if s, ok := l.file.(quantizedSource); ok {
		w, err := s.quantized.Weight(name)
		if err != nil {
			return tensor{}, err
		}
		if w != nil {
			return tensor{checkpoint.Tensor{Type: ggufTypes[cmp.Or(l.spec.Stored, gpu.BF16)], Shape: w.Shape}, w}, nil
		}
	}
	t, err := l.file.Tensor(name)
	return tensor{Tensor: t}, err
}
