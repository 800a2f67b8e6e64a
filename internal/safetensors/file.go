package safetensors

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"unsafe"

	"github.com/troupe-engine/troupe/internal/mmap"
)

// View is one tensor's type, shape and bytes. Data aliases the open file: it is read-only and
// valid until the File is closed.
type View struct {
	DType DType
	Shape []int  // empty for a scalar
	Data  []byte // little-endian, row-major, aligned to the element size
}

// File is a set of named tensors read from one file, or from the shards of one checkpoint.
// It is safe for concurrent reads. The files must not be truncated while it is open: a mapped
// page that is gone faults.
type File struct {
	names   []string // in file order
	tensors map[string]View
	origin  map[string]string // tensor to file name, for messages
	label   string
	closers []func() error
}

// Open maps the safetensors file at path.
func Open(path string) (*File, error) {
	return OpenFS(os.DirFS(filepath.Dir(path)), filepath.Base(path))
}

// OpenFS opens the file called name in fsys. A file of the operating system is memory-mapped;
// any other (embedded, in memory, zipped) is read whole.
func OpenFS(fsys fs.FS, name string) (*File, error) {
	data, unmap, err := mmap.Open(fsys, name)
	if err != nil {
		return nil, fmt.Errorf("safetensors: %w", err)
	}
	f, err := Parse(name, data)
	if err != nil {
		return nil, withClose(err, unmap)
	}
	f.closers = append(f.closers, unmap)
	return f, nil
}

// Parse reads a safetensors file that is in memory. name is for error messages. The returned
// views alias data, unless an old writer left its tensors unaligned, which costs one copy.
func Parse(name string, data []byte) (*File, error) {
	infos, section, err := parseHeader(data)
	if err != nil {
		return nil, fmt.Errorf("safetensors: %s: %w", name, err)
	}
	section = aligned(section)
	f := newFile(name)
	for _, t := range infos {
		f.add(name, t.name, View{DType: t.dtype, Shape: t.shape, Data: section[t.begin:t.end:t.end]})
	}
	return f, nil
}

func newFile(label string) *File {
	return &File{tensors: map[string]View{}, origin: map[string]string{}, label: label}
}

func (f *File) add(file, name string, v View) {
	f.names = append(f.names, name)
	f.tensors[name] = v
	f.origin[name] = file
}

// Names returns every tensor's name, in file order. The caller must not modify it.
func (f *File) Names() []string { return f.names }

// Tensor returns the tensor called name. The error of a missing one names the file.
func (f *File) Tensor(name string) (View, error) {
	v, ok := f.tensors[name]
	if !ok {
		return View{}, fmt.Errorf("safetensors: %s has no tensor %q", f.label, name)
	}
	return v, nil
}

// Origin returns the file that holds the tensor called name, or the whole set's label.
func (f *File) Origin(name string) string {
	if file, ok := f.origin[name]; ok {
		return file
	}
	return f.label
}

// Bytes returns the size of all tensors together.
func (f *File) Bytes() int64 {
	var n int64
	for _, v := range f.tensors {
		n += int64(len(v.Data))
	}
	return n
}

// Close unmaps the files. Views must not be used afterwards.
func (f *File) Close() error {
	var first error
	for _, c := range f.closers {
		if err := c(); err != nil && first == nil {
			first = fmt.Errorf("safetensors: closing %s: %w", f.label, err)
		}
	}
	f.closers, f.tensors, f.names = nil, nil, nil
	return first
}

// aligned returns data at an address that suits every element type. The format asks writers to
// pad the header to eight bytes, which old ones did not.
func aligned(data []byte) []byte {
	if len(data) == 0 || uintptr(unsafe.Pointer(&data[0]))%8 == 0 {
		return data
	}
	return bytes.Clone(data)
}

func withClose(err error, closer func() error) error {
	if cerr := closer(); cerr != nil {
		return fmt.Errorf("%w (and closing it: %v)", err, cerr)
	}
	return err
}
