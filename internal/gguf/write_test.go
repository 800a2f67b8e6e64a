package gguf

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
)

// TestWriterRoundTrips: what a file says, copied by the writer, says the same.
func TestWriterRoundTrips(t *testing.T) {
	in := vectors(t)
	var meta []Pair
	for _, key := range in.Keys() {
		if v, _ := in.Meta(key); key != alignmentKey {
			meta = append(meta, Pair{key, v})
		}
	}
	meta = append(meta, Pair{"test.text", TextValue("naïve")}, Pair{"test.number", Uint32Value(7)}, Pair{"test.half", Float32Value(0x3f000000)})
	var file bytes.Buffer
	w, err := NewWriter(&file, meta, in.Tensors())
	if err != nil {
		t.Fatal(err)
	}
	for i, info := range in.Tensors() {
		if i == len(in.Tensors())-1 && w.Close() == nil {
			t.Error("a file without its last tensor is complete")
		}
		data := tensor(t, in, info.Name).Data
		for len(data) > 0 { // in pieces that end anywhere
			n := min(len(data), 1000+i)
			if _, err := w.Write(data[:n]); err != nil {
				t.Fatal(err)
			}
			data = data[n:]
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	out, err := Parse("copy", file.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range meta {
		got, ok := out.Meta(p.Key)
		if !ok || got.kind != p.Value.kind || got.elem != p.Value.elem || got.count != p.Value.count || !bytes.Equal(got.raw, p.Value.raw) {
			t.Errorf("%s is %v, want %v", p.Key, got, p.Value)
		}
	}
	for _, info := range in.Tensors() {
		got, want := tensor(t, out, info.Name), tensor(t, in, info.Name)
		if got.Type != want.Type || !slices.Equal(got.Dims, want.Dims) || !bytes.Equal(got.Data, want.Data) {
			t.Errorf("%s differs", info.Name)
		}
	}
}

func TestWriterRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		meta    []Pair
		tensors []Info
	}{
		"a key twice":       {meta: []Pair{{"a", Uint32Value(1)}, {"a", Uint32Value(1)}}},
		"an alignment":      {meta: []Pair{{alignmentKey, Uint32Value(64)}}},
		"a tensor twice":    {tensors: []Info{{Name: "a", Dims: []int{1}}, {Name: "a", Dims: []int{1}}}},
		"a long name":       {tensors: []Info{{Name: strings.Repeat("a", NameBytesMax+1), Dims: []int{1}}}},
		"a high rank":       {tensors: []Info{{Name: "a", Dims: []int{1, 1, 1, 1, 1}}}},
		"half a block":      {tensors: []Info{{Name: "a", Type: Q8_0, Dims: []int{48}}}},
		"an overflow":       {tensors: []Info{{Name: "a", Dims: []int{1 << 40, 1 << 40}}}},
		"a negative number": {tensors: []Info{{Name: "a", Dims: []int{-32}}}},
	} {
		if _, err := NewWriter(&bytes.Buffer{}, c.meta, c.tensors); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	if _, err := NewWriter(brokenWriter{}, nil, nil); !errors.Is(err, errBroken) {
		t.Errorf("a disk's error becomes %v", err)
	}
}

var errBroken = errors.New("broken")

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errBroken }
