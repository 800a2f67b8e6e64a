package jinja

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// clock is the time that the e2e suite's expectations were made at.
func clock() time.Time { return time.Date(2025, 7, 10, 12, 0, 0, 42_000, time.UTC) }

// sharedFile reads ../shared/<path> relative to the repository, or skips.
func sharedFile(t testing.TB, path string) []byte {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
	}
	name := filepath.Join(dir, "..", "shared", path)
	data, err := os.ReadFile(name)
	if os.IsNotExist(err) {
		t.Skipf("SKIPPED: test data %s is missing", name)
	}
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// suiteCase is one case of a suite: want is the text, or wantErr is set.
type suiteCase struct {
	name, template string
	context        map[string]any
	want           string
	wantErr        bool
}

func field[T any](t testing.TB, d *Dict, name string) T {
	t.Helper()
	v, _ := d.Get(name)
	x, ok := v.(T)
	if !ok {
		t.Fatalf("test data: field %q is %T, not %T", name, v, x)
	}
	return x
}

func contextOf(d *Dict) map[string]any {
	ctx := map[string]any{}
	for name, v := range d.All() {
		ctx[name] = v
	}
	return ctx
}

func suite(t testing.TB, cases []any) []suiteCase {
	t.Helper()
	var out []suiteCase
	for _, v := range cases {
		d := v.(*Dict)
		c := suiteCase{
			name:     field[string](t, d, "name"),
			template: field[string](t, d, "template"),
			context:  contextOf(field[*Dict](t, d, "context")),
		}
		if want, ok := d.Get("expected"); ok && want != nil {
			c.want = want.(string)
		} else {
			c.wantErr = true
		}
		out = append(out, c)
	}
	return out
}

func mustJSON[T any](t testing.TB, data []byte) T {
	t.Helper()
	v, err := FromJSON(data)
	if err != nil {
		t.Fatal(err)
	}
	x, ok := v.(T)
	if !ok {
		t.Fatalf("test data is %T, not %T", v, x)
	}
	return x
}

// runSuite renders every case and reports the ones that differ.
func runSuite(t *testing.T, cases []suiteCase, want int, dialect Dialect) {
	t.Helper()
	if len(cases) != want {
		t.Errorf("suite has %d cases, expected %d", len(cases), want)
	}
	passed := 0
	for _, c := range cases {
		ok := t.Run(c.name, func(t *testing.T) {
			got, err := renderString(c.template, c.context, WithNow(clock), WithDialect(dialect))
			switch {
			case c.wantErr && err == nil:
				t.Errorf("got %q, expected an error", got)
			case !c.wantErr && err != nil:
				t.Error(err)
			case !c.wantErr && got != c.want:
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
		if ok {
			passed++
		}
	}
	t.Logf("%d of %d cases pass", passed, len(cases))
}

func renderString(template string, ctx map[string]any, opts ...Option) (string, error) {
	tmpl, err := Parse(template)
	if err != nil {
		return "", err
	}
	return tmpl.Render(ctx, opts...)
}

// TestHuggingFaceFeatures runs huggingface.js' suite, in its dialect.
func TestHuggingFaceFeatures(t *testing.T) {
	cases := mustJSON[[]any](t, sharedFile(t, "chat-templates/hf_jinja_features.json"))
	runSuite(t, suite(t, cases), 157, TransformersJS)
}

// TestHuggingFaceEndToEnd renders the templates of real models.
func TestHuggingFaceEndToEnd(t *testing.T) {
	doc := mustJSON[*Dict](t, sharedFile(t, "chat-templates/hf_jinja_e2e.json"))
	runSuite(t, suite(t, field[[]any](t, doc, "cases")), 53, TransformersJS)
}
