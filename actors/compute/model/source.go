package model

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"

	"github.com/troupe-engine/troupe/gpu"
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

// plainTypes are the stored types that need no conversion; quantizedTypes those that a device may take.
var (
	plainTypes     = map[gguf.Type]gpu.DType{gguf.F32: gpu.F32, gguf.F16: gpu.F16, gguf.BF16: gpu.BF16}
	quantizedTypes = map[gguf.Type]gpu.DType{gguf.Q8_0: gpu.Q8_0, gguf.Q4_0: gpu.Q4_0, gguf.Q4_1: gpu.Q4_1, gguf.Q4_K: gpu.Q4_K, gguf.Q6_K: gpu.Q6_K}
)

// pack makes a weight of tensors that are stacked in order. Quantized ones of one type stay as they are if
// the device takes them; what it does not take gets the device's compute type.
func (l *loader) pack(name string, n, k int, tensors []checkpoint.Tensor) (gpu.Tensor, error) {
	stored, same := tensors[0].Type, true
	for _, t := range tensors[1:] {
		same = same && t.Type == stored
	}
	if same {
		dtype, ok := plainTypes[stored]
		if !ok {
			dtype, ok = quantizedTypes[stored]
		}
		if ok {
			t, err := l.mem.pack(name, dtype, n, k, dataOf(tensors)...)
			if !errors.Is(err, gpu.ErrNotSupported) {
				return t, err
			}
		}
	}
	dtype := l.mem.dev.Info().Compute
	for i := range tensors {
		tensors[i].Data = convert(tensors[i], dtype)
	}
	return l.mem.pack(name, dtype, n, k, dataOf(tensors)...)
}

func dataOf(tensors []checkpoint.Tensor) [][]byte {
	out := make([][]byte, len(tensors))
	for i, t := range tensors {
		out[i] = t.Data
	}
	return out
}

// convert returns the elements of t as dtype, F32, F16 or BF16.
func convert(t checkpoint.Tensor, dtype gpu.DType) []byte {
	if plainTypes[t.Type] == dtype {
		return t.Data
	}
	values := make([]float32, len(t.Data)/t.Type.BlockBytes()*t.Type.BlockLen())
	gguf.Dequantize(t.Type, values, t.Data)
	out := make([]byte, 0, len(values)*dtype.Size())
	for _, v := range values {
		switch dtype {
		case gpu.F32:
			out = binary.LittleEndian.AppendUint32(out, math.Float32bits(v))
		case gpu.BF16:
			out = binary.LittleEndian.AppendUint16(out, uint16(math.Float32bits(roundBF16(v))>>16))
		default:
			panic(fmt.Sprintf("model: no conversion to %v", dtype)) // no device computes in it
		}
	}
	return out
}
