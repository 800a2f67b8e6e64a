package checkpoint

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/troupe-engine/troupe/internal/gguf"
)

// FileName is what the GGUF file is called in a Dir.
const FileName = "model.gguf"

// Dir is a GGUF file as a model's directory. The metadata is read when a file made from it is first
// opened; an error in it is the error of that.
type Dir struct {
	files fs.FS
	name  string
	texts func() (map[string]text, error)
}

// text is a file made of the metadata, or what is wrong with that.
type text struct {
	data []byte
	err  error
}

var _ fs.ReadDirFS = (*Dir)(nil)

// NewDir returns the file at path as a directory. It opens nothing yet.
func NewDir(path string) *Dir { return NewDirFS(os.DirFS(filepath.Dir(path)), filepath.Base(path)) }

// NewDirFS is NewDir for the file called name in files.
func NewDirFS(files fs.FS, name string) *Dir {
	d := &Dir{files: files, name: name}
	d.texts = sync.OnceValues(d.describe)
	return d
}

// describe makes the files that stand for the metadata.
func (d *Dir) describe() (map[string]text, error) {
	f, err := gguf.OpenFS(d.files, d.name)
	if err != nil {
		return nil, err
	}
	defer f.Close() // nothing made from it aliases it
	if isArchive(f) {
		return archived(f)
	}
	texts := map[string]text{}
	for name, make := range map[string]func(*gguf.File) (map[string]any, error){
		"config.json":            config,
		"generation_config.json": generation,
		"tokenizer.json":         tokenizer,
		"tokenizer_config.json":  tokenizerConfig,
	} {
		value, err := make(f)
		var b bytes.Buffer
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		if err == nil {
			err = enc.Encode(value)
		}
		texts[name] = text{b.Bytes(), err}
	}
	return texts, nil
}

// Open implements fs.FS.
func (d *Dir) Open(name string) (fs.File, error) {
	fail := func(err error) (fs.File, error) { return nil, &fs.PathError{Op: "open", Path: name, Err: err} }
	switch {
	case !fs.ValidPath(name):
		return fail(fs.ErrInvalid)
	case name == FileName:
		return d.files.Open(d.name)
	case name == ".":
		return fail(errors.New("is a directory; use ReadDir"))
	case !slices.Contains(ArchivedFiles, name):
		return fail(fs.ErrNotExist)
	}
	texts, err := d.texts()
	if err != nil {
		return nil, err
	}
	text, ok := texts[name]
	if !ok {
		return fail(fs.ErrNotExist)
	}
	if text.err != nil {
		return nil, text.err
	}
	return &memoryFile{Reader: bytes.NewReader(text.data), name: name, size: int64(len(text.data))}, nil
}

// ReadDir implements fs.ReadDirFS.
func (d *Dir) ReadDir(name string) ([]fs.DirEntry, error) {
	if name != "." {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: fs.ErrNotExist}
	}
	info, err := fs.Stat(d.files, d.name)
	if err != nil {
		return nil, err
	}
	texts, err := d.texts()
	if err != nil {
		return nil, err
	}
	list := []fs.DirEntry{fs.FileInfoToDirEntry(memoryFile{name: FileName, size: info.Size()})}
	for name, text := range texts {
		if text.err != nil {
			return nil, text.err
		}
		list = append(list, fs.FileInfoToDirEntry(memoryFile{name: name, size: int64(len(text.data))}))
	}
	slices.SortFunc(list, func(a, b fs.DirEntry) int { return bytes.Compare([]byte(a.Name()), []byte(b.Name())) })
	return list, nil
}

// memoryFile is an open file, and its own description.
type memoryFile struct {
	*bytes.Reader
	name string
	size int64
}

func (f *memoryFile) Read(b []byte) (int, error) { return f.Reader.Read(b) }
func (f *memoryFile) Stat() (fs.FileInfo, error) { return *f, nil }
func (f *memoryFile) Close() error               { return nil }
func (f memoryFile) Name() string                { return f.name }
func (f memoryFile) Size() int64                 { return f.size }
func (f memoryFile) Mode() fs.FileMode           { return 0o444 }
func (f memoryFile) ModTime() time.Time          { return time.Time{} }
func (f memoryFile) IsDir() bool                 { return false }
func (f memoryFile) Sys() any                    { return nil }

var _ io.ReaderAt = (*memoryFile)(nil)
