package tokenizers

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// tiny is a valid tokenizer.json with one of everything that the error tests break.
const tiny = `{
  "version": "1.0",
  "truncation": {"direction": "Right", "max_length": 100, "strategy": "LongestFirst", "stride": 0},
  "padding": {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "a"},
  "added_tokens": [
    {"id": 0, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
    {"id": 9, "content": "<x>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": true, "special": false}
  ],
  "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Replace", "pattern": {"String": "q"}, "content": "a"}]},
  "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
    {"type": "Split", "pattern": {"Regex": "\\p{L}+|\\s+"}, "behavior": "Isolated", "invert": false},
    {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]},
  "post_processor": {"type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}},
  "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
  "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "", "end_of_word_suffix": "",
    "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
    "vocab": {"<s>": 0, "a": 1, "b": 2, "ab": 3, "Ġ": 4, "abab": 5}, "merges": ["a b", ["ab", "ab"]]}
}`

func TestLoadTiny(t *testing.T) {
	t.Parallel()
	tok, err := Load([]byte(tiny))
	if err != nil {
		t.Fatal(err)
	}
	ids, err := tok.Encode("abab<s>q b<x>", true)
	if got := fmt.Sprint(ids, err); got != "[0 5 0 1 4 2 6] <nil>" {
		t.Errorf("got %s", got)
	}
	if got := tok.Decode(ids, true); got != "ababa b<x>" {
		t.Errorf("decoded %q", got)
	}
	if n := tok.VocabSize(); n != 7 {
		t.Errorf("size %d", n)
	}
	if n := tok.IDsMax(); n != 7 {
		t.Errorf("ids up to %d", n)
	}
	sparse, err := Load([]byte(strings.Replace(tiny, `"abab": 5`, `"abab": 50`, 1)))
	if err != nil || sparse.IDsMax() != 51 || sparse.VocabSize() != 7 {
		t.Errorf("with a gap: ids up to %d, %d tokens, %v", sparse.IDsMax(), sparse.VocabSize(), err)
	}
	if id, ok := tok.TokenToID("<x>"); !ok || id != 6 {
		t.Errorf("<x> is %d, %v", id, ok)
	}
	if token, ok := tok.IDToToken(5); !ok || token != "abab" {
		t.Errorf("5 is %q, %v", token, ok)
	}
	for _, id := range []int32{-1, 7, 1 << 30} {
		if token, ok := tok.IDToToken(id); ok {
			t.Errorf("%d is %q", id, token)
		}
	}
	if !tok.IsSpecial(0) || tok.IsSpecial(6) || tok.IsSpecial(1) || tok.IsSpecial(-5) {
		t.Error("wrong special tokens")
	}
}

