package model

import (
	"errors"
	"fmt"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/internal/gguf"
	"github.com/troupe-engine/troupe/internal/gguf/checkpoint"
)

// The values of Options.Quantize.
const (
	QuantizeOff = ""
	QuantizeQ8  = "q8" // matrices and embeddings as Q8_0
	QuantizeQ4  = "q4" // matrices as Q4_1, embeddings and output projection as Q8_0
)

// plainTypes are the stored types that devices take without a scale; quantizedTypes those with.
var (
	plainTypes     = map[gguf.Type]gpu.DType{gguf.F32: gpu.F32, gguf.F16: gpu.F16, gguf.BF16: gpu.BF16}
	quantizedTypes = map[gguf.Type]gpu.DType{gguf.Q8_0: gpu.Q8_0, gguf.Q4_0: gpu.Q4_0, gguf.Q4_1: gpu.Q4_1, gguf.Q4_K: gpu.Q4_K, gguf.Q6_K: gpu.Q6_K}
)

// layouts lists the types to try for a weight made of tensors, each [rows, k], until the device takes one.
// That is only what Options.Quantize asks for, if it does; otherwise the type they are stored in, Q8_0 for
// quantized ones that differ or that a device lacks, and the device's compute type.
func (l *loader) layouts(k int, purpose use, tensors []checkpoint.Tensor) []gguf.Type {
	stored, same, quantized := tensors[0].Type, true, false
	for _, t := range tensors {
		same = same && t.Type == stored
		quantized = quantized || t.Type.Quantized()
	}
	if l.quantize != QuantizeOff && purpose != routing && !quantized && k%gguf.Q8_0.BlockLen() == 0 {
		if l.quantize == QuantizeQ4 && purpose == multiplied {
			return []gguf.Type{gguf.Q4_1}
		}
		return []gguf.Type{gguf.Q8_0}
	}
	var list []gguf.Type
	if same && (plainTypes[stored] != 0 || quantizedTypes[stored] != 0) {
		list = append(list, stored)
	}
	if quantized && k%gguf.Q8_0.BlockLen() == 0 {
		list = append(list, gguf.Q8_0)
	}
	for t, dtype := range plainTypes {
		if dtype == l.mem.dev.Info().Compute {
			list = append(list, t)
		}
	}
	return list
}

// use says what a tensor is for.
type use int

const (
	multiplied use = iota // a packed weight
	embedding             // the embedding table, packed only where it is quantized
	output                // a packed weight that is as sensitive as the embeddings
	routing               // a packed weight so small and sensitive that it is not worth quantizing
)

// place puts tensors, stacked in order, on the device in the first of their layouts that it takes.
func (l *loader) place(name string, n, k int, purpose use, tensors []checkpoint.Tensor) (gpu.Tensor, error) {
	for _, layout := range l.layouts(k, purpose, tensors) {
		dtype, plain := plainTypes[layout]
		if !plain {
			dtype = quantizedTypes[layout]
		}
		if l.refused[dtype] {
			continue
		}
		parts := make([][]byte, len(tensors))
		for i, t := range tensors {
			var err error
			if parts[i], err = l.convert(t, layout, k); err != nil {
				return gpu.Tensor{}, err
			}
		}
		if plain && purpose == embedding {
			t, err := l.mem.alloc(dtype, n, k)
			if err == nil {
				err = l.mem.dev.Upload(t, parts[0])
			}
			return t, err
		}
		t, err := l.mem.pack(name, dtype, n, k, parts...)
		if !errors.Is(err, gpu.ErrNotSupported) {
			return t, err
		}
		if l.refused == nil {
			l.refused = map[gpu.DType]bool{}
		}
		l.refused[dtype] = true // nothing is converted in vain again
	}
	if l.quantize != QuantizeOff {
		return gpu.Tensor{}, fmt.Errorf("%w: %s does not execute quantized weights; load the model as it is stored, or use the cpu device",
			gpu.ErrNotSupported, l.mem.dev.Info().Name)
	}
	return gpu.Tensor{}, fmt.Errorf("%w: %s takes no type that the tensor can have", gpu.ErrNotSupported, l.mem.dev.Info().Name)
}

// convert returns the elements of t, in rows of k, as another type. What Options.Quantize asks for is made with the
// care of a file for good, what a device merely lacks without.
func (l *loader) convert(t checkpoint.Tensor, to gguf.Type, k int) ([]byte, error) {
	if l.quantize != QuantizeOff {
		return convert(t, to, k, gguf.QuantizeFit)
	}
	return convert(t, to, k, gguf.Quantize)
}

func convert(t checkpoint.Tensor, to gguf.Type, k int, quantize gguf.Quantizer) ([]byte, error) {
	if t.Type == to {
		return t.Data, nil
	}
	if to == gguf.Q8_0 {
		if out, exact := gguf.Transcode(nil, t.Type, t.Data); exact {
			return out, nil
		}
	}
	out := make([]byte, len(t.Data)/t.Type.Bytes(k)*to.Bytes(k))
	return out, gguf.ConvertRows(out, to, t.Data, t.Type, k, quantize)
}
