package guide

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/troupe-engine/troupe/internal/defaultmodel"
	"github.com/troupe-engine/troupe/internal/tokenizers"
)

// byteLevel maps the characters of byte-level BPE tokens to the bytes that they stand for (GPT-2's bytes_to_unicode).
func byteLevel() map[rune]byte {
	out := map[rune]byte{}
	next := rune(256)
	for b := range 256 {
		if b >= '!' && b <= '~' || b >= 0xA1 && b <= 0xAC || b >= 0xAE {
			out[rune(b)] = byte(b)
		} else {
			out[next] = byte(b)
			next++
		}
	}
	return out
}

// modelTokens returns the bytes of each token of a byte-level tokenizer.json; special tokens have none.
func modelTokens(t testing.TB, source []byte, end ...string) ([][]byte, []int32) {
	t.Helper()
	tok, err := tokenizers.Load(source)
	if err != nil {
		t.Fatal(err)
	}
	tokens := make([][]byte, tok.VocabSize())
	bytesOf := byteLevel()
	for id := range tokens {
		text, ok := tok.IDToToken(int32(id))
		if !ok || tok.IsSpecial(int32(id)) {
			continue
		}
		for _, r := range text {
			b, ok := bytesOf[r]
			if !ok {
				t.Fatalf("token %d %q is not byte-level", id, text)
			}
			tokens[id] = append(tokens[id], b)
		}
	}
	var ends []int32
	for _, name := range end {
		id, ok := tok.TokenToID(name)
		if !ok {
			t.Fatalf("no token %q", name)
		}
		ends = append(ends, id)
	}
	return tokens, ends
}

// repositoryFile finds a file by its path from the repository's root.
func repositoryFile(t testing.TB, path string) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(dir, path)
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("no go.mod above the test")
		}
		dir = filepath.Dir(dir)
	}
}

var llama struct {
	once   sync.Once
	v      *Vocabulary
	tokens [][]byte
}

// llamaVocabulary is Llama 3.1's, with 128k tokens; it skips the test if the file is not there.
func llamaVocabulary(t testing.TB) (*Vocabulary, [][]byte) {
	t.Helper()
	path := repositoryFile(t, "../shared/tokenizers/llama3.1/tokenizer.json.gz")
	packed, err := os.ReadFile(path)
	if err != nil {
		t.Skipf("SKIPPED: needs Llama 3.1's vocabulary: %v", err)
	}
	llama.once.Do(func() {
		r, err := gzip.NewReader(bytes.NewReader(packed))
		if err != nil {
			t.Fatal(err)
		}
		source, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		tokens, end := modelTokens(t, source, "<|eot_id|>", "<|end_of_text|>")
		v, err := NewVocabulary(tokens, end)
		if err != nil {
			t.Fatal(err)
		}
		llama.v, llama.tokens = v, tokens
	})
	return llama.v, llama.tokens
}

// defaultVocabulary is that of the model that ships with the engine.
func defaultVocabulary(t testing.TB) (*Vocabulary, [][]byte) {
	t.Helper()
	source, err := fs.ReadFile(defaultmodel.Files(), "tokenizer.json")
	if err != nil {
		t.Fatal(err)
	}
	tokens, end := modelTokens(t, source, "<|end|>", "<|eos|>")
	v, err := NewVocabulary(tokens, end)
	if err != nil {
		t.Fatal(err)
	}
	return v, tokens
}

// benchSpecs are constraints as users send them.
var benchSpecs = []struct {
	name string
	spec Spec
}{
	{"json_object", Spec{JSONObject, ""}},
	{"person", Spec{JSONSchema, `{"type":"object","properties":{"name":{"type":"string"},"age":{"type":"integer","minimum":0,
		"maximum":130},"email":{"type":"string","format":"email"},"tags":{"type":"array","items":{"type":"string"}},
		"address":{"type":"object","properties":{"street":{"type":"string"},"city":{"type":"string"},"zip":{"type":"string",
		"pattern":"^[0-9]{5}$"}},"required":["street","city"],"additionalProperties":false}},"required":["name","age"],
		"additionalProperties":false}`}},
	{"tool_call", Spec{JSONSchema, `{"type":"object","properties":{"name":{"const":"get_weather"},"arguments":{"type":"object",
		"properties":{"location":{"type":"string","maxLength":100},"unit":{"enum":["celsius","fahrenheit"]},"days":{"type":
		"integer","minimum":1,"maximum":14}},"required":["location"],"additionalProperties":false}},"required":["name",
		"arguments"],"additionalProperties":false}`}},
	{"steps", Spec{JSONSchema, `{"type":"object","properties":{"steps":{"type":"array","items":{"type":"object","properties":{
		"explanation":{"type":"string"},"output":{"type":"string"}},"required":["explanation","output"],
		"additionalProperties":false}},"final_answer":{"type":"string"},"score":{"type":"number"}},"required":["steps",
		"final_answer","score"],"additionalProperties":false}`}},
	{"recursive", Spec{JSONSchema, `{"$ref":"#/$defs/node","$defs":{"node":{"type":"object","properties":{"value":{"type":
		["string","number","null"]},"children":{"type":"array","items":{"$ref":"#/$defs/node"}}},"required":["value",
		"children"],"additionalProperties":false}}}`}},
	{"words", Spec{Regex, `[A-Z][a-z]+(?: [a-z]{1,12}){3,20}\.`}},
	{"gbnf_json", Spec{GBNF, `root ::= object
		value ::= object | array | string | number | ("true" | "false" | "null") ws
		object ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws
		array ::= "[" ws ( value ("," ws value)* )? "]" ws
		string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
		number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
		ws ::= | " " | "\n" [ \t]{0,20}`}},
}

