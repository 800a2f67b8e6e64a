package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestQuantizeThenEval: a file that quantize writes is one that eval reads, and costs what --quant costs.
func TestQuantizeThenEval(t *testing.T) {
	dir := t.TempDir()
	file, text := filepath.Join(dir, "q4.gguf"), filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte(strings.Repeat("Once upon a time there was a little girl. ", 8)), 0o600); err != nil {
		t.Fatal(err)
	}
	stdout, stderr, code := command(t, "quantize", "troupe-tiny", "-o", file, "--type", "q4")
	if code != 0 || !strings.Contains(stdout, "troupe serve --model "+file) {
		t.Fatalf("exit code %d\n%s%s", code, stdout, stderr)
	}
	measure := func(args ...string) (r evaluated) {
		stdout, stderr, code := command(t, append([]string{"eval", "--text", text, "--json", "--device", "cpu"}, args...)...)
		if code != 0 {
			t.Fatalf("exit code %d\n%s", code, stderr)
		}
		if err := json.Unmarshal([]byte(stdout), &r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	plain, loaded, stored := measure(), measure("--quant", "q4"), measure("--model", file, "--against", "troupe-tiny")
	if plain.Divergence != nil || plain.Tokens < 10 || plain.Score.Perplexity < 1 {
		t.Errorf("%+v", plain)
	}
	if loaded.Divergence == nil || stored.Divergence == nil || *loaded.Divergence != *stored.Divergence || loaded.Divergence.KL <= 0 {
		t.Errorf("quantized while loading: %+v, before: %+v", loaded.Divergence, stored.Divergence)
	}
	if *loaded.Reference != plain.Score {
		t.Errorf("the reference scores %+v, alone %+v", *loaded.Reference, plain.Score)
	}
}

func TestEvalMistakes(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "binary")
	if err := os.WriteFile(binary, []byte{0xff, 0xfe}, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{}, 2, "--text FILE"},
		{[]string{"--text", binary, "--quant", "q1"}, 2, "off, q8, q4 or fp8"},
		{[]string{"--text", binary, "--compute", "q1"}, 2, "f32 or bf16"},
		{[]string{"--text", binary, "--step", "0"}, 2, "expected 1 to 64"},
		{[]string{"--text", binary, "--kv-dtype", "q1"}, 2, "auto, f32, bf16 or int8"},
		{[]string{"--text", binary}, 1, "not UTF-8"},
		{[]string{"--text", "/nowhere"}, 1, "/nowhere"},
		{[]string{"--text", "eval_test.go", "--stride", "5000"}, 1, "stride is 5000"},
		{[]string{"--text", "eval_test.go", "--tokens", "1"}, 1, "the text has 1 token"},
		{[]string{"--text", "eval_test.go", "--model", "/nowhere"}, 1, "/nowhere"},
	} {
		if _, stderr, code := command(t, append([]string{"eval"}, c.args...)...); code != c.code || !strings.Contains(stderr, c.want) {
			t.Errorf("%q: exit code %d, want %d and %q:\n%s", c.args, code, c.code, c.want, stderr)
		}
	}
}
