package main

import (
	"context"
	"io"
	"os"
	"regexp"
	"testing"
)

// What the program prints, as far as the model does not decide it.
func TestOutput(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout := os.Stdout
	os.Stdout = w
	err = run(context.Background())
	os.Stdout = stdout
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	want := regexp.MustCompile(`^story: Once upon a time(?s:.+)\n` +
		`form: \{Kind:(cat|dog|bird) Legs:[0-4]\}\n` +
		`vectors: cosine 0\.[0-9]{2}\nvectors: cosine -?0\.[0-9]{2}\n` +
		`server: /llm/v1/models has troupe-tiny\n$`)
	if !want.Match(out) {
		t.Errorf("it prints\n%s\nwant %s", out, want)
	}
}
