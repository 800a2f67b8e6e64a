package gguf

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"
)

// Limits on what a file may claim. They are far above any published model.
const (
	// PairsMax and TensorsMax bound the metadata and the tensors, which are kept in maps.
	PairsMax   = 1 << 16
	TensorsMax = 1 << 17
	// KeyBytesMax bounds a metadata key, as the format does.
	KeyBytesMax = 65535
	// NameBytesMax bounds a tensor's name; the format says 64.
	NameBytesMax = 256
	// RankMax bounds the dimensions of one tensor, as the format does.
	RankMax = 4
	// NestingMax bounds arrays of arrays.
	NestingMax = 4
	// AlignmentMax bounds general.alignment, in bytes.
	AlignmentMax = 1 << 20

	alignmentDefault = 32
	alignmentKey     = "general.alignment"
)

// Info is one tensor's entry in the header, after its checks.
type Info struct {
	Name   string
	Type   Type
	Dims   []int // innermost first, as the format has them: a matrix of n rows is [k, n]
	offset uint64
	size   uint64 // bytes
}

// cursor reads the header front to back. The first error sticks: later reads return zeros.
type cursor struct {
	data []byte
	at   int
	err  error
}

func (c *cursor) failf(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf(format, args...)
	}
}

// take returns the next n bytes, which are called what in the error of a file that ends before.
func (c *cursor) take(n uint64, what string) []byte {
	if c.err != nil {
		return nil
	}
	if left := uint64(len(c.data) - c.at); n > left {
		c.failf("%s needs %d bytes at offset %d, but %d are left: the file is truncated or damaged, download it again", what, n, c.at, left)
		return nil
	}
	b := c.data[c.at : c.at+int(n) : c.at+int(n)]
	c.at += int(n)
	return b
}

