package modelstore

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/troupe-engine/troupe/internal/modelstore/hubtest"
	"github.com/troupe-engine/troupe/schemas"
)

func verify(t *testing.T) *Report {
	t.Helper()
	m, err := Find(testID)
	if err != nil {
		t.Fatal(err)
	}
	r, err := Verify(context.Background(), m, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestVerifyNamesWhatIsWrong(t *testing.T) {
	for _, c := range []struct {
		name, file      string
		damage          func(name string) error
		expected, found string
	}{
		{"one bit", shard, func(name string) error { return flip(name, -1) }, "sha256:", "sha256:"},
		{"small file", "config.json", func(name string) error { return flip(name, 0) }, "git-sha1:", "git-sha1:"},
		{"truncated", shard, func(name string) error { return os.Truncate(name, 10) }, "bytes", "10 bytes"},
		{"missing", "config.json", os.Remove, "22 B", "no file"},
		{"folder", "config.json", func(name string) error { return errors.Join(os.Remove(name), os.Mkdir(name, 0o755)) }, "a regular file", "d"},
		{"link", "config.json", func(name string) error { return errors.Join(os.Remove(name), os.Symlink("/etc/passwd", name)) }, "a regular file", "L"},
		{"manifest", manifestName, func(name string) error { return os.WriteFile(name, []byte("{"), 0o644) }, "the manifest", "does not parse"},
		{"hostile manifest", manifestName, func(name string) error {
			return os.WriteFile(name, []byte(`{"format":1,"files":[{"path":"../x","size":1,"digest":"sha256:00"}]}`), 0o644)
		}, "the manifest", `"../x" has an impossible path`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, o := serve(t, hubtest.Model(64))
			mustPull(t, o)
			if r := verify(t); len(r.Problems) != 0 || !r.Manifest || r.Files != 6 {
				t.Fatalf("a good model: %+v", r)
			}
			if err := c.damage(filepath.Join(o.Store, testID, c.file)); err != nil {
				t.Fatal(err)
			}
			r := verify(t)
			if len(r.Problems) == 0 {
				t.Fatal("nothing was found")
			}
			p := r.Problems[0]
			if p.File != c.file || !strings.Contains(p.Expected, c.expected) || !strings.Contains(p.Found, c.found) || p.Expected == p.Found {
				t.Errorf("%+v", p)
			}
		})
	}
}

// flip changes a bit of one byte, counted from the end if at is negative.
func flip(name string, at int) error {
	data, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	if at < 0 {
		at += len(data)
	}
	data[at] ^= 1
	return os.WriteFile(name, data, 0o644)
}

// TestVerifyOpensHeaders also of models that nobody has checksums of.
func TestVerifyOpensHeaders(t *testing.T) {
	store := t.TempDir()
	t.Setenv("TROUPE_MODELS", store)
	dir := filepath.Join(store, testID)
	put(t, dir)
	for name, data := range hubtest.Model(64) {
		if strings.HasPrefix(name, "model") {
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	if r := verify(t); len(r.Problems) != 0 || r.Manifest {
		t.Errorf("%+v", r)
	}
	if err := os.Remove(filepath.Join(dir, shard)); err != nil {
		t.Fatal(err)
	}
	if r := verify(t); len(r.Problems) != 1 || r.Problems[0].File != "model.safetensors.index.json" || !strings.Contains(r.Problems[0].Found, shard) {
		t.Errorf("%+v", r)
	}
	if err := os.WriteFile(filepath.Join(dir, shard), []byte("<html>"), 0o644); err != nil {
		t.Fatal(err)
	}
	if r := verify(t); len(r.Problems) != 1 || r.Problems[0].File != shard {
		t.Errorf("%+v", r)
	}
}

func TestRemove(t *testing.T) {
	_, o := serve(t, hubtest.Model(64))
	_, err := Remove(context.Background(), testID)
	failed(t, err, schemas.KindNotFound, testID, "troupe models")
	r := mustPull(t, o)
	put(t, filepath.Join(o.Store, "org", "other"))
	freed, err := Remove(context.Background(), testID)
	if err != nil || freed < r.Bytes {
		t.Errorf("freed %d of %d bytes: %v", freed, r.Bytes, err)
	}
	absent(t, o)
	if _, err := Find("org/other"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(r.Path); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	for _, bad := range []string{"..", "../store", "org", "/", "org/other"} {
		if _, err := Remove(context.Background(), bad); err == nil {
			t.Errorf("%q was removed", bad)
		}
	}
	if _, err := Find("org/other"); err != nil {
		t.Error(err)
	}
}

func TestListedStates(t *testing.T) {
	_, o := serve(t, hubtest.Model(64))
	mustPull(t, o)
	put(t, filepath.Join(o.Store, "byhand"))
	put(t, filepath.Join(o.Store, pullDir, "stray")) // never a model
	states := func() map[string]State {
		found := map[string]State{}
		for _, m := range append(List(), Unfinished()...) {
			found[m.Name] = m.State
		}
		return found
	}
	if got := states(); len(got) != 3 || got[testID] != StatePulled || got["byhand"] != StateLocal || got["troupe-tiny"] != StateEmbedded {
		t.Errorf("%v", got)
	}
	if err := os.Truncate(filepath.Join(o.Store, testID, shard), 1); err != nil {
		t.Fatal(err)
	}
	if got := states(); got[testID] != StateDamaged {
		t.Errorf("%v", got)
	}
}
