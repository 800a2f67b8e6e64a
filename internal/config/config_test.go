package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/troupe-engine/troupe/schemas"
)

type options struct {
	Model    string        `yaml:"model" doc:"a name"`
	KVBlocks int           `yaml:"kv_blocks" doc:"blocks"`
	Bytes    int64         `yaml:"bytes_max" doc:"bytes"`
	Cache    bool          `yaml:"prefix_cache" doc:"reuse"`
	Grace    time.Duration `yaml:"grace" doc:"how long"`
	Rate     float64       `yaml:"rate" doc:"per second"`
	hidden   int
}

func defaults() options {
	return options{Model: "tiny", KVBlocks: 7, Cache: true, Grace: time.Second, Rate: 0.5, hidden: 1}
}

// load parses args, a file's text and an environment.
func load(t *testing.T, yaml string, environ []string, args ...string) (options, []string, error) {
	t.Helper()
	o := defaults()
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	s := Bind(flags, &o)
	if err := flags.Parse(args); err != nil {
		return o, nil, err
	}
	file := ""
	if yaml != "" {
		file = filepath.Join(t.TempDir(), "troupe.yaml")
		if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	unknown, err := s.Load(file, environ, []string{"TROUPE_MODELS"})
	return o, unknown, err
}

func TestLaterSourcesWin(t *testing.T) {
	yaml := "model: from-file\nkv_blocks: 0x10\nprefix_cache: false\nbytes_max: 5_000_000_000\nrate: 2\n"
	environ := []string{"TROUPE_KV_BLOCKS=32", "TROUPE_MODELS=/srv", "PATH=/bin", "TROUPE_PORT=tcp://10.0.0.1:80", "TROUPE_GRACE=5s"}
	o, unknown, err := load(t, yaml, environ, "--kv-blocks", "64", "--prefix-cache")
	if err != nil {
		t.Fatal(err)
	}
	want := options{Model: "from-file", KVBlocks: 64, Bytes: 5_000_000_000, Cache: true, Grace: 5 * time.Second, Rate: 2, hidden: 1}
	if o != want {
		t.Errorf("got %+v; want %+v", o, want)
	}
	if len(unknown) != 1 || unknown[0] != "TROUPE_PORT" {
		t.Errorf("unknown variables %q; want TROUPE_PORT, which an orchestrator may set", unknown)
	}
	if o, _, err := load(t, "", nil); err != nil || o != defaults() {
		t.Errorf("without sources: %+v, %v; want the defaults", o, err)
	}
	if o, _, err := load(t, "# nothing\n", nil); err != nil || o != defaults() {
		t.Errorf("comments only: %+v, %v; want the defaults", o, err)
	}
}

func TestMistakesAreNamed(t *testing.T) {
	for _, c := range []struct {
		yaml, env string
		param     string
		want      []string
	}{
		{yaml: "model: a\nkv_blokcs: 3\n", param: "kv_blokcs", want: []string{"troupe.yaml:2", `"kv_blokcs" is not an option`, "did you mean kv_blocks?"}},
		{yaml: "kv-blocks: 3\n", param: "kv-blocks", want: []string{"did you mean kv_blocks?"}},
		{yaml: "colour: 3\n", param: "colour", want: []string{"troupe serve --help"}},
		{yaml: "\nkv_blocks: many\n", param: "kv_blocks", want: []string{"troupe.yaml:2", `kv_blocks is the string "many"; expected an integer`}},
		{yaml: "kv_blocks: \"3\"\n", param: "kv_blocks", want: []string{"expected an integer"}},
		{yaml: "kv_blocks: 3.5\n", param: "kv_blocks", want: []string{"kv_blocks is 3.5; expected an integer"}},
		{yaml: "kv_blocks: 99999999999999999999\n", param: "kv_blocks", want: []string{"expected an integer"}},
		{yaml: "kv_blocks: [1]\n", param: "kv_blocks", want: []string{"a list; expected an integer"}},
		{yaml: "model: {a: b}\n", param: "model", want: []string{"a mapping; expected a string"}},
		{yaml: "model:\n", param: "model", want: []string{"model is empty; expected a string"}},
		{yaml: "prefix_cache: 1\n", param: "prefix_cache", want: []string{"expected true or false"}},
		{yaml: "grace: 30\n", param: "grace", want: []string{"expected a duration such as 30s"}},
		{yaml: "grace: soon\n", param: "grace", want: []string{"expected a duration such as 30s"}},
		{yaml: "model: a\nmodel: b\n", param: "model", want: []string{"troupe.yaml:2", "already in line 1"}},
		{yaml: "- a\n", param: "config", want: []string{"troupe.yaml:1", "a list; expected `key: value` lines"}},
		{yaml: "model: [\n", param: "config", want: []string{"troupe.yaml", "line"}},
		{yaml: "model: a\n---\nmodel: b\n", param: "config", want: []string{"more follows"}},
		{env: "TROUPE_KV_BLOCKS=x", param: "kv_blocks", want: []string{`TROUPE_KV_BLOCKS is "x"; expected an integer`}},
		{env: "TROUPE_KV_BLOKS=3", param: "TROUPE_KV_BLOKS", want: []string{"did you mean TROUPE_KV_BLOCKS?"}},
	} {
		_, _, err := load(t, c.yaml, []string{c.env})
		var e *schemas.Error
		if !errors.As(err, &e) || e.Kind != schemas.KindInvalid || e.Param != c.param {
			t.Errorf("%q %q: error %v (param %q); want an invalid_argument about %q", c.yaml, c.env, err, param(e), c.param)
			continue
		}
		for _, w := range c.want {
			if !strings.Contains(e.Error(), w) {
				t.Errorf("%q %q: %q does not say %q", c.yaml, c.env, e, w)
			}
		}
	}
}

func param(e *schemas.Error) string {
	if e == nil {
		return ""
	}
	return e.Param
}

func TestFileMistakesAreNamed(t *testing.T) {
	o := defaults()
	s := Bind(pflag.NewFlagSet("test", pflag.ContinueOnError), &o)
	large := filepath.Join(t.TempDir(), "large")
	if err := os.WriteFile(large, make([]byte, FileBytesMax+1), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"no/such/file", t.TempDir(), large} {
		if _, err := s.Load(name, nil, nil); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v; want an error with its name", name, err)
		}
	}
}