// BenchmarkVocabulary is what a model costs once: its vocabulary, and the first grammar, which makes tables of its
// character classes.
func BenchmarkVocabulary(b *testing.B) {
	v, tokens := llamaVocabulary(b)
	for _, s := range benchSpecs {
		b.Run(s.name, func(b *testing.B) {
			var first time.Duration
			for b.Loop() {
				fresh, err := NewVocabulary(tokens, v.end)
				if err != nil {
					b.Fatal(err)
				}
				first += mustCompile(b, s.spec, fresh).CompileTime()
			}
			b.ReportMetric(float64(first.Microseconds())/1e3/float64(b.N), "first-compile-ms")
		})
	}
}

// BenchmarkCompile is every later grammar of a model.
func BenchmarkCompile(b *testing.B) {
	v, _ := llamaVocabulary(b)
	for _, s := range benchSpecs {
		b.Run(s.name, func(b *testing.B) {
			for b.Loop() {
				if _, err := Compile(context.Background(), s.spec, v); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// plausible samples as a language model would: words and punctuation as they stand in text, not random tokens. It
// chooses among a few allowed tokens drawn at random the one with the least id; BPE learns frequent tokens first.
func plausible(ids []int32, rng *rand.Rand) int32 {
	best := ids[rng.IntN(len(ids))]
	for range 8 {
		best = min(best, ids[rng.IntN(len(ids))])
	}
	return best
}

// BenchmarkMask reports the time of masks along random answers: the first three answers of a fresh grammar (cold) and
// three after another thirty (warm). new-p50 and new-p99 are of those masks only that were computed, not remembered.
func BenchmarkMask(b *testing.B) {
	v, _ := llamaVocabulary(b)
	for _, s := range benchSpecs {
		for _, phase := range []string{"cold", "warm"} {
			b.Run(fmt.Sprintf("%s/%s", s.name, phase), func(b *testing.B) {
				var times, fresh []time.Duration
				var ids []int32 // reused, as garbage of the test would slow the masks
				rng := rand.New(rand.NewPCG(1, 2))
				mask := make([]uint32, v.MaskWords())
				var g *Grammar
				answer := func(record bool) {
					m := g.NewMatcher()
					for left := 120; left > 0; left-- {
						known := m.at.mask != nil
						began := time.Now()
						m.Mask(mask, left)
						took := time.Since(began)
						if record {
							times = append(times, took)
							if !known {
								fresh = append(fresh, took)
							}
						}
						ids = appendIDs(ids[:0], mask)
						id := plausible(ids, rng)
						if err := m.Accept(id); err != nil {
							b.Fatal(err)
						}
						if m.ended {
							break
						}
					}
				}
				for b.Loop() {
					var err error
					if g, err = Compile(context.Background(), s.spec, v); err != nil {
						b.Fatal(err)
					}
					if phase == "warm" {
						for range 30 {
							answer(false)
						}
					}
					for range 3 {
						answer(true)
					}
				}
				b.ReportMetric(0, "ns/op")
				for prefix, list := range map[string][]time.Duration{"": times, "new-": fresh} {
					if slices.Sort(list); len(list) > 0 {
						b.ReportMetric(float64(list[len(list)/2].Nanoseconds())/1e3, prefix+"p50-µs")
						b.ReportMetric(float64(list[len(list)*99/100].Nanoseconds())/1e3, prefix+"p99-µs")
					}
				}
				b.ReportMetric(float64(g.Bytes())/1e6, "MB")
			})
		}
	}
}
