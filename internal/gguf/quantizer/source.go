package quantizer

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/troupe-engine/troupe/internal/gguf"
	"github.com/troupe-engine/troupe/internal/gguf/checkpoint"
	"github.com/troupe-engine/troupe/internal/safetensors"
)

// source is what is quantized.
type source struct {
	meta    []gguf.Pair
	tensors []tensor
	close   func() error
}

// tensor is one of the source's, mapped from its file.
type tensor struct {
	gguf.Info
	data []byte
}

func (t *tensor) fail(err error) error { return fmt.Errorf("tensor %q: %w", t.Name, err) }

// open opens a model's directory, or the GGUF file that stands for one. It refuses what an engine would not run.
func open(files fs.FS) (*source, error) {
	for _, name := range []string{"config.json", "tokenizer.json"} {
		if _, err := fs.Stat(files, name); err != nil {
			return nil, fmt.Errorf("the result must run alone, so %s is needed: %w", name, err)
		}
	}
	file, err := safetensors.OpenDir(files)
	if err == nil {
		return fromDirectory(files, file)
	}
	if _, missing := fs.Stat(files, checkpoint.FileName); missing != nil || !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	weights, err := checkpoint.Open(files, checkpoint.FileName)
	if err != nil {
		return nil, err
	}
	if err := weights.Close(); err != nil {
		return nil, err
	}
	f, err := gguf.OpenFS(files, checkpoint.FileName)
	if err != nil {
		return nil, err
	}
	return fromFile(f)
}

// fromFile takes over metadata and tensors as they are.
func fromFile(f *gguf.File) (*source, error) {
	s := &source{close: f.Close}
	for _, key := range f.Keys() {
		if v, _ := f.Meta(key); key != "general.alignment" { // the writer has its own
			s.meta = append(s.meta, gguf.Pair{Key: key, Value: v})
		}
	}
	for _, info := range f.Tensors() {
		t, err := f.Tensor(info.Name)
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		s.tensors = append(s.tensors, tensor{info, t.Data})
	}
	return s, nil
}

// fromDirectory makes an archive.
func fromDirectory(files fs.FS, f *safetensors.File) (*source, error) {
	s := &source{close: f.Close}
	var err error
	if s.meta, err = checkpoint.Archive(files); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	types := map[safetensors.DType]gguf.Type{safetensors.F32: gguf.F32, safetensors.F16: gguf.F16, safetensors.BF16: gguf.BF16}
	for _, name := range f.Names() {
		v, err := f.Tensor(name)
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		kind, ok := types[v.DType]
		if !ok {
			return nil, errors.Join(fmt.Errorf("%s: tensor %q is %s, want F32, F16 or BF16", f.Origin(name), name, v.DType), f.Close())
		}
		dims := slices.Clone(v.Shape)
		slices.Reverse(dims)
		s.tensors = append(s.tensors, tensor{gguf.Info{Name: name, Type: kind, Dims: dims}, v.Data})
	}
	return s, nil
}