func TestFlagMistakesAreNamed(t *testing.T) {
	_, _, err := load(t, "", nil, "--grace", "soon")
	if err == nil || !strings.Contains(err.Error(), "--grace") || !strings.Contains(err.Error(), "a duration such as 30s") {
		t.Errorf("got %v; want an error that names the flag and what it takes", err)
	}
}

func TestNearest(t *testing.T) {
	names := []string{"model", "kv_blocks", "http"}
	for name, want := range map[string]string{"mdoel": "model", "kv_block": "kv_blocks", "htp": "http", "x": "", "": "", "grace": ""} {
		if got := Nearest(name, names); got != want {
			t.Errorf("Nearest(%q) = %q; want %q", name, got, want)
		}
	}
}

// FuzzYAML: a hostile file is refused or changes known options, and never panics.
func FuzzYAML(f *testing.F) {
	for _, seed := range []string{"model: a\n", "kv_blocks: 3\nprefix_cache: no\n", "a: &a [*a]\nmodel: *a\n", "? [x]\n: y\n", "grace: 5s", "%YAML 9\n---\n", "model: !!binary aGk=\n", "<<: {model: x}\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) > 1<<12 {
			return
		}
		o := defaults()
		s := Bind(pflag.NewFlagSet("fuzz", pflag.ContinueOnError), &o)
		err := s.parseYAML("fuzz.yaml", raw)
		var e *schemas.Error
		if err != nil && (!errors.As(err, &e) || e.Param == "" && len(raw) == 0) {
			t.Fatalf("%q: %v is not an error that names its key", raw, err)
		}
		if o.hidden != 1 {
			t.Fatal("a field without a tag changed")
		}
	})
}
