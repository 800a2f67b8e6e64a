package safetensors

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"slices"
)

// Limits on what a file may claim. They are far above any published checkpoint.
const (
	// HeaderBytesMax bounds the JSON header, as the reference implementation does.
	HeaderBytesMax = 100_000_000
	// RankMax bounds the dimensions of one tensor.
	RankMax = 16
)

// metadataKey is the one header key that is no tensor: a string-to-string map.
const metadataKey = "__metadata__"

// tensorInfo is one tensor's header entry after its checks.
type tensorInfo struct {
	name       string
	dtype      DType
	shape      []int
	begin, end int // bytes from the start of the data section
}

// parseHeader reads the header at the start of data and returns its tensors in file order, and
// the data section. Every range in it lies inside the section, without overlaps or holes.
func parseHeader(data []byte) ([]tensorInfo, []byte, error) {
	if len(data) < 8 {
		return nil, nil, fmt.Errorf("file has %d bytes, fewer than the 8 of the header length: it is truncated or no safetensors file", len(data))
	}
	n := binary.LittleEndian.Uint64(data)
	rest := data[8:]
	if n > HeaderBytesMax {
		return nil, nil, fmt.Errorf("header length %d exceeds the limit of %d bytes: no safetensors file, or a damaged one", n, HeaderBytesMax)
	}
	if n > uint64(len(rest)) {
		return nil, nil, fmt.Errorf("header length %d exceeds the %d bytes that follow it: the file is truncated, download it again", n, len(rest))
	}
	tensors, err := parseEntries(rest[:n])
	if err != nil {
		return nil, nil, err
	}
	section := rest[n:]
	if err := checkCoverage(tensors, len(section)); err != nil {
		return nil, nil, err
	}
	return tensors, section, nil
}

// entry is one tensor as the JSON header spells it.
type entry struct {
	DType       DType    `json:"dtype"`
	Shape       []uint64 `json:"shape"`
	DataOffsets []uint64 `json:"data_offsets"`
}

// parseEntries walks the header object key by key, because a map would hide duplicate names.
func parseEntries(header []byte) ([]tensorInfo, error) {
	if len(header) == 0 || header[0] != '{' {
		return nil, fmt.Errorf("header does not begin with '{': no safetensors file, or a damaged one")
	}
	dec := json.NewDecoder(bytes.NewReader(header))
	if _, err := dec.Token(); err != nil {
		return nil, notJSON("header", err)
	}
	var tensors []tensorInfo
	seen := map[string]bool{}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil, notJSON("header", err)
		}
		name := key.(string) // the decoder yields only strings as object keys
		if seen[name] {
			return nil, fmt.Errorf("tensor %q appears twice in the header", clip(name))
		}
		seen[name] = true
		if name == metadataKey {
			var ignored map[string]string
			if err := dec.Decode(&ignored); err != nil {
				return nil, notJSON(metadataKey+" (a map of strings to strings)", err)
			}
			continue
		}
		var e entry
		if err := dec.Decode(&e); err != nil {
			return nil, notJSON(fmt.Sprintf("tensor %q: header entry", clip(name)), err)
		}
		info, err := e.check(name)
		if err != nil {
			return nil, fmt.Errorf("tensor %q: %w", clip(name), err)
		}
		tensors = append(tensors, info)
	}
	if _, err := dec.Token(); err != nil {
		return nil, notJSON("header", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, fmt.Errorf("header has data after its closing '}' (only spaces may follow)")
	}
	return tensors, nil
}

// check validates what can be said about one entry alone.
func (e *entry) check(name string) (tensorInfo, error) {
	info := tensorInfo{name: name, dtype: e.DType}
	if len(e.Shape) > RankMax {
		return info, fmt.Errorf("shape has %d dimensions, the limit is %d", len(e.Shape), RankMax)
	}
	if e.Shape == nil || len(e.DataOffsets) != 2 {
		return info, fmt.Errorf("entry needs dtype, shape and data_offsets of 2 numbers, got %d offsets", len(e.DataOffsets))
	}
	want, err := byteLen(e.DType, e.Shape)
	if err != nil {
		return info, err
	}
	begin, end := e.DataOffsets[0], e.DataOffsets[1]
	if begin > end || end > 1<<62 {
		return info, fmt.Errorf("data_offsets [%d, %d] are not a range", begin, end)
	}
	if end-begin != want {
		return info, fmt.Errorf("data_offsets [%d, %d] hold %d bytes but shape %v of %s needs %d", begin, end, end-begin, e.Shape, e.DType, want)
	}
	if begin%uint64(e.DType.Size()) != 0 {
		return info, fmt.Errorf("data_offsets begin at %d, which is not a multiple of the %d bytes of %s: save the file again with a current writer", begin, e.DType.Size(), e.DType)
	}
	for _, d := range e.Shape {
		if d > 1<<62 { // only possible beside a zero dimension
			return info, fmt.Errorf("shape %v has a dimension beyond any memory", e.Shape)
		}
		info.shape = append(info.shape, int(d))
	}
	info.begin, info.end = int(begin), int(end)
	return info, nil
}

// checkCoverage requires the ranges to tile the data section exactly, as the format does: a
// hole or a tail could carry a second file, an overlap hands out one tensor's bytes as another's.
func checkCoverage(tensors []tensorInfo, sectionBytes int) error {
	order := make([]*tensorInfo, len(tensors))
	for i := range tensors {
		order[i] = &tensors[i]
	}
	slices.SortStableFunc(order, func(a, b *tensorInfo) int {
		if a.begin != b.begin {
			return a.begin - b.begin
		}
		return a.end - b.end
	})
	at := 0
	for _, t := range order {
		switch {
		case t.end > sectionBytes:
			return fmt.Errorf("tensor %q: data_offsets end at %d but the file holds %d data bytes: it is truncated, download it again", clip(t.name), t.end, sectionBytes)
		case t.begin < at:
			return fmt.Errorf("tensor %q: data_offsets begin at %d, inside another tensor that ends at %d", clip(t.name), t.begin, at)
		case t.begin > at:
			return fmt.Errorf("tensor %q: data_offsets begin at %d but bytes from %d belong to no tensor", clip(t.name), t.begin, at)
		}
		at = t.end
	}
	if at != sectionBytes {
		return fmt.Errorf("%d bytes after the last tensor belong to no tensor: the file is damaged", sectionBytes-at)
	}
	return nil
}

// notJSON words a decoder's error. Its text may quote the file, so it is clipped.
func notJSON(what string, err error) error {
	return fmt.Errorf("%s does not parse: %s", what, clip(err.Error()))
}
