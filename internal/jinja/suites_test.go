package jinja

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
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

// TestEndToEndAsPython renders the same templates in the default dialect. One differs:
// it prints a list, which Python and JavaScript do not write alike.
func TestEndToEndAsPython(t *testing.T) {
	doc := mustJSON[*Dict](t, sharedFile(t, "chat-templates/hf_jinja_e2e.json"))
	for _, c := range suite(t, field[[]any](t, doc, "cases")) {
		got, err := renderString(c.template, c.context, WithNow(clock))
		if same := err == nil && got == c.want; same == (c.name == "MadeAgents/Hammer2.1") {
			t.Errorf("%s: same as huggingface.js: %v, error %v", c.name, same, err)
		}
	}
}

// TestLlamaCpp runs llama.cpp's suite. Its expectations come from llama.cpp's built-in
// formatters; the seven cases below cannot be met by rendering the template as it is.
func TestLlamaCpp(t *testing.T) {
	differs := map[string]string{
		"mistralai/Mistral-7B-Instruct-v0.2 (NOTE: Old pre-v1 without a system prompt)": "the template refuses a system message",
		"google/gemma-7b-it":                  "the template refuses a system message",
		"OrionStarAI/Orion-14B-Chat":          "the template drops the system message",
		"Phi-3-mini":                          "the template drops the system message",
		"Phi-3-medium":                        "the template drops the system message",
		"ai-sage/GigaChat-20B-A3B-instruct":   "the template needs additional_special_tokens",
		"yandex/YandexGPT-5-Lite-8B-instruct": "the template drops the system message",
	}
	doc := mustJSON[*Dict](t, sharedFile(t, "chat-templates/llamacpp_chat_template_cases.json"))
	passed := 0
	for _, v := range field[[]any](t, doc, "cases") {
		c := v.(*Dict)
		ctx := map[string]any{"bos_token": "", "eos_token": "", "add_generation_prompt": true}
		maps.Copy(ctx, contextOf(c))
		messages := field[[]any](t, doc, "messages")
		if extra, ok := c.Get("extra_conversation"); ok {
			messages = slices.Concat(messages, extra.([]any))
		}
		ctx["messages"] = messages
		name := field[string](t, c, "name")
		want := field[string](t, c, "expected_output")
		if jinja := field[string](t, c, "expected_output_jinja"); jinja != "" {
			want = jinja
		}
		got, err := renderString(field[string](t, c, "template_str"), ctx)
		same := err == nil && got == want
		if reason, known := differs[name]; known == same {
			t.Errorf("%s: same as llama.cpp: %v (%s)\ngot  %q, %v\nwant %q", name, same, reason, got, err, want)
		}
		if same {
			passed++
		}
	}
	if passed != 29 {
		t.Errorf("%d of 36 cases pass, expected 29", passed)
	}
}

// TestConcurrentRenders shares a template and a context between goroutines.
func TestConcurrentRenders(t *testing.T) {
	tmpl, err := Parse("{% macro f(x) %}{{ x | tojson }}{% endmacro %}{% for t in tools %}{{ f(t) }}{% endfor %}")
	if err != nil {
		t.Fatal(err)
	}
	tools := mustJSON[[]any](t, []byte(`[{"b": 1, "a": {"c": [1, 2]}}, {"x": "y"}]`))
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			got, err := tmpl.Render(map[string]any{"tools": tools})
			if want := `{"b": 1, "a": {"c": [1, 2]}}{"x": "y"}`; err != nil || got != want {
				t.Errorf("got %s, %v", got, err)
			}
		})
	}
	group.Wait()
}
