package modelstore

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/troupe-engine/troupe/internal/defaultmodel"
)

// put makes what passes for a model.
func put(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestWhatIsListedIsFoundByItsName(t *testing.T) {
	store := filepath.Join(t.TempDir(), "models[1]") // no pattern
	t.Setenv("TROUPE_MODELS", store)
	put(t, filepath.Join(store, "small"))
	put(t, filepath.Join(store, "org", "large"))
	var names []string
	for _, m := range List() {
		names = append(names, m.Name)
		found, err := Find(m.Name)
		if err != nil || found.Name != m.Name || found.Path != m.Path {
			t.Errorf("%s is found as %v: %v", m, found, err)
		}
	}
	if want := []string{defaultmodel.Name, "org/large", "small"}; !slices.Equal(names, want) {
		t.Errorf("listed %q, want %q", names, want)
	}
}

func TestADirectoryIsFoundAndNamedAfterItself(t *testing.T) {
	t.Setenv("TROUPE_MODELS", t.TempDir())
	dir := filepath.Join(t.TempDir(), "mine")
	put(t, dir)
	t.Chdir(dir)
	for _, name := range []string{dir, dir + "/", ".", "../mine"} {
		if m, err := Find(name); err != nil || m.Name != "mine" || m.Path != dir {
			t.Errorf("%q is found as %v: %v", name, m, err)
		}
	}
	if m, err := Find("nobody"); err == nil || !strings.Contains(err.Error(), `"nobody"`) {
		t.Errorf("found %v: %v; want an error that quotes the name", m, err)
	}
}

// TestWithoutAStoreNothingElseIsListed: the working directory is no store.
func TestWithoutAStoreNothingElseIsListed(t *testing.T) {
	for _, name := range []string{"TROUPE_MODELS", "HOME", "XDG_CACHE_HOME", "LocalAppData"} {
		t.Setenv(name, "")
	}
	dir := t.TempDir()
	put(t, filepath.Join(dir, "stray"))
	t.Chdir(dir)
	if list := List(); len(list) != 1 || list[0].Name != defaultmodel.Name {
		t.Errorf("listed %v, want the default model alone", list)
	}
}

// TestGGUFFilesAreModels by path, by the name of their folder if they are alone in it, and by their name in the store.
func TestGGUFFilesAreModels(t *testing.T) {
	store := t.TempDir()
	t.Setenv("TROUPE_MODELS", store)
	dir := filepath.Join(store, "org", "name")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "small.gguf")
	if err := os.WriteFile(file, []byte("GGUF"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]Model{
		"org/name":            {Name: "org/name", Path: dir},
		"org/name/small.gguf": {Name: "org/name/small", Path: file},
		file:                  {Name: "small", Path: file},
	} {
		m, err := Find(name)
		if err != nil || m.Name != want.Name || m.Path != want.Path || m.Bytes != 4 || m.FileCount != 1 {
			t.Errorf("%s is found as %+v: %v", name, m, err)
		} else if f, err := m.Files.Open("model.gguf"); err != nil {
			t.Error(err)
		} else {
			_ = f.Close()
		}
	}
	if list := List(); len(list) != 2 || list[1].Name != "org/name" {
		t.Errorf("listed %v", list)
	}
	if err := os.WriteFile(filepath.Join(dir, "large.gguf"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if m, err := Find("org/name"); err == nil {
		t.Errorf("two files: found %v", m)
	}
}
