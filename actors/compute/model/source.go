package model

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/troupe-engine/troupe/internal/gguf"
	"github.com/troupe-engine/troupe/internal/gguf/checkpoint"
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

// openSource opens the safetensors files among files, or else the GGUF file.
func openSource(files fs.FS) (source, error) {
	file, err := safetensors.OpenDir(files)
	if err == nil {
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
		return checkpoint.Tensor{}, fmt.Errorf("%s: tensor %q is %s, want F32, F16 or BF16", s.Origin(name), name, v.DType)
	}
	return checkpoint.Tensor{Type: t, Shape: v.Shape, Data: v.Data}, nil
}