func (c *cursor) u32(what string) uint32 {
	if b := c.take(4, what); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (c *cursor) u64(what string) uint64 {
	if b := c.take(8, what); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

// text reads a string of at most most bytes.
func (c *cursor) text(most uint64, what string) []byte {
	n := c.u64(what + " length")
	if n > most {
		c.failf("%s has %d bytes, the limit is %d: no GGUF file, or a damaged one", what, n, most)
	}
	return c.take(n, what)
}

// count reads a number of entries, each of which takes at least least bytes of the file.
func (c *cursor) count(least uint64, what string) uint64 {
	n := c.u64(what)
	if left := uint64(len(c.data) - c.at); n > left/least {
		c.failf("%s is %d, more than the %d bytes left can hold: the file is truncated or damaged", what, n, left)
		return 0
	}
	return n
}

// parse reads the header and returns the metadata in file order, the tensors, and the data section.
func parse(data []byte) (keys []string, meta map[string]Value, tensors []Info, section []byte, err error) {
	c := &cursor{data: data}
	if magic := c.take(4, "magic"); c.err != nil || string(magic) != "GGUF" {
		return nil, nil, nil, nil, fmt.Errorf("file does not begin with the magic \"GGUF\": it is truncated or no GGUF file")
	}
	switch version := c.u32("version"); {
	case c.err != nil:
	case version == 2 || version == 3:
	case version != 0 && version&0xffff == 0:
		c.failf("version is %#x: the file is big-endian, which is not supported; convert it with gguf_convert_endian.py", version)
	default:
		c.failf("version is %d, supported are 2 and 3; convert the model again with a current converter", version)
	}
	const entryBytesMin, pairBytesMin = 8 + 4 + 4 + 8, 8 + 4 + 1
	tensorCount := c.count(entryBytesMin, "tensor_count")
	pairCount := c.count(pairBytesMin, "metadata_kv_count")
	if tensorCount > TensorsMax || pairCount > PairsMax {
		c.failf("tensor_count is %d and metadata_kv_count %d, the limits are %d and %d", tensorCount, pairCount, TensorsMax, PairsMax)
	}
	keys, meta = c.metadata(pairCount)
	tensors = c.entries(tensorCount)
	alignment := c.alignment(meta)
	if c.err != nil {
		return nil, nil, nil, nil, c.err
	}
	start := (c.at + alignment - 1) / alignment * alignment
	if start > len(data) {
		if len(tensors) > 0 {
			return nil, nil, nil, nil, fmt.Errorf("tensor data begins at offset %d, but the file has %d bytes: it is truncated, download it again", start, len(data))
		}
		start = len(data)
	}
	section = data[start:]
	if err := checkRanges(tensors, uint64(len(section)), uint64(alignment)); err != nil {
		return nil, nil, nil, nil, err
	}
	return keys, meta, tensors, section, nil
}

// metadata reads n pairs of key and value.
func (c *cursor) metadata(n uint64) ([]string, map[string]Value) {
	var keys []string
	meta := map[string]Value{}
	for i := uint64(0); i < n && c.err == nil; i++ {
		key := string(c.text(KeyBytesMax, fmt.Sprintf("metadata key %d", i)))
		v := c.value(key)
		if c.err != nil {
			break
		}
		if _, twice := meta[key]; twice {
			c.failf("metadata key %q appears twice", clip(key))
			break
		}
		meta[key] = v
		keys = append(keys, key)
	}
	return keys, meta
}

// value reads a type and what it says; key is for messages.
func (c *cursor) value(key string) Value {
	kind := Kind(c.u32(fmt.Sprintf("type of metadata %q", clip(key))))
	v := Value{kind: kind}
	if kind == Array {
		v.elem = Kind(c.u32(fmt.Sprintf("element type of metadata %q", clip(key))))
		v.count, v.raw = c.array(key, v.elem, 1)
		return v
	}
	from := c.at
	c.skip(key, kind)
	if c.err == nil {
		v.raw = c.data[from:c.at:c.at]
	}
	return v
}

// skip passes one value that is no array.
func (c *cursor) skip(key string, kind Kind) {
	switch size := kind.size(); {
	case c.err != nil:
	case kind == String:
		c.text(1<<62, fmt.Sprintf("metadata %q", clip(key)))
	case kind == Bool:
		if b := c.take(1, fmt.Sprintf("metadata %q", clip(key))); b != nil && b[0] > 1 {
			c.failf("metadata %q is the boolean %d, want 0 or 1", clip(key), b[0])
		}
	case size > 0:
		c.take(uint64(size), fmt.Sprintf("metadata %q", clip(key)))
	default:
		c.failf("metadata %q has the unknown type %d: no GGUF file of version 2 or 3, or a damaged one", clip(key), uint32(kind))
	}
}

// array passes the elements of an array and returns their number and bytes.
func (c *cursor) array(key string, elem Kind, depth int) (int, []byte) {
	least := uint64(max(1, elem.size()))
	switch elem {
	case String:
		least = 8
	case Array:
		least = 12
	}
	n := c.count(least, fmt.Sprintf("length of metadata array %q", clip(key)))
	from := c.at
	switch size := elem.size(); {
	case c.err != nil:
	case elem == Array && depth == NestingMax:
		c.failf("metadata %q nests arrays more than %d deep", clip(key), NestingMax)
	case elem == Array:
		for i := uint64(0); i < n && c.err == nil; i++ {
			c.array(key, Kind(c.u32(fmt.Sprintf("element type of metadata %q", clip(key)))), depth+1)
		}
	case size > 0 && elem != Bool:
		c.take(n*uint64(size), fmt.Sprintf("metadata array %q", clip(key)))
	default:
		for i := uint64(0); i < n && c.err == nil; i++ {
			c.skip(key, elem)
		}
	}
	if c.err != nil {
		return 0, nil
	}
	return int(n), c.data[from:c.at:c.at]
}

// entries reads n tensors' entries.
func (c *cursor) entries(n uint64) []Info {
	var tensors []Info
	seen := map[string]bool{}
	for i := uint64(0); i < n && c.err == nil; i++ {
		t := Info{Name: string(c.text(NameBytesMax, fmt.Sprintf("name of tensor %d", i)))}
		what := fmt.Sprintf("tensor %q", clip(t.Name))
		if seen[t.Name] {
			c.failf("%s appears twice in the header", what)
		}
		seen[t.Name] = true
		rank := c.u32(what + " n_dimensions")
		if rank > RankMax {
			c.failf("%s: n_dimensions is %d, the limit is %d", what, rank, RankMax)
			break
		}
		dims := make([]uint64, rank)
		for d := range dims {
			dims[d] = c.u64(what + " dimensions")
		}
		t.Type = Type(c.u32(what + " type"))
		t.offset = c.u64(what + " offset")
		if c.err != nil {
			break
		}
		if err := t.measure(dims); err != nil {
			c.failf("%s: %w", what, err)
		}
		tensors = append(tensors, t)
	}
	return tensors
}

// measure fills Dims and size.
func (t *Info) measure(dims []uint64) error {
	if !t.Type.Known() {
		return fmt.Errorf("type is %v, supported are %s", t.Type, supportedTypes)
	}
	n := uint64(1)
	for _, d := range dims {
		hi, lo := bits.Mul64(n, d)
		if hi != 0 || lo > 1<<60 { // times at most 4 bytes, this stays an int64
			return fmt.Errorf("dimensions %v overflow", dims)
		}
		n = lo
		t.Dims = append(t.Dims, int(d))
	}
	if block := uint64(t.Type.BlockLen()); block > 1 && (len(dims) == 0 || dims[0]%block != 0) {
		return fmt.Errorf("dimensions %v: the first one of a %v tensor must be a multiple of %d", dims, t.Type, block)
	}
	t.size = n / uint64(t.Type.BlockLen()) * uint64(t.Type.BlockBytes())
	return nil
}

// alignment returns general.alignment, or its default.
func (c *cursor) alignment(meta map[string]Value) int {
	v, ok := meta[alignmentKey]
	if !ok || c.err != nil {
		return alignmentDefault
	}
	n, ok := v.Uint()
	if !ok || n == 0 || n > AlignmentMax || n&(n-1) != 0 {
		c.failf("metadata %q is %v, want a power of two up to %d", alignmentKey, v, AlignmentMax)
		return alignmentDefault
	}
	return int(n)
}

// checkRanges makes sure that every tensor lies inside the data section, aligned, and none on another.
func checkRanges(tensors []Info, section, alignment uint64) error {
	order := make([]*Info, len(tensors))
	for i := range tensors {
		t := &tensors[i]
		order[i] = t
		if t.offset%alignment != 0 {
			return fmt.Errorf("tensor %q: offset %d is no multiple of the alignment %d", clip(t.Name), t.offset, alignment)
		}
		if t.offset > section || t.size > section-t.offset {
			return fmt.Errorf("tensor %q: offset %d and size %d exceed the %d bytes of tensor data: the file is truncated, download it again",
				clip(t.Name), t.offset, t.size, section)
		}
	}
	slices.SortStableFunc(order, func(a, b *Info) int {
		if a.offset != b.offset {
			return cmp.Compare(a.offset, b.offset)
		}
		return cmp.Compare(a.size, b.size) // an empty tensor may share the start of the next one
	})
	for i := 1; i < len(order); i++ {
		a, b := order[i-1], order[i]
		if a.offset+a.size > b.offset {
			return fmt.Errorf("tensor %q: offset %d lies inside tensor %q, which ends at %d", clip(b.Name), b.offset, clip(a.Name), a.offset+a.size)
		}
	}
	return nil
}

// clip shortens text from a file before it goes into an error message.
func clip(s string) string {
	const clipBytesMax = 120
	if len(s) <= clipBytesMax {
		return s
	}
	return s[:clipBytesMax] + "…"
}
