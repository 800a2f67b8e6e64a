package modelstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/troupe-engine/troupe/internal/safetensors"
	"github.com/troupe-engine/troupe/schemas"
)

// Problem is what is wrong with one file.
type Problem struct {
	File     string `json:"file"`
	Expected string `json:"expected"`
	Found    string `json:"found"`
}

// Report is what Verify found.
type Report struct {
	Name     string    `json:"name"`
	Path     string    `json:"path"`
	Files    int       `json:"files"`
	Bytes    int64     `json:"bytes"`
	Manifest bool      `json:"manifest"` // false: not pulled, so nobody knows its checksums
	Problems []Problem `json:"problems"`
}

// Verify reads a model again: every file's size and checksum against the manifest, if it was pulled, and the headers
// of all safetensors files and of the index over them. done, which may be nil, hears of the bytes read. What is
// wrong is in the report; the error is for what could not be looked at.
func Verify(ctx context.Context, m *Model, done func(n int64)) (*Report, error) {
	r := &Report{Name: m.Name, Path: m.Path, Files: m.FileCount, Bytes: m.Bytes, Problems: []Problem{}}
	folder := m.Files
	if info, err := os.Stat(m.Path); m.Path != embeddedPath && err == nil && info.IsDir() {
		root, err := os.OpenRoot(m.Path)
		if err != nil {
			return nil, storeError(err)
		}
		defer root.Close()
		folder = root.FS()
		manifest, err := readManifest(folder, manifestName)
		switch {
		case err == nil:
			r.Manifest = true
			if err := r.checkFiles(ctx, root, manifest, done); err != nil {
				return nil, err
			}
		case !errors.Is(err, fs.ErrNotExist):
			r.found(manifestName, "the manifest that the pull wrote", err.Error())
		}
	}
	r.checkHeaders(folder)
	return r, nil
}

func (r *Report) found(file, expected, found string) {
	r.Problems = append(r.Problems, Problem{file, expected, found})
}

// checkFiles compares the files with the manifest.
func (r *Report) checkFiles(ctx context.Context, root *os.Root, m *Manifest, done func(int64)) error {
	if done == nil {
		done = func(int64) {}
	}
	r.Files, r.Bytes = len(m.Files), m.Bytes()
	for _, f := range m.Files {
		info, err := root.Lstat(f.Path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			r.found(f.Path, sizes(f.Size), "no file")
			continue
		case err != nil:
			r.found(f.Path, "a readable file", err.Error())
			continue
		case !info.Mode().IsRegular():
			r.found(f.Path, "a regular file", info.Mode().Type().String())
			continue
		case info.Size() != f.Size:
			r.found(f.Path, fmt.Sprintf("%d bytes", f.Size), fmt.Sprintf("%d bytes", info.Size()))
			continue
		}
		file, err := root.Open(f.Path)
		if err != nil {
			r.found(f.Path, "a readable file", err.Error())
			continue
		}
		h := f.Digest.newHash(f.Size)
		_, err = hashFrom(ctx, h, file, f.Size, done)
		_ = file.Close()
		if ctx.Err() != nil {
			return schemas.AsError(context.Cause(ctx), "verify "+r.Name)
		} else if err != nil {
			r.found(f.Path, "a readable file", err.Error())
		} else if sum := f.Digest.of(h); sum != f.Digest {
			r.found(f.Path, string(f.Digest), string(sum))
		}
	}
	return nil
}

// checkHeaders opens the safetensors files as an engine would.
func (r *Report) checkHeaders(files fs.FS) {
	names, _ := fs.Glob(files, "*.safetensors") // only a bad pattern is an error
	whole := true
	for _, name := range names {
		if err := checkTensors(files, name); err != nil {
			whole = false
			r.found(name, "a valid safetensors header", strings.TrimPrefix(err.Error(), "safetensors: "))
		}
	}
	const index = "model.safetensors.index.json"
	if _, err := fs.Stat(files, index); err != nil || !whole {
		return
	}
	f, err := safetensors.OpenDir(files)
	if err != nil {
		r.found(index, "every tensor in the file it names", strings.TrimPrefix(err.Error(), "safetensors: "))
		return
	}
	_ = f.Close()
}
