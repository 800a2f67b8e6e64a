package jinja

import (
	"os"
	"testing"
)

// TestSemantics compares with what Jinja2 renders, see testdata/make_golden.py.
func TestSemantics(t *testing.T) {
	data, err := os.ReadFile("testdata/semantics.json")
	if err != nil {
		t.Fatal(err)
	}
	doc := mustJSON[*Dict](t, data)
	cases := field[[]any](t, doc, "cases")
	for _, c := range cases {
		c.(*Dict).Set("context", field[*Dict](t, doc, "context"))
	}
	runSuite(t, suite(t, cases), len(cases), Transformers)
}

// TestModels renders the templates of the shared tokenizers over chats with and
// without tools, system message, reasoning and generation prompt.
func TestModels(t *testing.T) {
	data, err := os.ReadFile("testdata/models.json")
	if err != nil {
		t.Fatal(err)
	}
	cases := mustJSON[[]any](t, data)
	for _, c := range cases {
		d := c.(*Dict)
		config := mustJSON[*Dict](t, sharedFile(t, field[string](t, d, "file")))
		d.Set("template", field[string](t, config, "chat_template"))
	}
	runSuite(t, suite(t, cases), len(cases), Transformers)
}
