package jinja

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestHostileTemplates renders templates that would run forever, exhaust memory or
// overflow the stack. All must fail with a limit error, soon. The steps are a fifth of
// the default to save time.
func TestHostileTemplates(t *testing.T) {
	nest := func(open, end string, n int) string { return strings.Repeat(open, n) + "1" + strings.Repeat(end, n) }
	cases := map[string]string{
		"loops":              strings.Repeat("{% for i in range(100000) %}", 4) + strings.Repeat("{% endfor %}", 4),
		"doubling strings":   "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(100) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
		"doubling by +":      "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(100) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
		"doubling lists":     "{% set ns = namespace(s=[1]) %}{% for i in range(100) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
		"shared structure":   "{% set ns = namespace(s=[1]) %}{% for i in range(100) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s }}",
		"shared tojson":      "{% set ns = namespace(s=[1]) %}{% for i in range(100) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s | tojson }}",
		"shared comparison":  "{% set a = namespace(s=[1]) %}{% set b = namespace(s=[1]) %}{% for i in range(100) %}{% set a.s = [a.s, a.s] %}{% set b.s = [b.s, b.s] %}{% endfor %}{{ a.s == b.s }}",
		"deep value":         "{% set ns = namespace(s=[1]) %}{% for i in range(100000) %}{% set ns.s = [ns.s] %}{% endfor %}{{ ns.s }}",
		"deep value tojson":  "{% set ns = namespace(s=[1]) %}{% for i in range(100000) %}{% set ns.s = [ns.s] %}{% endfor %}{{ ns.s | tojson }}",
		"deep comparison":    "{% set a = namespace(s=[1]) %}{% set b = namespace(s=[1]) %}{% for i in range(100000) %}{% set a.s = [a.s] %}{% set b.s = [b.s] %}{% endfor %}{{ a.s == b.s }}",
		"macro recursion":    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
		"caller recursion":   "{% macro f() %}{{ caller() }}{% endmacro %}{% macro g() %}{% call f() %}{{ g() }}{% endcall %}{% endmacro %}{{ g() }}",
		"fibonacci":          "{% macro f(n) %}{% if n > 1 %}{{ f(n-1) }}{{ f(n-2) }}{% endif %}{% endmacro %}{{ f(60) }}",
		"repeated string":    "{{ 'x' * 1000000000000 }}",
		"repeated list":      "{{ ([1] * 1000000000000) | length }}",
		"repeated tuple":     "{{ ((1,) * 1000000000000) | length }}",
		"range":              "{{ range(1000000000000) | list }}",
		"center":             "{{ 'x'.center(1000000000) }}",
		"ljust":              "{{ 'x'.ljust(1000000000) }}",
		"zfill":              "{{ 'x'.zfill(1000000000) }}",
		"center filter":      "{{ 'x' | center(1000000000) }}",
		"indent":             "{{ 'x' | indent(1000000000, true) }}",
		"indent lines":       "{{ ('\n' * 1000000) | indent(10000) | length }}",
		"tojson indent":      "{{ [[[[1]]]] | tojson(indent=1000000000) }}",
		"replace":            "{{ ('x' * 1000000) | replace('x', 'y' * 1000) }}",
		"replace empty":      "{{ ('x' * 1000000) | replace('', 'y' * 1000) }}",
		"join":               "{{ range(100000) | join('x' * 100000) }}",
		"split":              "{{ ('x ' * 2000000).split() | length }}",
		"split sep":          "{{ ('x,' * 2000000).split(',') | length }}",
		"splitlines":         "{{ ('\n' * 2000000).splitlines() | length }}",
		"list of string":     "{{ ('x' * 2000000) | list | length }}",
		"batch":              "{{ [1] | batch(1000000000, 0) | list }}",
		"slice":              "{{ [1] | slice(1000000000) | list }}",
		"scans":              "{% set s = 'x' * 2000000 %}{% for i in range(100000) %}{{ s.count('y') }}{% endfor %}",
		"comparisons":        "{% set s = 'x' * 2000000 %}{% set u = 'x' * 2000000 %}{% for i in range(100000) %}{{ s == u }}{% endfor %}",
		"substring":          "{% set s = 'x' * 2000000 %}{% for i in range(100000) %}{{ 'y' in s }}{% endfor %}",
		"memory":             "{% set ns = namespace(l=[]) %}{% for i in range(100000) %}{% set ns.l = ns.l + ['x' * 1000000] %}{% endfor %}",
		"list growth":        "{% set ns = namespace(l=[]) %}{% for i in range(100000) %}{% set ns.l = ns.l + [i] %}{% endfor %}",
		"output":             "{% for i in range(100000) %}{{ 'x' * 1000 }}{% endfor %}",
		"sort":               "{% for i in range(100000) %}{% set x = range(100000) | sort %}{% endfor %}",
		"format growth":      "{% set ns = namespace(s='x') %}{% for i in range(100) %}{% set ns.s = '%s%s' % (ns.s, ns.s) %}{% endfor %}",
		"strftime":           "{{ strftime_now('%c' * 10000000) }}",
		"urgent power":       "{% for i in range(100000) %}{% for j in range(100000) %}{% set x = 3 ** 39 %}{% endfor %}{% endfor %}",
		"long attribute":     "{% set s = 'é' * 500000 %}{% for i in range(100000) %}{{ s[i] }}{% endfor %}",
		"long keys":          "{% set s = 'x' * 500000 %}{% for i in range(100000) %}{{ d[s] }}{{ d.get(s) }}{{ s in d }}{% endfor %}",
		"equal long strings": "{% set s = 'x' * 500000 %}{{ ([s] * 100000) | unique(case_sensitive=true) | list }}",
		"prefixes":           "{% set s = 'x' * 500000 %}{{ (s ~ 'y').startswith((s ~ 'z',) * 100000) }}",
		"long name":          "{% for i in range(100000) %}{{ " + strings.Repeat("n", 500_000) + " }}{% endfor %}",
		"many parameters":    "{% macro f(" + strings.Join(manyNames(100_000), ",") + ") %}{% endmacro %}",
		"expression depth":   "{{ " + strings.Repeat("1 + ", 100000) + "1 }}",
		"attribute depth":    "{{ x" + strings.Repeat("[0]", 100000) + " }}",
		"filter depth":       "{{ 1" + strings.Repeat(" | string", 100000) + " }}",
		"nested brackets":    "{{ " + nest("[", "]", 100000) + " }}",
		"nested parentheses": "{{ " + nest("(", ")", 100000) + " }}",
		"nested not":         "{{ " + nest("not ", "", 100000) + " }}",
		"nested minus":       "{{ " + nest("- ", "", 100000) + " }}",
		"nested if":          nest("{% if 1 %}", "{% endif %}", 50000),
		"nested else":        "{{ " + nest("1 if 0 else ", "", 50000) + " }}",
		"nested targets":     "{% set " + nest("(", ")", 100000) + " = 1 %}",
		"huge source":        strings.Repeat("x", sourceBytesMax+1),
	}
	for name, source := range cases {
		t.Run(name, func(t *testing.T) {
			begin := time.Now()
			_, err := renderString(source, map[string]any{"x": []any{}, "d": NewDict(0)}, WithLimits(Limits{StepsMax: 2_000_000}))
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("got error %v, expected a limit", err)
			}
			if e.Kind != LimitError && !strings.Contains(e.Message, "deep") && !strings.Contains(e.Message, "limit") &&
				!strings.Contains(e.Message, "longer than") && !strings.Contains(e.Message, "more than") {
				t.Errorf("got %v, expected a limit", err)
			}
			if took := time.Since(begin); took > 10*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}

func manyNames(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("a%d", i)
	}
	return names
}

func TestLimitsAreSettable(t *testing.T) {
	const source = "{% for i in range(100) %}{{ i }}{% endfor %}"
	for name, limits := range map[string]Limits{
		"steps": {StepsMax: 50}, "output": {OutputBytesMax: 50}, "depth": {DepthMax: 1},
	} {
		_, err := renderString(source, nil, WithLimits(limits))
		var e *Error
		if !errors.As(err, &e) || e.Kind != LimitError {
			t.Errorf("%s: got %v, expected a LimitError", name, err)
		}
	}
	if _, err := renderString(source, nil, WithLimits(Limits{StepsMax: 5000, OutputBytesMax: 5000, DepthMax: 10})); err != nil {
		t.Error(err)
	}
}

func TestContextIsChecked(t *testing.T) {
	cyclic := map[string]any{}
	cyclic["self"] = cyclic
	for name, ctx := range map[string]map[string]any{
		"messages[1].content has unsupported Go type chan int": {
			"messages": []any{nil, map[string]any{"content": make(chan int)}},
		},
		"nested too deeply": {"x": cyclic},
	} {
		_, err := renderString("{{ x }}", ctx)
		var e *Error
		if !errors.As(err, &e) || e.Kind != ContextError || !strings.Contains(e.Message, name) {
			t.Errorf("got %.200v, expected %q", err, name)
		}
	}
}

// TestContextTypes renders every accepted Go type, and leaves the context as it was.
func TestContextTypes(t *testing.T) {
	d := NewDict(1)
	d.Set("n", 1)
	ctx := map[string]any{
		"int": 1, "strings": []string{"a"}, "maps": []map[string]any{{"b": 1, "a": 2}},
		"dict": d, "value": *d, "dicts": []*Dict{d}, "nil": (*Dict)(nil), "f": 1.0, "list": []any{1, "x"},
	}
	got, err := renderString("{{ [int, strings, maps, dict, value, dicts, nil, f, list] }}", ctx)
	want := "[1, ['a'], [{'a': 2, 'b': 1}], {'n': 1}, {'n': 1}, [{'n': 1}], None, 1.0, [1, 'x']]"
	if err != nil || got != want {
		t.Errorf("got %q, %v\nwant %q", got, err, want)
	}
	if v, _ := d.Get("n"); v != 1 {
		t.Errorf("the context was modified: n is %#v", v)
	}
	if list := ctx["list"].([]any); list[0] != 1 {
		t.Errorf("the context was modified: list is %#v", list)
	}
}
