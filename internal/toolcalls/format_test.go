package toolcalls

import (
	"context"
	"strings"
	"testing"

	"github.com/troupe-engine/troupe/internal/guide"
)

// A model that follows the grammar calls functions: every text of the language parses as calls, and nothing else.
func TestGrammarsMakeCalls(t *testing.T) {
	vocabulary := [][]byte{}
	for b := range 256 {
		vocabulary = append(vocabulary, []byte{byte(b)})
	}
	v, err := guide.NewVocabulary(append(vocabulary, nil), []int32{256})
	if err != nil {
		t.Fatal(err)
	}
	functions := []Function{{"f", `{"type":"object","properties":{"a":{"enum":["x","\"}"]}},"required":["a"],"additionalProperties":false}`},
		{"get_weather", `{"type":"object","properties":{},"additionalProperties":false}`}}
	for _, format := range Formats() {
		for _, many := range []bool{false, true} {
			g, err := guide.Compile(context.Background(), guide.Spec{Kind: guide.GBNF, Source: format.Grammar(functions, many, "")}, v)
			if err != nil {
				t.Fatalf("%s: %v in %s", format, err, format.Grammar(functions, many, ""))
			}
			for seed := range 20 {
				answer := follow(t, g, v, uint(seed))
				text, calls := Parse(format, answer, known)
				if strings.TrimSpace(text) != "" || len(calls) == 0 || !many && len(calls) != 1 {
					t.Errorf("%s, many %v: %q is %s", format, many, answer, shown(text, calls))
				}
			}
		}
	}
	grammar := Hermes.Grammar(functions, false, `%json {"type":"integer"}`)
	if _, err := guide.Compile(context.Background(), guide.Spec{Kind: guide.GBNF, Source: grammar}, v); err != nil || !strings.Contains(grammar, `integer"} | `) {
		t.Errorf("%v in %s", err, grammar)
	}
}

// follow walks a grammar, choosing among the allowed bytes by seed, to the end of an answer of at most 600 bytes.
func follow(t *testing.T, g *guide.Grammar, v *guide.Vocabulary, seed uint) string {
	m := g.NewMatcher()
	var answer []byte
	for budget := 600; ; budget-- {
		mask := make([]uint32, v.MaskWords())
		m.Mask(mask, budget)
		var allowed []int32
		for id := range int32(257) {
			if mask[id/32]>>(id%32)&1 != 0 {
				allowed = append(allowed, id)
			}
		}
		if len(allowed) == 0 {
			t.Fatalf("nothing may follow %q", answer)
		}
		seed = seed*2654435761 + 12345
		next := allowed[seed>>7%uint(len(allowed))]
		if next == 256 {
			return string(answer)
		}
		if err := m.Accept(next); err != nil {
			t.Fatal(err)
		}
		answer = append(answer, byte(next))
	}
}
