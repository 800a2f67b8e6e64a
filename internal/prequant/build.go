package prequant

import (
	"fmt"
	"slices"

	"github.com/troupe-engine/troupe/internal/safetensors"
)

// ColumnsMax and RowsMax bound a matrix: far above any published one.
const (
	RowsMax    = 1 << 24
	ColumnsMax = 1 << 20
)

// builder puts a Weight together from the tensors of a module.
type builder struct {
	source *Source
	scheme *scheme
	module string
	w      *Weight
}

// build makes the weight whose codes are in the tensor called name.
func (b *builder) build(name string, codes safetensors.View) (*Weight, error) {
	s := b.scheme
	if want := b.module + codeSuffix[s.layout]; name != want {
		return nil, b.source.errorf(name, "is there, but quantization_config makes it %q", want)
	}
	if dtype := codeType[s.layout]; codes.DType != dtype || len(codes.Shape) != 2 {
		return nil, b.source.errorf(name, "is %s %v, want a matrix of %s", codes.DType, codes.Shape, dtype)
	}
	b.w = &Weight{name: name, bits: s.bits, views: [][]byte{codes.Data}}
	var err error
	switch s.layout {
	case layoutGPTQ:
		err = b.gptq(codes)
	case layoutAWQ:
		err = b.awq(codes)
	case layoutPacked:
		err = b.packed(codes)
	default:
		err = b.bytes(codes)
	}
	if err != nil {
		return nil, err
	}
	b.w.classify()
	return b.w, nil
}

// shape sets and checks what the codes' tensor makes of the matrix.
func (b *builder) shape(n, k int) error {
	if n < 1 || k < 1 || n > RowsMax || k > ColumnsMax {
		return b.source.errorf(b.w.name, "makes a matrix of [%d, %d], want 1..%d by 1..%d", n, k, RowsMax, ColumnsMax)
	}
	b.w.Shape = []int{n, k}
	return nil
}

// part returns the module's tensor with a suffix, of one of types and shapes. It is a part of the weight.
func (b *builder) part(suffix string, types []safetensors.DType, shapes ...[]int) (safetensors.View, error) {
	name := b.module + suffix
	v, err := b.source.file.Tensor(name)
	if err != nil {
		return v, fmt.Errorf("prequant: %w, which the codes in %q need, of one of the types %v and shapes %v", err, b.w.name, types, shapes)
	}
	if !slices.Contains(types, v.DType) {
		return v, b.source.errorf(name, "is %s, want one of %v", v.DType, types)
	}
	if !slices.ContainsFunc(shapes, func(shape []int) bool { return slices.Equal(shape, v.Shape) }) {
		return v, b.source.errorf(name, "has shape %v, want %v for a matrix of %v", v.Shape, shapes, b.w.Shape)
	}
	b.w.views = append(b.w.views, v.Data)
	return v, nil
}

func (b *builder) has(suffix string) bool {
	_, err := b.source.file.Tensor(b.module + suffix)
	return err == nil
}

// groups returns how many groups a row has, and their columns.
func (b *builder) groups() (count, columns int) {
	k := b.w.Shape[1]
	if b.scheme.group == 0 {
		return 1, k
	}
	return ceilDiv(k, b.scheme.group), b.scheme.group
}

func ceilDiv(a, b int) int { return (a + b - 1) / b }

// setOrder reads the group of each column, of which there are so many. Where they are in order nothing is kept.
func (b *builder) setOrder(suffix string, groups int) error {
	k := b.w.Shape[1]
	if !b.scheme.ordered && !b.has(suffix) {
		return nil
	}
	v, err := b.part(suffix, []safetensors.DType{safetensors.I32}, []int{k})
	if err != nil {
		return err
	}
	order, inOrder := make([]int, k), true
	for c := range order {
		g := int(int32(word(v.Data, c)))
		if g < 0 || g >= groups {
			return b.source.errorf(b.module+suffix, "puts column %d into group %d, want 0..%d", c, g, groups-1)
		}
		order[c] = g
		inOrder = inOrder && g == c/b.w.scales.columns
	}
	if !inOrder {
		b.w.order = order
	}
	return nil
}
