package jinja

import (
	"flag"
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

var templatesFile = flag.String("templates", "", "file of `make_golden.py templates`, for TestTemplates")

// TestTemplates renders whatever templates the flag -templates names.
func TestTemplates(t *testing.T) {
	if *templatesFile == "" {
		t.Skip("SKIPPED: no -templates; testdata/make_golden.py says how to make them")
	}
	data, err := os.ReadFile(*templatesFile)
	if err != nil {
		t.Fatal(err)
	}
	cases := mustJSON[[]any](t, data)
	runSuite(t, suite(t, cases), len(cases), Transformers)
}
