package gguf

import (
	"encoding/binary"
	"fmt"
	"io"
)

// Pair is an entry of the metadata.
type Pair struct {
	Key   string
	Value Value
}

// TextValue returns s as a metadata value.
func TextValue(s string) Value {
	return Value{kind: String, raw: append(binary.LittleEndian.AppendUint64(nil, uint64(len(s))), s...)}
}

// Uint32Value returns n as a metadata value.
func Uint32Value(n uint32) Value {
	return Value{kind: Uint32, raw: binary.LittleEndian.AppendUint32(nil, n)}
}

// Float32Value returns the number with the given bits as a metadata value.
func Float32Value(bits uint32) Value {
	return Value{kind: Float32, raw: binary.LittleEndian.AppendUint32(nil, bits)}
}

// append writes v as the format has it.
func (v Value) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(v.kind))
	if v.kind == Array {
		b = binary.LittleEndian.AppendUint32(b, uint32(v.elem))
		b = binary.LittleEndian.AppendUint64(b, uint64(v.count))
	}
	return append(b, v.raw...)
}

// Writer writes a GGUF file of version 3 front to back: NewWriter the header, Write the tensors' bytes. It
// keeps nothing but the list of tensors, so a file may be larger than memory.
type Writer struct {
	out     io.Writer
	tensors []Info
	at      int    // the tensor that is being written
	written uint64 // bytes of it
}

// NewWriter writes the header of a file with the given metadata and tensors, of which Name, Type and Dims
// count. An error names what the format does not allow. The metadata must not set general.alignment: tensors
// are aligned to 32 bytes, the format's default.
func NewWriter(out io.Writer, meta []Pair, tensors []Info) (*Writer, error) {
	if len(meta) > PairsMax || len(tensors) > TensorsMax {
		return nil, fmt.Errorf("gguf: %d metadata entries and %d tensors, the limits are %d and %d", len(meta), len(tensors), PairsMax, TensorsMax)
	}
	b := append([]byte("GGUF"), 3, 0, 0, 0)
	b = binary.LittleEndian.AppendUint64(b, uint64(len(tensors)))
	b = binary.LittleEndian.AppendUint64(b, uint64(len(meta)))
	text := func(s string) { b = append(binary.LittleEndian.AppendUint64(b, uint64(len(s))), s...) }
	seen := map[string]bool{}
	for _, p := range meta {
		if seen[p.Key] || p.Key == alignmentKey || len(p.Key) > KeyBytesMax {
			return nil, fmt.Errorf("gguf: metadata key %q is reserved, too long or appears twice", clip(p.Key))
		}
		seen[p.Key] = true
		text(p.Key)
		b = p.Value.append(b)
	}
	clear(seen)
	w := &Writer{out: out}
	offset := uint64(0)
	for _, t := range tensors {
		if seen[t.Name] || len(t.Name) > NameBytesMax || len(t.Dims) > RankMax {
			return nil, fmt.Errorf("gguf: tensor %q of %d dimensions: its name is longer than %d bytes or appears twice, or its rank exceeds %d",
				clip(t.Name), len(t.Dims), NameBytesMax, RankMax)
		}
		seen[t.Name] = true
		dims := make([]uint64, len(t.Dims))
		for i, d := range t.Dims {
			dims[i] = uint64(d)
		}
		entry := Info{Name: t.Name, Type: t.Type, offset: offset}
		if err := entry.measure(dims); err != nil {
			return nil, fmt.Errorf("gguf: tensor %q: %w", clip(t.Name), err)
		}
		text(t.Name)
		b = binary.LittleEndian.AppendUint32(b, uint32(len(dims)))
		for _, d := range dims {
			b = binary.LittleEndian.AppendUint64(b, d)
		}
		b = binary.LittleEndian.AppendUint32(b, uint32(t.Type))
		b = binary.LittleEndian.AppendUint64(b, offset)
		w.tensors = append(w.tensors, entry)
		offset += entry.size + padding(entry.size)
	}
	b = append(b, zeros[:padding(uint64(len(b)))]...)
	if _, err := out.Write(b); err != nil {
		return nil, err
	}
	return w, w.finishTensors()
}

var zeros [alignmentDefault]byte

// padding is what n bytes lack to the next aligned place.
func padding(n uint64) uint64 { return -n % alignmentDefault }

// Write appends to the tensors' bytes, in the order of the header. It panics if there are more than the header
// promised.
func (w *Writer) Write(p []byte) (int, error) {
	done := 0
	for len(p) > 0 {
		if w.at == len(w.tensors) {
			panic("gguf: Write past the last tensor")
		}
		n, err := w.out.Write(p[:min(uint64(len(p)), w.tensors[w.at].size-w.written)])
		done, w.written, p = done+n, w.written+uint64(n), p[n:]
		if err == nil {
			err = w.finishTensors()
		}
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// finishTensors pads what is complete, empty tensors included.
func (w *Writer) finishTensors() error {
	for w.at < len(w.tensors) && w.written == w.tensors[w.at].size {
		if _, err := w.out.Write(zeros[:padding(w.written)]); err != nil {
			return err
		}
		w.at, w.written = w.at+1, 0
	}
	return nil
}

// Close returns an error if a tensor is missing or short. It does not close the underlying writer.
func (w *Writer) Close() error {
	if w.at < len(w.tensors) {
		return fmt.Errorf("gguf: tensor %q has %d of its %d bytes", clip(w.tensors[w.at].Name), w.written, w.tensors[w.at].size)
	}
	return nil
}
