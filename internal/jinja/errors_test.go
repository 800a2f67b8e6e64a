package jinja

import (
	"errors"
	"strings"
	"testing"
)

func TestErrorsSayWhere(t *testing.T) {
	cases := []struct {
		source       string
		kind         ErrorKind
		line, column int
		message      string
		snippet      string
	}{
		{"a\n{{ b c }}", SyntaxError, 2, 6, "unexpected 'c'", "{{ b c }}"},
		{"a\n  {% if x %}\nb", SyntaxError, 3, 2, "expected '{% endif %}'", "b"},
		{"ä{{ 'abc }}", SyntaxError, 1, 5, "string is never closed", "ä{{ 'abc }}"},
		{"{% include 'x' %}", SyntaxError, 1, 4, "'include' is not supported", "{% include 'x' %}"},
		{"{% for a in b recursive %}{% endfor %}", SyntaxError, 1, 15, "recursive", "{% for a in b recursive %}{% endfor %}"},
		{"{# \n\n", SyntaxError, 1, 1, "comment is never closed", "{#"},
		{"{{ (1] }}", SyntaxError, 1, 6, "expected ')'", "{{ (1] }}"},
		{"x\r\ny {{ missing.name }}", RuntimeError, 2, 14, "'missing' is undefined", "y {{ missing.name }}"},
		{"{{ 1 +\n 'a' }}", RuntimeError, 1, 6, "unsupported operands for +: 'int' and 'str'", "{{ 1 +"},
		{"{{ [1, 2] | map('nope') }}", RuntimeError, 1, 13, "unknown filter 'nope'", "{{ [1, 2] | map('nope') }}"},
		{"{% macro f(a) %}\n{{ a.b.c }}{% endmacro %}\n{{ f(d) }}", RuntimeError, 2, 8, "has no attribute 'b'", "{{ a.b.c }}{% endmacro %}"},
		{"{% set ns = 1 %}{% set ns.a = 1 %}", RuntimeError, 1, 24, "not a namespace", "{% set ns = 1 %}{% set ns.a = 1 %}"},
		{"{% if true %}\n  {{ raise_exception('No ' ~ 'system role') }}{% endif %}", RaisedError, 2, 21, "No system role", "{{ raise_exception('No ' ~ 'system role') }}{% endif %}"},
		{"{% for i in range(9) %}\n{{ 'x' * 10**10 }}{% endfor %}", LimitError, 2, 8, "exceeds the limit", "{{ 'x' * 10**10 }}{% endfor %}"},
	}
	for _, c := range cases {
		_, err := renderString(c.source, map[string]any{"d": NewDict(0)})
		var e *Error
		if !errors.As(err, &e) {
			t.Errorf("%q: got %v, expected an *Error", c.source, err)
			continue
		}
		if e.Kind != c.kind || e.Line != c.line || e.Column != c.column || e.Snippet != c.snippet || !strings.Contains(e.Message, c.message) {
			t.Errorf("%q:\ngot  %+v\nwant %+v", c.source, *e, c)
		}
	}
}

func TestErrorText(t *testing.T) {
	_, err := Parse("one\ntwo {{ a b }}")
	want := `jinja: line 2, column 10: unexpected 'b': expected '}}' (in "two {{ a b }}")`
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func TestSnippetIsBounded(t *testing.T) {
	_, err := Parse(strings.Repeat("é", 5000) + "{{ ? }}" + strings.Repeat("é", 5000))
	var e *Error
	if !errors.As(err, &e) || e.Column != 5004 || len([]rune(e.Snippet)) > snippetRunesMax || !strings.Contains(e.Snippet, "{{ ? }}") {
		t.Errorf("got %+v", err)
	}
}
