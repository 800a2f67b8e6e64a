package onig

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// patterns are the pre-tokenizer patterns of well-known models.
var patterns = map[string]string{
	"gpt2":    `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`,
	"llama3":  `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`,
	"qwen2":   `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`,
	"qwen3.5": `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`,
	"cl100k":  `'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+`,
	"o200k":   `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`,
	"tekken":  `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`,

	"deepseek-v3":     "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
	"deepseek-cjk":    `[一-龥぀-ゟ゠-ヿ]+`,
	"deepseek-digits": `\p{N}{1,3}`,
	"deepseek-coder":  `\s?\p{L}+`,
	"deepseek-punct":  `\s?\p{P}+`,
	"falcon-digits":   `[0-9][0-9][0-9]`,
	"starcoder":       `\d`,
	"lookbehind":      `(?<=\d)(?=(?:\d{3})+\b)|\w+`,
	"lines":           `^.*$|\n`,
	"words":           `\b\w+?\b|\B\W{2,}|[[:punct:]&&[^!]]+`,
	"groups":          `(?:ab|a)(?:bc)?c*?|(?>a+)b|x{2,3}y?`,
}

var alphabet = []rune("aabcdABCxyzé ßÀǅʰ中文あア가١٣½Ⅷ²019'''sStTlLvVreEdDmMſ \u00a0\u3000\t\r\n\n  \u2028\u0301\u0903\u20dd!?.,;$+<|~@#/\\_-😀👩\u200d🦙𐐀\u200b\ufeff")

func randomText(rng *rand.Rand) string {
	var b strings.Builder
	for range rng.IntN(30) {
		r := alphabet[rng.IntN(len(alphabet))]
		if rng.IntN(20) == 0 {
			r = rune(rng.IntN(0x3000))
		}
		for range 1 + rng.IntN(3)*rng.IntN(3) {
			b.WriteRune(r)
		}
	}
	return b.String()
}

func all(t *testing.T, e engine, text string) [][2]int {
	t.Helper()
	var out [][2]int
	re := &Regexp{"", e}
	if err := re.FindAll(text, func(s, e int) { out = append(out, [2]int{s, e}) }); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return out
}

// TestEnginesAgree holds the scanner against regexp2 on random text.
func TestEnginesAgree(t *testing.T) {
	t.Parallel()
	for name, pattern := range patterns {
		tree, err := parse(pattern)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		scan, ok := newScanner(tree)
		if name == "lookbehind" {
			if ok {
				t.Error("a repeated group is not the scanner's")
			}
			continue
		}
		if !ok {
			t.Errorf("%s: not handled by the scanner", name)
			continue
		}
		slow, err := newFallback(tree)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		const seed = 7
		rng := rand.New(rand.NewPCG(seed, 0))
		for range 500 {
			text := randomText(rng)
			if got, want := all(t, scan, text), all(t, slow, text); !slices.Equal(got, want) {
				t.Fatalf("%s on %q (seed %d):\nscanner %v\nregexp2 %v", name, text, seed, got, want)
			}
		}
	}
}

