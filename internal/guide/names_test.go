package guide

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// repeated returns a name that comes twice in one object of a JSON text, "" for none.
func repeated(t testing.TB, text string) (name string, found bool) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(text))
	var used []map[string]bool // nil for arrays
	expects := false
	for {
		token, err := d.Token()
		if err == io.EOF {
			return "", false
		}
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		inObject := len(used) > 0 && used[len(used)-1] != nil
		switch token := token.(type) {
		case json.Delim:
			switch token {
			case '{', '[':
				expects = false
				used = append(used, nil)
				if token == '{' {
					used[len(used)-1] = map[string]bool{}
					expects = true
				}
				continue
			default:
				used = used[:len(used)-1]
				expects = len(used) > 0 && used[len(used)-1] != nil
				continue
			}
		case string:
			if inObject && expects {
				if used[len(used)-1][token] {
					return token, true
				}
				used[len(used)-1][token] = true
				expects = false
				continue
			}
		}
		expects = inObject
	}
}

// nameWords make names that are equal in different spellings, and tokens that end one and go on.
var nameWords = []string{`"a"`, `"a":`, `,"a":`, `,"`, `":"`, `":{"`, `a":1`, `\u0061`, `\u006`, `1"`, `1":`, `é":`, `\u00e9"`, `","a":`, `},"b":`, `"":`, `{"":`}

// TestNamesAreNotRepeated walks objects with undeclared names, of few letters and in a hurry: no name comes twice, and
// the answer is complete in time.
func TestNamesAreNotRepeated(t *testing.T) {
	specs := []Spec{
		{Kind: JSONObject},
		{JSONSchema, `{"type":"object","additionalProperties":{"type":"integer"}}`},
		{JSONSchema, `{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"],"additionalProperties":{"type":"object","additionalProperties":{"type":"null"}}}`},
		{JSONSchema, `{"type":"object","minProperties":1,"patternProperties":{"^[ab]{1,6}$":{"type":"boolean"}},"additionalProperties":false}`},
		{JSONSchema, `{"type":"array","items":{"type":"object","additionalProperties":{"type":"array","items":{"type":"object"}}}}`},
		{GBNF, `root ::= "call {{" [0-9] %json {"type":"object","additionalProperties":{"type":"integer"}} "\n" "<" %json {"type":"object"} ">"`},
	}
	v, tokens := byteVocabulary(t, append(slices.Clone(jsonWords), nameWords...)...)
	for _, spec := range specs {
		g := mustCompile(t, spec, v)
		names := 0
		for seed := range uint64(150) {
			text := walkNames(t, g, tokens, g.MinTokens()+int(seed), rand.New(rand.NewPCG(seed, 7)))
			if _, rest, ok := strings.Cut(text, "call {{"); ok {
				text = "[" + strings.ReplaceAll(rest[1:len(rest)-1], "\n<", ",") + "]"
			}
			if name, found := repeated(t, text); found {
				t.Fatalf("%s, seed %d: %q comes twice in %s", spec.Source, seed, name, text)
			}
			names += strings.Count(text, ":")
		}
		if names < 300 {
			t.Errorf("%s: %d names in 150 answers; the walk tests too little", spec.Source, names)
		}
	}
}

// walkNames samples from the masks, mostly what makes objects and short names of a's, b's and é's.
func walkNames(t testing.TB, g *Grammar, tokens [][]byte, budget int, rng *rand.Rand) string {
	t.Helper()
	m, mask := g.NewMatcher(), make([]uint32, g.v.MaskWords())
	var text strings.Builder
	for left := budget; left > 0; left-- {
		m.Mask(mask, left)
		if m.forced {
			t.Fatalf("a name must be repeated after %q with %d of %d left", text.String(), left, budget)
		}
		compareNames(t, m, mask, text.String())
		ids := allowedIDs(mask)
		if len(ids) == 0 {
			t.Fatalf("no token is allowed after %q with %d of %d left", text.String(), left, budget)
		}
		var likely []int32
		for _, id := range ids {
			if strings.Trim(string(tokens[id]), `"{}[],:aéb1`) == "" && len(tokens[id]) > 0 || strings.HasPrefix(string(tokens[id]), `\u00`) {
				likely = append(likely, id)
			}
		}
		if len(likely) > 0 && rng.IntN(20) > 0 {
			ids = likely
		}
		id := ids[rng.IntN(len(ids))]
		if err := m.Accept(id); err != nil {
			t.Fatalf("after %q: %v, though the mask allows it", text.String(), err)
		}
		if m.ended {
			break
		}
		text.Write(tokens[id])
	}
	if !m.Complete() {
		t.Fatalf("the budget of %d ended at %q", budget, text.String())
	}
	return text.String()
}

// compareNames checks that the quick ways find what trying every token does: without a budget, the mask is that of the
// automaton less the tokens that repeat a name.
func compareNames(t testing.TB, m *Matcher, scratch []uint32, text string) {
	t.Helper()
	want := slices.Clone(scratch)
	m.g.m.maskOf(m.g.m.adopt(m.at)).copyTo(want, costInfinite-1)
	for id, word := range m.g.v.text {
		if closed, _ := m.names.repeats(word); closed && hasBit(want, int32(id)) {
			clearBit(want, int32(id))
		}
	}
	got := slices.Clone(scratch)
	clone := m.Clone()
	clone.Mask(got, costInfinite)
	if !slices.Equal(got, want) {
		t.Fatalf("after %q: %s", text, difference(m.g.v.text, allowedIDs(got), allowedIDs(want)))
	}
}

// A pattern that has no further names leaves no other way than to repeat one, or to have none to begin with.
func TestPatternsWithFewNames(t *testing.T) {
	v, tokens := byteVocabulary(t, jsonWords...)
	g := mustCompile(t, Spec{JSONSchema, `{"type":"object","patternProperties":{"^[ab]$":{"type":"null"}},"additionalProperties":false}`}, v)
	for seed := range uint64(50) {
		walk(t, g, tokens, g.MinTokens()+int(seed), rand.New(rand.NewPCG(seed, 8))) // complete and within its budget
	}
}

// BenchmarkNames is what names add to a mask, with many of them and a real vocabulary.
func BenchmarkNames(b *testing.B) {
	v, _ := llamaVocabulary(b)
	b.Logf("%d tokens with quotes: %d plain, %d with a backslash, %d with two, %d with more", len(v.quoted.all), len(v.quoted.plain),
		len(v.quoted.mixed), len(v.quoted.two), len(v.quoted.more))
	g := mustCompile(b, Spec{JSONSchema, `{"type":"object","additionalProperties":{"type":"string"}}`}, v)
	begin := "{"
	for i := range 100 {
		begin += fmt.Sprintf(`"name_%d":"value",`, i)
	}
	for name, text := range map[string]string{"between": begin, "in a name": begin + `"name_`, "in an escaped name": begin + `"\u006eam`, "in a value": begin + `"x":"va`} {
		b.Run(name, func(b *testing.B) {
			m, mask := g.NewMatcher(), make([]uint32, v.MaskWords())
			for i := range len(text) {
				id := slices.IndexFunc(v.text, func(t []byte) bool { return string(t) == text[i:i+1] })
				if err := m.Accept(int32(id)); err != nil {
					b.Fatal(err)
				}
			}
			m.Mask(mask, 1<<20)
			for b.Loop() {
				m.Mask(mask, 1<<20)
			}
		})
	}
}
