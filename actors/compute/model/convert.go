package model

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/internal/gguf"
	"github.com/troupe-engine/troupe/internal/gguf/checkpoint"
	"github.com/troupe-engine/troupe/internal/prequant"
)

// The values of Options.Quantize.
const (
	QuantizeOff = ""
	QuantizeQ8  = "q8" // matrices and embeddings as Q8_0, projections to values as they are stored
	QuantizeQ4  = "q4" // matrices as Q4_1, embeddings, output projection and those to values as Q8_0
	// QuantizeFP8 makes matrices 8-bit floats with a scale per row; embeddings and output projection become Q8_0, whose
	// steps are smaller.
	QuantizeFP8 = "fp8"
)

// quantizations are the values of Options.Quantize that ask for something.
var quantizations = []string{QuantizeQ8, QuantizeQ4, QuantizeFP8}

// plainTypes are the stored types that devices take without a scale; quantizedTypes those with.
var (
	plainTypes     = map[gguf.Type]gpu.DType{gguf.F32: gpu.F32, gguf.F16: gpu.F16, gguf.BF16: gpu.BF16}
	quantizedTypes = map[gguf.Type]gpu.DType{gguf.Q8_0: gpu.Q8_0, gguf.Q4_0: gpu.Q4_0, gguf.Q4_1: gpu.Q4_1, gguf.Q4_K: gpu.Q4_K, gguf.Q6_K: gpu.Q6_K}
)

// ggufTypes are both the other way round.
var ggufTypes = func() map[gpu.DType]gguf.Type {
	types := map[gpu.DType]gguf.Type{}
	for _, list := range []map[gguf.Type]gpu.DType{plainTypes, quantizedTypes} {
		for t, dtype := range list {
			types[dtype] = t
		}
	}
	return types
}()

// storedType is the type of a tensor's elements, or 0 where devices have none like it.
func storedType(t gguf.Type) gpu.DType { return plainTypes[t] | quantizedTypes[t] }

// layouts lists the types to try for a weight made of tensors, each [rows, k], until the device takes one. First are
// those that hold what the checkpoint's quantization_config covers. Then comes what Options.Quantize asks for, if it
// does; otherwise the type they are stored in, Q8_0 for quantized ones that differ or that a device lacks, and the
// device's compute type.
func (l *loader) layouts(k int, purpose use, tensors []tensor) []gpu.DType {
	if l.common != nil { // of experts
		return l.common
	}
	stored, same, quantized := tensors[0].Type, true, false
	for _, t := range tensors {
		same = same && t.Type == stored
		quantized = quantized || t.Type.Quantized()
	}
	info := l.mem.dev.Info()
	var list []gpu.DType
	add := func(dtype gpu.DType) {
		if dtype != 0 && (purpose != expert || !dtype.Quantized() || slices.Contains(info.Experts, dtype)) {
			list = append(list, dtype)
		}
	}
	for _, dtype := range heldBy(tensors) {
		add(dtype)
	}
	if want := l.quantizedType(k, purpose, &info); want != 0 && !quantized {
		return append(list, want)
	}
	if same {
		add(storedType(stored))
	}
	if quantized && k%gguf.Q8_0.BlockLen() == 0 {
		add(gpu.Q8_0)
	}
	add(info.Compute)
	return list
}

// heldBy are the types that hold all tensors as the checkpoint's quantization_config has them.
func heldBy(tensors []tensor) (types []gpu.DType) {
	for i, t := range tensors {
		switch {
		case t.quantized == nil:
			return nil
		case i == 0:
			types = t.quantized.Types
		}
		types = slices.DeleteFunc(slices.Clone(types), func(dtype gpu.DType) bool { return !slices.Contains(t.quantized.Types, dtype) })
	}
	return types
}