// TestLoadErrors breaks tiny in many ways; the error must name the field.
func TestLoadErrors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ old, new, path string }{
		{`"version": "1.0"`, `"version": "2.0"`, "version"},
		{`"BPE"`, `"Transformer"`, "model.type"},
		{`"BPE"`, `7`, "model.type"},
		{`"ab": 3`, `"ab": -3`, "model.vocab.ab"},
		{`"ab": 3`, `"ab": 3.5`, "model.vocab.ab"},
		{`"ab": 3`, `"ab": "3"`, "model.vocab.ab"},
		{`"ab": 3`, `"ab": 99999999999`, "model.vocab.ab"},
		{`"ab": 3`, `"ab": 2`, "model.vocab.ab"},
		{`"ab": 3`, `"ab": 2000000000`, "model.vocab"},
		{`"Ġ": 4`, `"a b": null`, `model.vocab["a b"]`},
		{`"a b", [`, `"a c", [`, "model.merges[0]"},
		{`"a b", [`, `"ab", [`, "model.merges[0]"},
		{`"a b", [`, `"a b c", [`, "model.merges[0]"},
		{`"a b", [`, `7, [`, "model.merges[0]"},
		{`["ab", "ab"]`, `["ab"]`, "model.merges[1]"},
		{`["ab", "ab"]`, `["b", "b"]`, "model.merges[1]"},
		{`["ab", "ab"]`, `["b", 3]`, "model.merges[1]"},
		{`"merges": [`, `"merges": {}, "m": [`, "model.merges"},
		{`"merges": [`, `"m": [`, "model.merges"},
		{`"dropout": null`, `"dropout": 0.1`, "model.dropout"},
		{`"dropout": null`, `"dropout": "x"`, "model.dropout"},
		{`"fuse_unk": false`, `"fuse_unk": 1`, "model.fuse_unk"},
		{`"unk_token": null`, `"unk_token": 1`, "model.unk_token"},
		{`"continuing_subword_prefix": ""`, `"continuing_subword_prefix": "####"`, "model.merges[0]"},
		{`{"type": "NFC"}`, `{"type": "NFX"}`, "normalizer.normalizers[0].type"},
		{`{"type": "NFC"}`, `null`, "normalizer.normalizers[0]"},
		{`{"String": "q"}`, `{"Regex": "("}`, "normalizer.normalizers[1].pattern"},
		{`{"String": "q"}`, `"q"`, "normalizer.normalizers[1].pattern"},
		{`{"String": "q"}`, `{}`, "normalizer.normalizers[1].pattern"},
		{`\\p{L}+`, `\\p{Nope}+`, "pre_tokenizer.pretokenizers[0].pattern"},
		{`"behavior": "Isolated"`, `"behavior": "Shaken"`, "pre_tokenizer.pretokenizers[0].behavior"},
		{`"invert": false`, `"invert": null`, "pre_tokenizer.pretokenizers[0].invert"},
		{`{"type": "ByteLevel", "add_prefix_space": false,`, `{"type": "ByteLevel",`, "pre_tokenizer.pretokenizers[1].add_prefix_space"},
		{`"type": "TemplateProcessing"`, `"type": "Template"`, "post_processor.type"},
		{`{"id": "A", "type_id": 0}}],
    "pair"`, `{"id": "B", "type_id": 0}}],
    "pair"`, "post_processor.single[1]"},
		{`{"id": "A", "type_id": 0}}],
    "pair"`, `{"id": "C", "type_id": 0}}],
    "pair"`, "post_processor.single[1].Sequence.id"},
		{`{"SpecialToken": {"id": "<s>"`, `{"SpecialToken": {"id": "<z>"`, "post_processor.single[0].SpecialToken.id"},
		{`"ids": [0]`, `"ids": [-1]`, `post_processor.special_tokens["<s>"].ids[0]`},
		{`"decoder": {"type": "ByteLevel"`, `"decoder": {"type": "Morse"`, "decoder.type"},
		{`"decoder": {"type": "ByteLevel"`, `"decoder": {"type": "Strip", "content": "ab", "start": 1, "stop": 0`, "decoder.content"},
		{`"id": 9, "content"`, `"id": -9, "content"`, "added_tokens[1].id"},
		{`"content": "<x>"`, `"content": 5`, "added_tokens[1].content"},
		{`"content": "<x>", "single_word": false`, `"content": "<x>", "single_word": "no"`, "added_tokens[1].single_word"},
		{`"content": "<x>"`, `"content": "` + strings.Repeat("x", maxTokenBytes+1) + `"`, "added_tokens[1].content"},
		{`"added_tokens": [`, `"added_tokens": 5, "x": [`, "added_tokens"},
		{`"max_length": 100`, `"max_length": 0`, "truncation.max_length"},
		{`"strategy": "LongestFirst"`, `"strategy": "Random"`, "truncation.strategy"},
		{`"direction": "Right", "max`, `"direction": "Up", "max`, "truncation.direction"},
		{`"abab": 5`, `"abab": 5, "\ud800": 6`, "model.vocab"},
		{`"model": {`, `"model": 5, "x": {`, "model"},
		{`"model": {`, `"x": {`, "model"},
	} {
		broken := strings.Replace(tiny, c.old, c.new, 1)
		if broken == tiny {
			t.Errorf("%q is not in the file", c.old)
			continue
		}
		_, err := Load([]byte(broken))
		var field *FieldError
		if !errors.As(err, &field) || field.Path != c.path {
			t.Errorf("%s → %.60s: error %v, want one about %s", c.old, c.new, err, c.path)
		}
	}
}

