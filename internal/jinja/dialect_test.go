package jinja

import "testing"

// TestDialects shows where the two dialects part.
func TestDialects(t *testing.T) {
	d := NewDict(1)
	d.Set("k", []any{true, nil, "it's"})
	ctx := map[string]any{"d": d, "list": []any{int64(3), int64(0)}}
	cases := []struct{ source, python, js string }{ // "" for an error
		{"{{ true }} {{ none }} {{ 1.0 }}", "True None 1.0", "true null 1.0"},
		{"{{ d }}", `{'k': [True, None, "it's"]}`, `{"k": [true, null, "it's"]}`},
		{"{{ [x] }}", "[Undefined]", "[undefined]"},
		{"{{ (1, 2) }}", "(1, 2)", "[1, 2]"},
		{"{{ 'a' + 1 + true }}", "", "a1true"},
		{"{{ 1 in [true] }}", "True", "false"},
		{"{{ 1 == true }}", "True", "false"},
		{"{{ 1 in 'a1' }}", "", "false"},
		{"{{ list | select | length }}", "", "1"},
		{"{{ (d | items)[0][0] }}", "", "k"},
		{"{{ 'y' if list | select('gt', 5) else 'n' }}", "y", "n"},
		{"{{ x | tojson }}", "", "null"},
		{"{{ d | tojson }}", `{"k": [true, null, "it's"]}`, `{"k": [true, null, "it's"]}`},
		{"{{ ',' .join([1, 2]) }}", "", "1,2"},
	}
	for _, c := range cases {
		for dialect, want := range map[Dialect]string{Transformers: c.python, TransformersJS: c.js} {
			got, err := renderString(c.source, ctx, WithDialect(dialect))
			if got != want || (err != nil) != (want == "") {
				t.Errorf("%s in dialect %d: got %q, %v; want %q", c.source, dialect, got, err, want)
			}
		}
	}
}
