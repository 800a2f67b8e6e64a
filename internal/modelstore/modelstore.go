// Package modelstore finds models by name: the one that ships with the binary, folders in the store
// ($TROUPE_MODELS, by default ~/.cache/troupe/models), and plain directories.
package modelstore

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/troupe-engine/troupe/internal/defaultmodel"
	"github.com/troupe-engine/troupe/schemas"
)

// Model is a model that can be loaded.
type Model struct {
	Name  string `json:"name"`
	Path  string `json:"path"` // "embedded" for the default model
	Bytes int64  `json:"bytes"`
	Files fs.FS  `json:"-"`
}

// Dir is the store's folder; "" if the system names no home directory.
func Dir() string {
	if d := os.Getenv("TROUPE_MODELS"); d != "" {
		return d
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(cache, "troupe", "models")
}

// Find resolves what --model takes: the default model's name, a name in the store, or a directory.
func Find(name string) (*Model, error) {
	if name == "" || name == defaultmodel.Name {
		return embedded(), nil
	}
	candidates := []string{name}
	if dir := Dir(); dir != "" && filepath.IsLocal(name) {
		candidates = append([]string{filepath.Join(dir, name)}, candidates...)
	}
	for _, path := range candidates {
		if m := at(filepath.Base(filepath.Clean(path)), path); m != nil {
			return m, nil
		}
	}
	return nil, schemas.Errorf(schemas.KindNotFound, "find model", "%q is neither a model's name nor a directory with a config.json", name).
		WithParam("model").WithHint("`troupe models` lists the names; a directory needs config.json, tokenizer.json and *.safetensors")
}

// List returns all models with a name.
func List() []*Model {
	list := []*Model{embedded()}
	dir := Dir()
	configs, _ := filepath.Glob(filepath.Join(dir, "*", "config.json")) // only a bad pattern is an error
	nested, _ := filepath.Glob(filepath.Join(dir, "*", "*", "config.json"))
	configs = append(configs, nested...)
	sort.Strings(configs)
	for _, c := range configs {
		path := filepath.Dir(c)
		name, err := filepath.Rel(dir, path)
		if err != nil {
			continue
		}
		if m := at(filepath.ToSlash(name), path); m != nil {
			list = append(list, m)
		}
	}
	return list
}

func embedded() *Model {
	m := &Model{Name: defaultmodel.Name, Path: "embedded", Files: defaultmodel.Files()}
	m.Bytes = size(m.Files)
	return m
}

func at(name, path string) *Model {
	if info, err := os.Stat(filepath.Join(path, "config.json")); err != nil || info.IsDir() {
		return nil
	}
	if absolute, err := filepath.Abs(path); err == nil {
		path = absolute
		if name == "." || strings.HasPrefix(name, "..") {
			name = filepath.Base(path)
		}
	}
	files := os.DirFS(path)
	return &Model{Name: name, Path: path, Bytes: size(files), Files: files}
}

func size(files fs.FS) (total int64) {
	entries, err := fs.ReadDir(files, ".")
	if err != nil {
		return 0
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && !e.IsDir() {
			total += info.Size()
		}
	}
	return total
}

func (m *Model) String() string { return fmt.Sprintf("%s (%s)", m.Name, m.Path) }
