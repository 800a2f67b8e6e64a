package modelstore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"

	"github.com/troupe-engine/troupe/internal/defaultmodel"
	"github.com/troupe-engine/troupe/internal/gguf/checkpoint"
	"github.com/troupe-engine/troupe/schemas"
)

// State says what a model in the store is.
type State string

// States of models. The last two are no models yet.
const (
	StateEmbedded State = "embedded" // in the binary
	StateLocal    State = "local"    // a folder that was not pulled: nothing is known of its files
	StatePulled   State = "pulled"   // complete; its files have the sizes of the manifest
	StateDamaged  State = "damaged"  // a file is missing or has another size, or the manifest does not parse
	StatePartial  State = "partial"  // an unfinished pull
	StatePulling  State = "pulling"  // a pull that runs now
)

// embeddedPath is the Path of the model in the binary.
const embeddedPath = "embedded"

// Model is a model that can be loaded.
type Model struct {
	Name      string `json:"name"`
	Path      string `json:"path"`  // "embedded" for the default model
	Bytes     int64  `json:"bytes"` // of its files
	FileCount int    `json:"files"`
	State     State  `json:"state"`
	Revision  string `json:"revision,omitempty"` // that was pulled, and its commit
	Commit    string `json:"commit,omitempty"`
	Files     fs.FS  `json:"-"`
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

// Find resolves what --model takes: the default model's name, a name in the store, with @revision if it must be
// that one, a directory or a GGUF file.
func Find(name string) (*Model, error) {
	if name == "" || name == defaultmodel.Name {
		return embedded(), nil
	}
	dir := Dir()
	if dir != "" && filepath.IsLocal(name) && !strings.HasPrefix(filepath.Clean(name), ".") {
		if m := at(filepath.ToSlash(filepath.Clean(name)), filepath.Join(dir, name)); m != nil {
			return m, nil
		}
	}
	if m := at(filepath.Base(filepath.Clean(name)), name); m != nil {
		return m, nil
	}
	if id, revision, pinned := strings.Cut(name, "@"); pinned && dir != "" && filepath.IsLocal(id) {
		if m := at(id, filepath.Join(dir, id)); m != nil {
			return m.pinned(revision)
		}
	}
	return nil, notFound(name)
}

// pinned is m if it is of that revision.
func (m *Model) pinned(revision string) (*Model, error) {
	const commitDigitsMin = 7
	if revision == m.Revision || len(revision) >= commitDigitsMin && strings.HasPrefix(m.Commit, revision) {
		return m, nil
	}
	return nil, schemas.Errorf(schemas.KindNotFound, "find model", "%s in the store is of revision %q, commit %q, not %q", m.Name, m.Revision, m.Commit, revision).
		WithParam("model").WithHint("`troupe pull %s@%s` replaces it", m.Name, revision)
}

func notFound(name string) error {
	e := schemas.Errorf(schemas.KindNotFound, "find model", "%q is neither a model's name nor a GGUF file or a directory with a config.json", name).WithParam("model")
	if ref, err := ParseRef(name); err == nil && strings.Contains(ref.ID, "/") {
		for _, m := range Unfinished() {
			if m.Name == ref.ID {
				return schemas.Errorf(schemas.KindNotFound, "find model", "%s is not complete yet: %s", ref.ID, m.State).WithParam("model").
					WithHint("`troupe pull %s` goes on where it stopped", name)
			}
		}
		return e.WithHint("`troupe models` lists the names, `troupe pull %s` downloads it; a directory needs config.json, tokenizer.json and *.safetensors", name)
	}
	return e.WithHint("`troupe models` lists the names; a directory needs config.json, tokenizer.json and *.safetensors")
}

// List returns all models with a name.
func List() []*Model {
	list := []*Model{embedded()}
	dir := Dir()
	if dir == "" {
		return list
	}
	store := os.DirFS(dir)
	found := map[string]bool{}
	for _, file := range []string{"config.json", manifestName, "*.gguf"} {
		for _, folder := range []string{"*/", "*/*/"} {
			matches, _ := fs.Glob(store, folder+file) // only a bad pattern is an error
			for _, m := range matches {
				found[path.Dir(m)] = true
			}
		}
	}
	var names []string
	for name := range found {
		if !strings.HasPrefix(name, ".") { // the store's own folders
			names = append(names, name)
		}
	}
	sort.Strings(names)
	for _, name := range names {
		if m := at(name, filepath.Join(dir, filepath.FromSlash(name))); m != nil {
			list = append(list, m)
		}
	}
	return list
}

// Unfinished returns the pulls that were begun and not finished, as models that cannot be loaded: Bytes are those
// that are there.
func Unfinished() []*Model {
	dir := Dir()
	if dir == "" {
		return nil
	}
	var list []*Model
	plans, _ := fs.Glob(os.DirFS(dir), pullDir+"/*/plan.json") // only a bad pattern is an error
	for _, name := range plans {
		plan, err := readManifest(os.DirFS(dir), name)
		if err != nil {
			continue // a crash in its first moment; the next pull writes it anew
		}
		ref, err := ParseRef(plan.Name)
		if work := path.Dir(name); err != nil || path.Base(work) != ref.key() {
			continue
		}
		m := &Model{Name: plan.Name, Path: filepath.Join(dir, filepath.FromSlash(path.Dir(name))), FileCount: len(plan.Files),
			State: StatePartial, Revision: plan.Revision, Commit: plan.Commit}
		m.Bytes = treeBytes(os.DirFS(m.Path), "files") + treeBytes(os.DirFS(m.Path), "parts")
		if busy, _ := locked(dir, ref); busy {
			m.State = StatePulling
		}
		list = append(list, m)
	}
	return list
}

func embedded() *Model {
	m := &Model{Name: defaultmodel.Name, Path: embeddedPath, Files: defaultmodel.Files(), State: StateEmbedded}
	m.Bytes, m.FileCount = size(m.Files)
	return m
}

// at is the model in a folder or in a GGUF file, or nil if there is none.
func at(name, where string) *Model {
	info, err := os.Stat(where)
	if err != nil {
		return nil
	}
	if absolute, err := filepath.Abs(where); err == nil {
		where = absolute
		if name == "." || strings.HasPrefix(name, "..") {
			name = filepath.Base(where)
		}
	}
	if !info.IsDir() {
		if !info.Mode().IsRegular() || !strings.EqualFold(filepath.Ext(where), ".gguf") {
			return nil
		}
		return &Model{Name: strings.TrimSuffix(name, filepath.Ext(where)), Path: where, Bytes: info.Size(), FileCount: 1,
			State: StateLocal, Files: checkpoint.NewDir(where)}
	}
	folder := os.DirFS(where)
	m := &Model{Name: name, Path: where, State: StateLocal, Files: modelFiles(folder)}
	manifest, err := readManifest(folder, manifestName)
	switch {
	case err == nil:
		m.describe(manifest, folder)
	case !errors.Is(err, fs.ErrNotExist):
		m.State = StateDamaged
		fallthrough
	default:
		m.Bytes, m.FileCount = size(folder)
	}
	if m.Files == nil {
		if m.State == StateLocal {
			return nil
		}
		m.Files = folder // the error of what is missing is the loader's
	}
	return m
}

// modelFiles is what an engine reads of a folder: its files, or those that stand for its only GGUF file; nil if it
// holds no model.
func modelFiles(folder fs.FS) fs.FS {
	if info, err := fs.Stat(folder, "config.json"); err == nil && !info.IsDir() {
		return folder
	}
	if files, _ := fs.Glob(folder, "*.gguf"); len(files) == 1 { // only a bad pattern is an error
		return checkpoint.NewDirFS(folder, files[0])
	}
	return nil
}

// describe takes over what the manifest says, and compares the sizes.
func (m *Model) describe(manifest *Manifest, folder fs.FS) {
	m.Revision, m.Commit, m.Bytes, m.FileCount, m.State = manifest.Revision, manifest.Commit, manifest.Bytes(), len(manifest.Files), StatePulled
	for _, f := range manifest.Files {
		if info, err := fs.Stat(folder, f.Path); err != nil || info.Size() != f.Size {
			m.State = StateDamaged
		}
	}
}

// size is the bytes and number of the files at the root.
func size(files fs.FS) (total int64, count int) {
	entries, err := fs.ReadDir(files, ".")
	if err != nil {
		return 0, 0
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && !e.IsDir() {
			total += info.Size()
			count++
		}
	}
	return total, count
}

func (m *Model) String() string { return fmt.Sprintf("%s (%s)", m.Name, m.Path) }
