package guide

import (
	"fmt"
	"math/big"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// accepts reports whether a grammar accepts a whole text, byte by byte.
func accepts(g *Grammar, text string) bool {
	s := g.start
	for i := range len(text) {
		if s = g.m.step(s, text[i]); s == dead {
			return false
		}
	}
	return s.complete
}

// slowMask computes a mask token by token, without the trie and without the tables of strings.
func slowMask(m *Matcher, budget int) []int32 {
	var out []int32
	at := m.g.m.adopt(m.at)
	limit := int32(max(budget-1, int(at.cost)-1))
	for id, text := range m.g.v.text {
		to := at
		for _, b := range text {
			to = m.g.m.step(to, b)
		}
		if len(text) > 0 && to.cost <= limit && to != dead || m.g.v.isEnd(int32(id)) && at.complete {
			out = append(out, int32(id))
		}
	}
	return out
}

// TestMaskAgainstSlowMask compares masks with the token-by-token computation in states along random answers, with
// budgets from none to plenty.
func TestMaskAgainstSlowMask(t *testing.T) {
	v, tokens := byteVocabulary(t, jsonWords...)
	compareMasks(t, v, tokens, 12)
	v, tokens = defaultVocabulary(t)
	if v.behind[' '] == nil {
		t.Error("the model's vocabulary is too small to test the tables behind a blank")
	}
	compareMasks(t, v, tokens, 3)
}

func compareMasks(t *testing.T, v *Vocabulary, tokens [][]byte, answers int) {
	t.Helper()
	specs := []Spec{
		{JSONSchema, `{"type":"string","maxLength":3}`},
		{JSONSchema, `{"type":"string","minLength":4,"maxLength":9}`},
		{JSONSchema, `{"type":"array","items":{"type":"string","minLength":2}}`},
		{JSONSchema, `{"anyOf":[{"type":"string","maxLength":4},{"type":"string","pattern":"^[a-zé]{2,9}$"},{"type":"integer"}]}`},
		{JSONSchema, `{"type":"object","additionalProperties":{"type":"string"},"properties":{"ab":{"type":"number"}}}`},
		{JSONSchema, `{"type":"string","pattern":"ab"}`},
		{Regex, `[^"x]{3,8}(?:"[a-z]*)?`},
		{Regex, `(?:[a-z]{1,3} ){2,9}`},
		{Regex, `[\u0080-\uffff]{2,5}x?[^x]*`},
		{Regex, `\p{L}+(?: \p{L}{2,12}){0,5}[.]`},
		{Regex, `[^"]{3,}"(?:[a-z]{2}){1,20}`},
		{Regex, `(?:[a-c]|[b-z\x{e9}])*`},
		{GBNF, "root ::= \"\\\"\" char* \"\\\"\" | \"[\" root (\",\" root)* \"]\"\nchar ::= [^\"\\\\\\x00-\\x1f] | \"\\\\\" [\"\\\\nu]"},
	}
	for _, b := range benchSpecs {
		specs = append(specs, b.spec)
	}
	mask := make([]uint32, v.MaskWords())
	for _, spec := range specs {
		if spec.Kind == Regex {
			spec.Source = strings.ReplaceAll(spec.Source, `\x{e9}`, `\u00e9`)
		}
		g := mustCompile(t, spec, v)
		rng := rand.New(rand.NewPCG(3, 4))
		for range answers {
			m := g.NewMatcher()
			m.names = nil // TestNamesAreNotRepeated has them
			text := ""
			for left := g.MinTokens() + rng.IntN(30); left > 0 && !m.ended; left-- {
				for _, budget := range []int{left, m.MinTokens(), m.MinTokens() + 1, m.MinTokens() + rng.IntN(12), 1 << 30} {
					m.Mask(mask, budget)
					if fast, slow := allowedIDs(mask), slowMask(m, budget); !slices.Equal(fast, slow) {
						t.Fatalf("%s\nafter %q with budget %d: %s", spec.Source, text, budget, difference(tokens, fast, slow))
					}
				}
				m.Mask(mask, left)
				ids := allowedIDs(mask)
				id := ids[rng.IntN(len(ids))]
				if err := m.Accept(id); err != nil {
					t.Fatal(err)
				}
				text += string(tokens[id])
			}
		}
	}
}

func difference(tokens [][]byte, fast, slow []int32) string {
	var b strings.Builder
	for id := range tokens {
		inFast, inSlow := slices.Contains(fast, int32(id)), slices.Contains(slow, int32(id))
		if inFast != inSlow {
			fmt.Fprintf(&b, "%q: mask %v, slow %v; ", tokens[id], inFast, inSlow)
		}
	}
	return b.String()
}

// smallVocabulary has only the given tokens and an end token.
func smallVocabulary(t *testing.T, words ...string) (*Vocabulary, [][]byte) {
	t.Helper()
	var tokens [][]byte
	for _, w := range words {
		tokens = append(tokens, []byte(w))
	}
	tokens = append(tokens, nil)
	v, err := NewVocabulary(tokens, []int32{int32(len(words))})
	if err != nil {
		t.Fatal(err)
	}
	return v, tokens
}

// TestRegexAgainstGo compares masks with what Go's regexp says about every text up to a length: a token is allowed
// if and only if some completion within the budget exists.
func TestRegexAgainstGo(t *testing.T) {
	const longest = 9
	var texts []string
	for n, layer := 0, []string{""}; n <= longest; n++ {
		texts = append(texts, layer...)
		var next []string
		for _, s := range layer {
			next = append(next, s+"a", s+"b")
		}
		layer = next
	}
	v, tokens := smallVocabulary(t, "a", "b")
	for _, src := range []string{`a*b`, `(ab|a)(bab|b)?`, `(a|b)*abb`, `a{2,4}b{0,2}`, `(aa|b){1,3}`, `((a?b?){2}a){1,2}`, `[ab]{3}`,
		`(a*)*b`, `(a|ab){2,3}`, `^a+$|^b+$`, `a?{1}|b`, `(a{0,2}b{0,2}){0,3}`, `c|ab`, `[^b]b`, `(?:a|b{2,}){3}`, `a{3,40}b?`,
		`(a|b)*a(a|b){2}`, `()a`, `a||b`} {
		spec := Spec{Regex, src}
		if strings.Contains(src, "?{") {
			if spec.Validate() == nil {
				t.Errorf("%s: accepted", src)
			}
			continue
		}
		g := mustCompile(t, spec, v)
		re := regexp.MustCompile(`^(?:` + src + `)$`)
		shortest := map[string]int{} // by prefix, the length of the shortest match that begins with it
		for _, s := range texts {
			if !re.MatchString(s) {
				continue
			}
			for i := range len(s) + 1 {
				if old, ok := shortest[s[:i]]; !ok || len(s) < old {
					shortest[s[:i]] = len(s)
				}
			}
		}
		if got := g.MinTokens(); got != shortest[""] {
			t.Errorf("%s: MinTokens %d, want %d", src, got, shortest[""])
		}
		mask := make([]uint32, v.MaskWords())
		for prefix := range shortest {
			m := g.NewMatcher()
			for i := range len(prefix) {
				if err := m.Accept(int32(prefix[i] - 'a')); err != nil {
					t.Fatalf("%s: %q is the beginning of a match, but %v", src, prefix, err)
				}
			}
			if m.Complete() != re.MatchString(prefix) {
				t.Errorf("%s: complete after %q is %v", src, prefix, m.Complete())
			}
			for budget := max(1, shortest[prefix]-len(prefix)); len(prefix)+budget <= longest; budget++ {
				m.Mask(mask, budget)
				var want []int32
				for id, token := range tokens[:2] {
					if n, ok := shortest[prefix+string(token)]; ok && n <= len(prefix)+budget {
						want = append(want, int32(id))
					}
				}
				if m.Complete() {
					want = append(want, 2)
				}
				if got := allowedIDs(mask); !slices.Equal(got, want) {
					t.Errorf("%s after %q with budget %d: allowed %v, want %v", src, prefix, budget, got, want)
				}
			}
		}
	}
}

// TestSmallVocabularies walks constraints with vocabularies that lack single bytes: every token that is allowed must
// lead to an answer, and where only tokens of several bytes lead there, they are found.
func TestSmallVocabularies(t *testing.T) {
	for _, c := range []struct {
		regex string
		words []string
		want  []string // all answers of up to 6 tokens that can be written, or nil if none can
	}{
		{`(ab)*`, []string{"ab", "a"}, []string{"", "ab", "abab", "ababab", "abababab", "ababababab", "abababababab"}},
		{`aba`, []string{"ab", "b"}, nil},
		{`a(b|cd)e`, []string{"ab", "e", "acd", "c"}, []string{"abe", "acde"}},
		{`xé?y`, []string{"x", "é", "y"}, []string{"xy", "xéy"}},
	} {
		v, tokens := smallVocabulary(t, c.words...)
		g, err := Compile(t.Context(), Spec{Regex, c.regex}, v)
		if c.want == nil {
			if err == nil {
				t.Errorf("%s with %q: compiled, though nothing can be written", c.regex, c.words)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s with %q: %v", c.regex, c.words, err)
			continue
		}
		var got []string
		mask := make([]uint32, v.MaskWords())
		var visit func(m *Matcher, text string, left int)
		visit = func(m *Matcher, text string, left int) {
			if m.Complete() && !slices.Contains(got, text) {
				got = append(got, text)
			}
			if left == 0 {
				return
			}
			m.Mask(mask, left)
			ids := allowedIDs(mask)
			if len(ids) == 0 && !m.Complete() {
				t.Errorf("%s: dead end after %q", c.regex, text)
			}
			for _, id := range ids {
				if next := m.Clone(); next.Accept(id) == nil && !next.ended {
					visit(next, text+string(tokens[id]), left-1)
				}
			}
		}
		visit(g.NewMatcher(), "", 6)
		slices.Sort(got)
		slices.Sort(c.want)
		if !slices.Equal(got, c.want) {
			t.Errorf("%s with %q: wrote %q, want %q", c.regex, c.words, got, c.want)
		}
	}
}

// TestNumberRanges compares the automata of ranges with exact arithmetic, on numbers around the bounds.
func TestNumberRanges(t *testing.T) {
	v, _ := byteVocabulary(t)
	rng := rand.New(rand.NewPCG(5, 6))
	random := func() string {
		s := fmt.Sprint(rng.IntN([]int{2, 12, 130, 5000}[rng.IntN(4)]))
		if rng.IntN(2) == 0 {
			s += fmt.Sprintf(".%0*d", 1+rng.IntN(3), rng.IntN(10))
		}
		if rng.IntN(3) == 0 {
			s = "-" + s
		}
		return s
	}
	for range 400 {
		low, high, typ := random(), random(), []string{"integer", "number"}[rng.IntN(2)]
		lowName, highName := []string{"minimum", "exclusiveMinimum"}[rng.IntN(2)], []string{"maximum", "exclusiveMaximum"}[rng.IntN(2)]
		source := fmt.Sprintf(`{"type":%q,%q:%s,%q:%s}`, typ, lowName, low, highName, high)
		switch rng.IntN(4) {
		case 0:
			source = fmt.Sprintf(`{"type":%q,%q:%s}`, typ, lowName, low)
			highName = ""
		case 1:
			source = fmt.Sprintf(`{"type":%q,%q:%s}`, typ, highName, high)
			lowName = ""
		}
		in := func(text string) bool {
			x, lo, hi := rat(text), rat(low), rat(high)
			return (lowName == "" || x.Cmp(lo) > 0 || x.Cmp(lo) == 0 && lowName == "minimum") &&
				(highName == "" || x.Cmp(hi) < 0 || x.Cmp(hi) == 0 && highName == "maximum") &&
				(typ == "number" || !strings.Contains(text, "."))
		}
		g, err := Compile(t.Context(), Spec{JSONSchema, source}, v)
		for _, base := range []string{low, high, random(), random(), "0", "9", "10"} {
			for _, suffix := range []string{"", "0", "1", "9", ".0", ".1", ".01", ".99", "5"} {
				text := base + suffix
				if strings.Count(text, ".") > 1 || regexp.MustCompile(`^-?0\d|^-0(\.0*)?$`).MatchString(text) {
					continue
				}
				if err != nil {
					if in(text) {
						t.Fatalf("%s: %v, but %s is valid", source, err, text)
					}
					continue
				}
				if got, want := accepts(g, text), in(text); got != want {
					t.Fatalf("%s: %s accepted %v, want %v", source, text, got, want)
				}
			}
		}
	}
}

func rat(text string) *big.Rat {
	r, _ := new(big.Rat).SetString(text)
	return r
}
