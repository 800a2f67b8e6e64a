// Package modelstore finds models by name: the one that ships with the binary, folders in the store
// ($TROUPE_MODELS, by default ~/.cache/troupe/models), and plain directories.
package modelstore

import (
	"fmt"
	"io/fs"
	"os"
	"path"
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
	if dir := Dir(); dir != "" && filepath.IsLocal(name) {
		if m := at(filepath.ToSlash(filepath.Clean(name)), filepath.Join(dir, name)); m != nil {
			return m, nil
		}
	}
	if m := at(filepath.Base(filepath.Clean(name)), name); m != nil {
		return m, nil
	}
	return nil, schemas.Errorf(schemas.KindNotFound, "find model", "%q is neither a model's name nor a directory with a config.json", name).
		WithParam("model").WithHint("`troupe models` lists the names; a directory needs config.json, tokenizer.json and *.safetensors")
}

// List returns all models with a name.
func List() []*Model {
	list := []*Model{embedded()}
	dir := Dir()
	if dir == "" {
		return list
	}
	store := os.DirFS(dir)
	configs, _ := fs.Glob(store, "*/config.json") // only a bad pattern is an error
	nested, _ := fs.Glob(store, "*/*/config.json")
	configs = append(configs, nested...)
	sort.Strings(configs)
	for _, config := range configs {
		name := path.Dir(config)
		if m := at(name, filepath.Join(dir, filepath.FromSlash(name))); m != nil {
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

// at is the model in dir, or nil if there is none.
func at(name, dir string) *Model {
	if info, err := os.Stat(filepath.Join(dir, "config.json")); err != nil || info.IsDir() {
		return nil
	}
	if absolute, err := filepath.Abs(dir); err == nil {
		dir = absolute
		if name == "." || strings.HasPrefix(name, "..") {
			name = filepath.Base(dir)
		}
	}
	files := os.DirFS(dir)
	return &Model{Name: name, Path: dir, Bytes: size(files), Files: files}
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