func TestMalformedJSON(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		``, ` `, `{`, `{"a"}`, `{"a":}`, `{"a":1,}`, `[1,]`, `[1 2]`, `nul`, `"abc`, `"\x"`, `"\u12"`, "\"\x01\"", `01`, `-`, `1.`, `.5`,
		`1e`, `1.e5`, `{} {}`, `{"a":1}x`, "\"\xff\"", strings.Repeat("[", 100_000), strings.Repeat(`{"a":`, 100_000), `1e999`, `{1:2}`,
	} {
		if _, err := Load([]byte(text)); err == nil || !strings.Contains(err.Error(), "JSON") && !strings.Contains(err.Error(), "UTF-8") {
			t.Errorf("%.20q: error %v", text, err)
		}
	}
	for i := range len(tiny) - 1 {
		if _, err := Load([]byte(tiny[:i])); err == nil {
			t.Fatalf("loaded when cut off at byte %d", i)
		}
	}
}

func TestLooseFloat(t *testing.T) {
	t.Parallel()
	// What Rust's serde_json 1.0 makes of these; the third differs from the nearest float64.
	for text, want := range map[string]float64{
		"0": 0, "-1.5": -1.5, "1e3": 1000, "-2.5E-3": -0.0025, "18446744073709551615": 1 << 64, "184467440737095516150": 1 << 64 * 10,
		"0.1234567890123456789012345": 1234567890123456789 / 1e19, "1e-320": 1 / 1e308 / 1e12,
	} {
		if got := looseFloat(text); got != want {
			t.Errorf("%s: got %v, want %v", text, got, want)
		}
	}
}

// TestGrowthIsBounded checks that a small file cannot make a small text enormous.
func TestGrowthIsBounded(t *testing.T) {
	t.Parallel()
	double := `{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}`
	for name, normalizer := range map[string]string{
		"string": `{"type": "Replace", "pattern": {"String": "a"}, "content": "` + strings.Repeat("b", 100_000) + `"}`,
		"regex":  `{"type": "Replace", "pattern": {"Regex": "a"}, "content": "` + strings.Repeat("b", 100_000) + `"}`,
		"double": `{"type": "Sequence", "normalizers": [` + strings.Repeat(double+",", 40) + double + `]}`,
	} {
		text := strings.Replace(tiny, `{"type": "NFC"}`, normalizer, 1)
		tok, err := Load([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tok.Encode(strings.Repeat("a", 1000), false); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	many := strings.Repeat(`{"Sequence": {"id": "A", "type_id": 0}},`, 1000)
	text := strings.Replace(tiny, `"single": [`, `"single": [`+many, 1)
	if _, err := Load([]byte(text)); err == nil || !strings.Contains(err.Error(), "post_processor") {
		t.Errorf("a thousand copies of the text: %v", err)
	}
}

// FuzzLoad feeds Load with broken files. One that loads must encode and decode without a panic.
func FuzzLoad(f *testing.F) {
	f.Add([]byte(tiny))
	for old, with := range map[string]string{
		`"type": "BPE"`:                       `"type": "WordLevel"`,
		`"normalizer": {"type": "Sequence"`:   `"normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "lowercase": true`,
		`"decoder": {"type": "ByteLevel"`:     `"decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true`,
		`{"type": "ByteLevel", "add_`:         `{"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first"}, {"type": "Digits", "individual_digits": true}, {"type": "ByteLevel", "add_`,
		`"unk_token": null`:                   `"unk_token": "b"`,
		`"post_processor": {"type": "Templat`: `"post_processor": {"type": "BertProcessing", "cls": ["a", 1], "sep": ["b", 2], "x": "`,
	} {
		f.Add([]byte(strings.Replace(tiny, old, with, 1)))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		tok, err := Load(data)
		if err != nil {
			return
		}
		for _, text := range []string{"", "ab ab<s>", "naïve 中文\r\n 12\xff"} {
			ids, err := tok.Encode(text, true)
			if err != nil {
				continue
			}
			checkStream(t, tok, ids, false, len(ids)/2)
		}
	})
}
