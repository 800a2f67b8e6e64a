package gguf

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"unsafe"

	"github.com/troupe-engine/troupe/internal/mmap"
)

// Tensor is one tensor's type, dimensions and bytes. Data aliases the open file: it is read-only and
// valid until the File is closed.
type Tensor struct {
	Type Type
	Dims []int  // innermost first: a matrix of n rows is [k, n]
	Data []byte // blocks, row by row
}

// File is an open GGUF file. It is safe for concurrent reads. It must not be truncated while it is open:
// a mapped page that is gone faults.
type File struct {
	label   string
	keys    []string
	meta    map[string]Value
	infos   []Info
	byName  map[string]int
	section []byte
	release func() error
}

// Open maps the GGUF file at path.
func Open(path string) (*File, error) {
	return OpenFS(os.DirFS(filepath.Dir(path)), filepath.Base(path))
}

// OpenFS opens the file called name in fsys, memory-mapped if it is one of the operating system.
func OpenFS(fsys fs.FS, name string) (*File, error) {
	data, release, err := mmap.Open(fsys, name)
	if err != nil {
		return nil, fmt.Errorf("gguf: %w", err)
	}
	f, err := Parse(name, data)
	if err != nil {
		if rerr := release(); rerr != nil {
			err = fmt.Errorf("%w (and closing it: %v)", err, rerr)
		}
		return nil, err
	}
	f.release = release
	return f, nil
}

// Parse reads a GGUF file that is in memory. name is for error messages. What the File hands out aliases
// data, unless that is not aligned in memory, which costs one copy.
func Parse(name string, data []byte) (*File, error) {
	if len(data) > 0 && uintptr(unsafe.Pointer(&data[0]))%8 != 0 {
		data = bytes.Clone(data)
	}
	f := &File{label: name, byName: map[string]int{}, release: func() error { return nil }}
	var err error
	if f.keys, f.meta, f.infos, f.section, err = parse(data); err != nil {
		return nil, fmt.Errorf("gguf: %s: %w", name, err)
	}
	for i := range f.infos {
		f.byName[f.infos[i].Name] = i
	}
	return f, nil
}

// Label returns the file's name, for messages.
func (f *File) Label() string { return f.label }

// Keys returns the metadata's keys in file order. The caller must not modify it.
func (f *File) Keys() []string { return f.keys }

// Meta returns the metadata value under key.
func (f *File) Meta(key string) (Value, bool) {
	v, ok := f.meta[key]
	return v, ok
}

// Tensors returns every tensor's entry in file order. The caller must not modify it.
func (f *File) Tensors() []Info { return f.infos }

// Has reports whether there is a tensor called name.
func (f *File) Has(name string) bool { _, ok := f.byName[name]; return ok }

// Tensor returns the tensor called name. The error of a missing one names the file.
func (f *File) Tensor(name string) (Tensor, error) {
	i, ok := f.byName[name]
	if !ok {
		return Tensor{}, fmt.Errorf("gguf: %s has no tensor %q", f.label, clip(name))
	}
	t := &f.infos[i]
	return Tensor{Type: t.Type, Dims: t.Dims, Data: f.section[t.offset : t.offset+t.size : t.offset+t.size]}, nil
}

// Bytes returns the size of all tensors together.
func (f *File) Bytes() int64 {
	var n int64
	for i := range f.infos {
		n += int64(f.infos[i].size)
	}
	return n
}

// Close unmaps the file. Values, and the data of tensors, must not be used afterwards.
func (f *File) Close() error {
	err := f.release()
	f.release = func() error { return nil }
	f.meta, f.section, f.infos, f.byName = nil, nil, nil, nil
	if err != nil {
		return fmt.Errorf("gguf: closing %s: %w", f.label, err)
	}
	return nil
}
