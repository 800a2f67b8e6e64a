package jinja

import (
	"encoding/json"
	"errors"
	"os"
	"testing"
)

// FuzzParseRender renders arbitrary templates: they may fail, but only with a located
// *Error, within the limits, and the same way each time.
func FuzzParseRender(f *testing.F) {
	data, err := os.ReadFile("testdata/semantics.json")
	if err != nil {
		f.Fatal(err)
	}
	doc := mustJSON[*Dict](f, data)
	for _, c := range field[[]any](f, doc, "cases") {
		f.Add(field[string](f, c.(*Dict), "template"))
	}
	ctx := contextOf(field[*Dict](f, doc, "context"))
	limits := WithLimits(Limits{StepsMax: 50_000, OutputBytesMax: 100_000, DepthMax: 200})
	f.Fuzz(func(t *testing.T, source string) {
		tmpl, err := Parse(source)
		if err != nil {
			checkError(t, err, true)
			return
		}
		first, err := tmpl.Render(ctx, limits, WithNow(clock))
		if err != nil {
			checkError(t, err, false)
		}
		if len(first) > 100_000 {
			t.Errorf("output has %d bytes", len(first))
		}
		second, err2 := tmpl.Render(ctx, limits, WithNow(clock))
		if first != second || (err == nil) != (err2 == nil) {
			t.Errorf("renders differ: %q, %v and %q, %v", first, err, second, err2)
		}
	})
}

func checkError(t *testing.T, err error, parsing bool) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Message == "" || parsing != (e.Kind == SyntaxError) || e.Line < 1 || e.Column < 1 {
		t.Errorf("bad error %#v", err)
	}
}

// FuzzFromJSON checks that what encoding/json accepts is read, and survives tojson.
func FuzzFromJSON(f *testing.F) {
	for _, doc := range []string{`{"a": [1, 2.5, "x", null, true]}`, `"é"`, "-0.0", "1e400", "[[]]", `{"a":1,"a":2}`, "123456789012345678901"} {
		f.Add(doc)
	}
	tmpl, err := Parse("{{ v | tojson }}")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, doc string) {
		v, err := FromJSON([]byte(doc))
		if err != nil {
			return
		}
		if !json.Valid([]byte(doc)) {
			t.Fatalf("accepted %q", doc)
		}
		text, err := tmpl.Render(map[string]any{"v": v})
		if err != nil {
			t.Fatal(err)
		}
		again, err := FromJSON([]byte(text))
		if err != nil {
			return // an infinite float, which JSON cannot hold
		}
		if twice, err := tmpl.Render(map[string]any{"v": again}); err != nil || twice != text {
			t.Fatalf("%q became %q, then %q, %v", doc, text, twice, err)
		}
	})
}
