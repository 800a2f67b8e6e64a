package guide

import (
	"context"
	"math/rand/v2"
	"strings"
	"testing"
)

// byteVocabulary has all bytes as tokens 0..255, then the given words, then one end token.
func byteVocabulary(t testing.TB, words ...string) (*Vocabulary, [][]byte) {
	t.Helper()
	var tokens [][]byte
	for b := range 256 {
		tokens = append(tokens, []byte{byte(b)})
	}
	for _, w := range words {
		tokens = append(tokens, []byte(w))
	}
	tokens = append(tokens, nil)
	v, err := NewVocabulary(tokens, []int32{int32(len(tokens) - 1)})
	if err != nil {
		t.Fatal(err)
	}
	return v, tokens
}

// jsonWords are tokens as real vocabularies have them: across the parts of JSON text.
var jsonWords = []string{`{"`, `":`, `": "`, `",`, `", "`, `"}`, `"]`, `}]`, `]}`, `},`, `, `, `: `, `: {`, ` "`, ` {`, ` [`,
	` true`, ` false`, `null`, `true`, `[{"`, `[]`, `{}`, `""`, "ab", "abc", " the", "é", "\\n", "\\\"", "\\u00", "\\ud83d",
	"😀", "\xf0\x9f", "\x98\x80", "00", "12", "123", "0.", "-1", "e+", "a\"", "b\":", "x\", \"y", "\\u12ab\"", "}}", "\"}, {\""}

func mustCompile(t testing.TB, spec Spec, v *Vocabulary) *Grammar {
	t.Helper()
	if err := spec.Validate(); err != nil {
		t.Fatalf("Validate %s: %v", spec.Source, err)
	}
	g, err := Compile(context.Background(), spec, v)
	if err != nil {
		t.Fatalf("Compile %s: %v", spec.Source, err)
	}
	return g
}

func allowedIDs(mask []uint32) []int32 { return appendIDs(nil, mask) }

func appendIDs(out []int32, mask []uint32) []int32 {
	for id := int32(0); int(id) < 32*len(mask); id++ {
		if mask[id>>5]&(1<<(id&31)) != 0 {
			out = append(out, id)
		}
	}
	return out
}

// walk samples uniformly from the masks and returns the text. It fails if a mask is empty or the answer is not
// complete when the budget is spent.
func walk(t testing.TB, g *Grammar, tokens [][]byte, budget int, rng *rand.Rand) string {
	t.Helper()
	m := g.NewMatcher()
	mask := make([]uint32, g.v.MaskWords())
	var text strings.Builder
	for left := budget; left > 0; left-- {
		m.Mask(mask, left)
		ids := allowedIDs(mask)
		if len(ids) == 0 {
			t.Fatalf("no token is allowed after %q with %d of %d left", text.String(), left, budget)
		}
		id := ids[rng.IntN(len(ids))]
		if rng.IntN(2) == 0 { // uniform choice would rarely leave a string
			var closing []int32
			for _, other := range ids {
				if strings.ContainsAny(string(tokens[other]), "\"}]:,") {
					closing = append(closing, other)
				}
			}
			if len(closing) > 0 {
				id = closing[rng.IntN(len(closing))]
			}
		}
		if err := m.Accept(id); err != nil {
			t.Fatalf("after %q: %v, though the mask allows it", text.String(), err)
		}
		if m.g.v.isEnd(id) {
			break
		}
		text.Write(tokens[id])
	}
	if !m.Complete() {
		t.Fatalf("the budget of %d ended at %q", budget, text.String())
	}
	return text.String()
}
