package safetensors

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"slices"
)

// Named is a tensor to write.
type Named struct {
	Name string
	View
}

// Write writes tensors as one safetensors file: largest element type first, as the reference
// writer does so that every tensor is aligned, then by name.
func Write(w io.Writer, tensors []Named) error {
	order := slices.Clone(tensors)
	slices.SortStableFunc(order, func(a, b Named) int {
		if d := b.DType.Size() - a.DType.Size(); d != 0 {
			return d
		}
		return bytes.Compare([]byte(a.Name), []byte(b.Name))
	})
	entries := make(map[string]entry, len(order))
	var at uint64
	for _, t := range order {
		e := entry{DType: t.DType, Shape: make([]uint64, len(t.Shape)), DataOffsets: []uint64{at, at + uint64(len(t.Data))}}
		for i, d := range t.Shape {
			e.Shape[i] = uint64(d)
		}
		if _, err := e.check(t.Name); err != nil {
			return fmt.Errorf("safetensors: writing tensor %q: %w", t.Name, err)
		}
		if _, twice := entries[t.Name]; twice || t.Name == metadataKey {
			return fmt.Errorf("safetensors: writing tensor %q: the name is reserved or used twice", t.Name)
		}
		entries[t.Name] = e
		at += uint64(len(t.Data))
	}
	header, err := json.Marshal(entries)
	if err != nil {
		return fmt.Errorf("safetensors: %w", err)
	}
	if pad := -len(header) & 7; pad > 0 {
		header = append(header, bytes.Repeat([]byte{' '}, pad)...)
	}
	out := append(binary.LittleEndian.AppendUint64(nil, uint64(len(header))), header...)
	if _, err := w.Write(out); err != nil {
		return err
	}
	for _, t := range order {
		if _, err := w.Write(t.Data); err != nil {
			return err
		}
	}
	return nil
}
