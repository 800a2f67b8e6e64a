package modelstore

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/troupe-engine/troupe/internal/modelstore/hub"
	"github.com/troupe-engine/troupe/internal/modelstore/hubtest"
	"github.com/troupe-engine/troupe/schemas"
)

const testID = "org/name"

// shardBytes makes a shard that takes several reads.
const shardBytes = 3 << 20

// serve starts a server and points the store at a new folder.
func serve(t *testing.T, files map[string][]byte) (*hubtest.Server, PullOptions) {
	t.Helper()
	store := filepath.Join(t.TempDir(), "store")
	t.Setenv("TROUPE_MODELS", store)
	s := hubtest.New(testID, files)
	t.Cleanup(s.Close)
	return s, PullOptions{Store: store, Hub: hub.Options{Endpoint: s.URL, StallTimeMax: 5 * time.Second,
		Retry: hub.Retry{AttemptsMax: 4, DelayMin: time.Millisecond, DelayMax: 5 * time.Millisecond}}}
}

func pull(t *testing.T, o PullOptions) (*Result, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return Pull(ctx, Ref{ID: testID}, o)
}

func mustPull(t *testing.T, o PullOptions) *Result {
	t.Helper()
	r, err := pull(t, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

var defaultChoice = []string{"chat_template.jinja", "config.json", "model-00001-of-00002.safetensors",
	"model-00002-of-00002.safetensors", "model.safetensors.index.json", "tokenizer.json"}

// stored checks that the model has exactly these files, as served, and its manifest.
func stored(t *testing.T, o PullOptions, s *hubtest.Server, want ...string) {
	t.Helper()
	dir := filepath.Join(o.Store, testID)
	var got []string
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && d.Name() != manifestName {
			rel, _ := filepath.Rel(dir, name)
			got = append(got, rel)
			data, _ := os.ReadFile(name)
			if !bytes.Equal(data, s.Files[rel]) {
				t.Errorf("%s differs from what the server has", rel)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("stored %q, want %q", got, want)
	}
	if left, _ := os.ReadDir(filepath.Join(o.Store, pullDir)); len(left) > 0 {
		t.Errorf("%d folders are left in %s", len(left), pullDir)
	}
}

// absent checks that no model can be found.
func absent(t *testing.T, o PullOptions) {
	t.Helper()
	if _, err := os.Lstat(filepath.Join(o.Store, testID)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the model's folder is there: %v", err)
	}
	if m, err := Find(testID); err == nil {
		t.Errorf("found %v", m)
	}
}

// failed checks an error's kind, that it says all of want and, unless it was cancelled, what to do.
func failed(t *testing.T, err error, kind schemas.Kind, want ...string) {
	t.Helper()
	var e *schemas.Error
	if !errors.As(err, &e) || e.Kind != kind || e.Hint == "" {
		t.Fatalf("error %v; want one of kind %s with a hint", err, kind)
	}
	for _, w := range want {
		if !strings.Contains(e.Error(), w) {
			t.Errorf("%q does not say %q", e.Error(), w)
		}
	}
}

func TestPullTakesWhatAnEngineNeeds(t *testing.T) {
	s, o := serve(t, hubtest.Model(shardBytes))
	s.PageSize = 3
	r := mustPull(t, o)
	stored(t, o, s, defaultChoice...)
	if r.Files != 6 || r.Commit != hubtest.Commit || r.BytesReceived != r.Bytes || r.UpToDate || r.Revision != "main" {
		t.Errorf("%+v", r)
	}
	for _, name := range []string{testID, testID + "@main", testID + "@" + hubtest.Commit[:8], r.Path} {
		if m, err := Find(name); err != nil || m.Path != r.Path || m.State != StatePulled {
			t.Errorf("%s is found as %+v: %v", name, m, err)
		}
	}
	_, err := Find(testID + "@v2")
	failed(t, err, schemas.KindNotFound, `not "v2"`, "troupe pull org/name@v2")
	before := s.Served("")
	if again := mustPull(t, o); !again.UpToDate || again.BytesReceived != 0 || s.Served("") != before {
		t.Errorf("again: %+v, %d bytes served", again, s.Served("")-before)
	}
	stored(t, o, s, defaultChoice...)
}

func TestIncludeAndExclude(t *testing.T) {
	for _, c := range []struct {
		include, exclude []string
		want             []string
	}{
		{[]string{"*.gguf"}, nil, []string{"model.Q4_K_M.gguf"}},
		{[]string{"original/", "config.json"}, nil, []string{"config.json", "original/params.json"}},
		{[]string{"*.json"}, []string{"original/*", "*.index.json"}, []string{"config.json", "tokenizer.json"}},
		{nil, []string{"*.jinja", "model-*"}, []string{"config.json", "consolidated.safetensors", "model.safetensors.index.json", "tokenizer.json"}},
	} {
		s, o := serve(t, hubtest.Model(64))
		o.Include, o.Exclude = c.include, c.exclude
		mustPull(t, o)
		stored(t, o, s, c.want...)
		if r := verify(t); len(r.Problems) > 0 && !slices.Contains(c.want, "model.safetensors.index.json") {
			t.Errorf("%+v", r)
		}
	}
	_, o := serve(t, hubtest.Model(64))
	o.Include = []string{"*.onnx"}
	_, err := pull(t, o)
	failed(t, err, schemas.KindNotFound, "--include", `"config.json"`)
	o.Include = []string{"["}
	_, err = pull(t, o)
	failed(t, err, schemas.KindInvalid, `include: "["`)
	o.Include, o.Exclude = nil, []string{"*.safetensors"}
	_, err = pull(t, o)
	failed(t, err, schemas.KindUnsupported, "no *.safetensors", "--include '*.gguf'", "pytorch_model.bin")
}