// quantizedType is what Options.Quantize makes of a weight with rows of k, or 0.
func (l *loader) quantizedType(k int, purpose use, info *gpu.Info) gpu.DType {
	inner := purpose == multiplied || purpose == expert
	var want gpu.DType
	switch {
	case l.quantize == QuantizeFP8 && (inner || purpose == values):
		want = gpu.E4M3
	case l.quantize == QuantizeQ8 && purpose == values:
	case l.quantize == QuantizeQ4 && inner:
		want = gpu.Q4_1
	case l.quantize == QuantizeQ8 && inner, l.quantize != QuantizeOff && purpose != routing:
		want = gpu.Q8_0
	}
	elements, _ := cmp.Or(want, gpu.F32).Block()
	if k%elements != 0 || purpose == expert && (!slices.Contains(info.Experts, want) || !l.spec.expertRows(elements)) {
		return 0
	}
	return want
}

// expertRows reports whether the rows of all matrices of experts are multiples of a block's elements: an expert is quantized as a whole
// or not at all.
func (s *Spec) expertRows(elements int) bool {
	return s.HiddenSize%elements == 0 && !slices.ContainsFunc(s.Layers, func(l LayerSpec) bool { return l.MoE && l.Intermediate%elements != 0 })
}

// use says what a tensor is for.
type use int

const (
	multiplied use = iota // a packed weight
	values                // a packed weight whose rounding costs several times what its size would suggest
	embedding             // the embedding table, packed only where it is quantized
	output                // a packed weight that is as sensitive as the embeddings
	expert                // a packed weight of an expert
	routing               // a packed weight so small and sensitive that it is not worth quantizing
)

// place puts tensors, stacked in order, on the device in the first of their layouts that it takes.
func (l *loader) place(name string, n, k int, purpose use, tensors []tensor) (gpu.Tensor, error) {
	for _, dtype := range l.layouts(k, purpose, tensors) {
		if l.refused[dtype] {
			continue
		}
		parts := make([][]byte, len(tensors))
		for i, t := range tensors {
			var err error
			if parts[i], err = l.rows(t, dtype, k); err != nil {
				return gpu.Tensor{}, err
			}
		}
		if !dtype.Quantized() && purpose == embedding {
			t, err := l.mem.alloc(dtype, n, k)
			if err == nil {
				l.noteWidened(tensors, dtype, k)
				err = l.mem.dev.Upload(t, parts[0])
			}
			return t, err
		}
		t, err := l.mem.pack(name, dtype, n, k, parts...)
		if err == nil {
			l.noteWidened(tensors, dtype, k)
		}
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

// noteWidened counts tensors that are quantized in the checkpoint and not any more.
func (l *loader) noteWidened(tensors []tensor, as gpu.DType, k int) {
	for _, t := range tensors {
		w := t.quantized
		if w == nil || slices.Contains(w.Types, as) {
			continue
		}
		note := Widened{Why: w.Why, As: as}
		if len(w.Types) > 0 {
			note.Why = fmt.Sprintf("%v, which %s does not multiply here", w.Types[0], l.mem.dev.Info().Name)
		}
		at := slices.IndexFunc(l.widened, func(o Widened) bool { return o.Why == note.Why && o.As == as })
		if at < 0 {
			at = len(l.widened)
			l.widened = append(l.widened, note)
		}
		sum := &l.widened[at]
		sum.Matrices++
		sum.StoredBytes += int64(w.Bytes())
		sum.Bytes += int64(t.Shape[0]) * int64(as.RowBytes(k))
	}
}

// rows returns the elements of t, in rows of k, as a device packs them.
func (l *loader) rows(t tensor, dtype gpu.DType, k int) ([]byte, error) {
	if w := t.quantized; w != nil {
		if slices.Contains(w.Types, dtype) {
			return w.Rows(dtype)
		}
		wide := ggufTypes[dtype]
		if dtype.Quantized() {
			wide = gguf.F32
		}
		data, err := w.Dequantize(wide)
		if err != nil {
			return nil, err
		}
		t.Tensor = checkpoint.Tensor{Type: wide, Shape: t.Shape, Data: data}
	}
	if dtype == gpu.E4M3 {
		wide, err := l.convert(t.Tensor, gguf.F32, k)
		if err != nil {
			return nil, err
		}
		return prequant.QuantizeE4M3(wide, k)
	}
	return l.convert(t.Tensor, ggufTypes[dtype], k)
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
