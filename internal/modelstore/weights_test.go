package modelstore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func sha(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// TestWeightsDigest: one file's digest is sha256sum's, several files' that of the list; changed weights have another one,
// also if size and name stay.
func TestWeightsDigest(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Setenv("HOME", t.TempDir())
	dir := t.TempDir()
	write := func(name, text string, at time.Time) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	m := &Model{Name: "m", Path: dir}
	digest := func() string {
		t.Helper()
		d, err := m.WeightsDigest(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	if _, err := m.WeightsDigest(context.Background()); err == nil {
		t.Error("a folder without weights has a digest")
	}
	then := time.Unix(1e9, 0)
	write("config.json", "{}", then)
	write("model.safetensors", "abc", then)
	if got := digest(); got != "sha256:"+sha("abc") {
		t.Errorf("one file: %s", got)
	}
	write("model.safetensors", "xyz", then)
	if got := digest(); got != "sha256:"+sha("abc") {
		t.Errorf("a file of the same time and size is read again: %s", got)
	}
	write("model.safetensors", "xyz", then.Add(time.Second))
	if got := digest(); got != "sha256:"+sha("xyz") {
		t.Errorf("a file of another time is not: %s", got)
	}
	write("a.safetensors", "1", then)
	if got := digest(); got != "sha256:"+sha(sha("1")+"  a.safetensors\n"+sha("xyz")+"  model.safetensors\n") {
		t.Errorf("two files: %s", got)
	}
	gguf := &Model{Name: "g", Path: filepath.Join(dir, "a.gguf")}
	write("a.gguf", "g", then)
	if got, err := gguf.WeightsDigest(context.Background()); err != nil || got != "sha256:"+sha("g") {
		t.Errorf("a GGUF file: %s, %v", got, err)
	}
	stopped, stop := context.WithCancel(context.Background())
	stop()
	write("a.gguf", "gg", then)
	if _, err := gguf.WeightsDigest(stopped); err == nil {
		t.Error("goes on after its context ended")
	}
}

func TestWeightsDigestOfTheEmbeddedModel(t *testing.T) {
	a, err := embedded().WeightsDigest(context.Background())
	if err != nil || len(a) != len(prefixSHA256)+2*sha256.Size {
		t.Errorf("%q, %v", a, err)
	}
}