func TestFindAll(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ pattern, text, want string }{
		{`\p{N}{1,3}`, "a12345", "[123][45]"},
		{`(?i:'s)`, "it'S'ſ", "['S]['ſ]"},
		{`\s+(?!\S)|\s+`, "a   b ", "[  ][ ][ ]"},
		{`a*`, "baac", "[][aa][]"},
		{`[^a-c]`, "abcd]", "[d][]]"},
		{`[]a]+`, "x]a", "[]a]"},
		{`[\w&&[^\d]]+`, "ab12c", "[ab][c]"},
		{`a{,2}b`, "aaab", "[aab]"},
		{`a{x`, "a{x", "[a{x]"},
		{`(?<=a)b|(?<!a)c`, "abcacc", "[b][c][c]"},
		{`(?m:a.b)`, "a\nb", "[a\nb]"},
		{`a.b`, "a\nb", ""},
		{`(?x) a b # comment`, "ab", "[ab]"},
		{`\R`, "\r\n\n", "[\r\n][\n]"},
		{`\h+\x{1F600}\u00e9`, "fF😀é", "[fF😀é]"},
		{`(a+)+b`, "aab", "[aab]"},
		{`\p{^L}+`, "a12b", "[12]"},
		{`\p{Han}+`, "a中文b", "[中文]"},
		{`$`, "a\nb", "[][]"},
		{`\w+`, "a²_", "[a²_]"},
		{`[\w]+`, "a²_", "[a][_]"},
		{`[^\W\d]+`, "a1²b", "[a][b]"},
		{`[[:punct:]]+`, "a+,₿b", "[+,₿]"},
		{`\p{Punct}+`, "a+,b", "[,]"},
		{`[[:lower:]]+\p{upper}`, "aªBc", "[aªB]"},
		{`\N+`, "a\rb\n", "[a\rb]"},
		{`\p{Emoji}`, "a😀", "[😀]"},
		{`[[:graph:]]+`, "a b\u0378", "[a][b]"},
	} {
		re, err := Compile(c.pattern)
		if err != nil {
			t.Errorf("%s: %v", c.pattern, err)
			continue
		}
		var got strings.Builder
		if err := re.FindAll(c.text, func(s, e int) { fmt.Fprintf(&got, "[%s]", c.text[s:e]) }); err != nil {
			t.Errorf("%s: %v", c.pattern, err)
		}
		if got.String() != c.want {
			t.Errorf("%s on %q: got %q, want %q", c.pattern, c.text, got.String(), c.want)
		}
	}
}

func TestBadPatterns(t *testing.T) {
	t.Parallel()
	for _, pattern := range []string{
		`(`, `)`, `[`, `[a`, `a*********+`, `*a`, `\`, `\1`, `\K`, `(?<a`, `(?~a)`, `\p{Nope}`, `\pL`, `[[:nope:]]`, `[b-a]`,
		`a{3,1}`, `a{9999999}`, `\xff`, `\x{110000}`, `\x{}`, "\xff", strings.Repeat("(", 5000), strings.Repeat("[", 5000),
		`^*`, `(?i`, `(?#`, strings.Repeat("a", maxPatternBytes+1),
	} {
		if re, err := Compile(pattern); err == nil {
			t.Errorf("%.20q: compiled to %v", pattern, re)
		}
	}
}

// TestHostilePatternEnds checks that neither engine runs forever.
func TestHostilePatternEnds(t *testing.T) {
	t.Parallel()
	text := strings.Repeat("a", 3000)
	for _, pattern := range []string{`(?:a+)+b`, `a*a*a*a*b`, `(?:a|a)(?:a|a)a*a*a*c`} {
		re, err := Compile(pattern)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		err = re.FindAll(text, func(int, int) {})
		if took := time.Since(start); took > 20*time.Second {
			t.Errorf("%s took %v", pattern, took)
		}
		if err != nil && !errors.Is(err, ErrBudget) {
			t.Errorf("%s: %v", pattern, err)
		}
	}
}

func BenchmarkScanner(b *testing.B) {
	text := strings.Repeat("The quick brown fox can't jump over 12345 lazy dogs; naïve café, 中文字符。\n\n", 200)
	for _, name := range []string{"gpt2", "llama3", "o200k", "deepseek-v3"} {
		b.Run(name, func(b *testing.B) {
			re, err := Compile(patterns[name])
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				if err := re.FindAll(text, func(int, int) {}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestFallbackIsLinear checks that regexp2 is not made to start over at the text's beginning for each match.
func TestFallbackIsLinear(t *testing.T) {
	t.Parallel()
	re, err := Compile(`(?:ab)+|(?:c)+`)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := re.engine.(*fallback); !ok {
		t.Fatal("a repeated group is not the scanner's")
	}
	start := time.Now()
	matches := 0
	if err := re.FindAll(strings.Repeat("ab ", 100_000), func(int, int) { matches++ }); err != nil {
		t.Fatal(err)
	}
	if matches != 100_000 {
		t.Errorf("%d matches", matches)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("took %v", took)
	}
	t.Log(time.Since(start))
}
