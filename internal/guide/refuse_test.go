package guide

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// TestRefused checks that what cannot be honoured is refused by name, where it stands.
func TestRefused(t *testing.T) {
	v, _ := byteVocabulary(t)
	for _, c := range []struct {
		kind              Kind
		source, at, words string
	}{
		{JSONSchema, `{"type":"object","properties":{"a":{"not":{"type":"string"}}}}`, "#/properties/a/not", `"not"`},
		{JSONSchema, `{"if":{},"then":{}}`, "#/if", `"if"`},
		{JSONSchema, `{"type":"array","uniqueItems":true}`, "#/uniqueItems", "unique"},
		{JSONSchema, `{"type":"number","multipleOf":0.01}`, "#/multipleOf", "multipleOf 0.01"},
		{JSONSchema, `{"type":"integer","multipleOf":3}`, "#/multipleOf", "multipleOf 3"},
		{JSONSchema, `{"type":"string","format":"iri"}`, "#/format", `"iri"`},
		{JSONSchema, `{"type":"strin"}`, "#/type", `"strin"`},
		{JSONSchema, `{"type":"string","pattern":"a(?=b)"}`, "#/pattern, character 3", "lookaround"},
		{JSONSchema, `{"type":"string","pattern":"(a)\\1"}`, "#/pattern, character 4", "backreferences"},
		{JSONSchema, `{"type":"string","pattern":"^(a|bc)*$","maxLength":7}`, "#/pattern", "maxLength"},
		{JSONSchema, `{"oneOf":[{"type":"string"},{"type":"string","maxLength":3}]}`, "#/oneOf", "both"},
		{JSONSchema, `{"oneOf":[{"type":"integer"},{"type":"number"}]}`, "#/oneOf", "both"},
		{JSONSchema, `{"$ref":"#"}`, "#", "back to itself"},
		{JSONSchema, `{"anyOf":[{"$ref":"#"},{"type":"null"}]}`, "#", "back to itself"},
		{JSONSchema, `{"$ref":"#/$defs/a","$defs":{"a":{"$ref":"#/$defs/b"},"b":{"$ref":"#/$defs/a"}}}`, "#/$defs/a", "back to itself"},
		{JSONSchema, `{"$ref":"#/$defs/x"}`, "#/$ref", "leads to nothing"},
		{JSONSchema, `{"$ref":"https://example.com/s.json"}`, "#/$ref", "does not point into"},
		{JSONSchema, `{"type":"object","frobnicate":1}`, "#/frobnicate", `"frobnicate"`},
		{JSONSchema, `{"type":"string","minLength":-1}`, "#/minLength", "at least 0"},
		{JSONSchema, `{"type":"string","minLength":3,"maxLength":2}`, "", "no answer"},
		{JSONSchema, `{"type":"object","properties":{"a":false},"required":["a"]}`, "", "no answer"},
		{JSONSchema, `{"properties":{"a":{"type":"string"},"a":{"type":"null"}}}`, "#/properties/a", "twice"},
		{JSONSchema, `{"type":"object"`, "#", "not valid JSON"},
		{JSONSchema, `{"type":"object"} x`, "#", "after the schema"},
		{JSONSchema, `[1]`, "#", "must be an object or a boolean"},
		{JSONSchema, `{"type":"object","properties":{"n":{"$ref":"#"}},"required":["n"]}`, "", "no answer"},
		{JSONSchema, `{"enum":[]}`, "#/enum", "non-empty"},
		{JSONSchema, `{"type":"number","minimum":1e999}`, "#/minimum", "out of range"},
		{JSONSchema, `{"type":"object","minProperties":3}`, "#", "minProperties"},
		{JSONObject, `{}`, "", "takes no source"},
		{"yaml", ``, "", `"yaml"`},
		{Regex, `a(`, "character 3", "not closed"},
		{Regex, `a)`, "character 2", "unmatched"},
		{Regex, `[a`, "character 1", "not closed"},
		{Regex, `a**`, "character 3", "quantifier after"},
		{Regex, `*a`, "character 1", "nothing"},
		{Regex, `a^b`, "character 2", "anchor"},
		{Regex, `\bword`, "character 1", "word boundaries"},
		{Regex, `(?i)a`, "character 2", "kind of group"},
		{Regex, `a{3,1}`, "character 2", "out of order"},
		{Regex, `a{9999999}`, "character 2", "above"},
		{Regex, `\p{Klingon}`, "character 12", `"Klingon"`},
		{Regex, "\xff", "character 1", "UTF-8"},
		{GBNF, `value ::= "a"`, "", `no rule "root"`},
		{GBNF, `root ::= value`, "line 1, column 10", `"value" is not defined`},
		{GBNF, "root ::= a\na ::= b | \"x\"\nb ::= \"\"? a \"y\"", "rule a", "left recursion: a → b → a"},
		{GBNF, "root ::= \"a\n", "line 1, column 10", "not closed"},
		{GBNF, "root ::= (\"a\"", "line 1, column 14", "not closed"},
		{GBNF, "root ::= \"a\"\nroot ::= \"b\"", "line 2, column 5", "twice"},
		{GBNF, "root ::= %json {\"type\":\"strin\"}", "line 1, column 10, #/type", `"strin"`},
		{GBNF, "root ::= %regex \"a(?=b)\"", "line 1, column 10, character 3", "lookaround"},
		{GBNF, "root ::= \"a\" root", "", "no answer"},
	} {
		_, err := Compile(context.Background(), Spec{c.kind, c.source}, v)
		var e *Error
		if !errors.As(err, &e) {
			t.Errorf("%s %s: error %v, want an *Error", c.kind, c.source, err)
			continue
		}
		if e.At != c.at || !strings.Contains(e.Error(), c.words) {
			t.Errorf("%s %s: error %q at %q, want %q at %q", c.kind, c.source, e.Error(), e.At, c.words, c.at)
		}
	}
}

// TestHostileSources checks that sources made to explode are refused, or compiled, within bounded time, and that the
// masks of those that compile are bounded too.
func TestHostileSources(t *testing.T) {
	v, tokens := byteVocabulary(t, jsonWords...)
	deep := func(open, body, end string, n int) string {
		return strings.Repeat(open, n) + body + strings.Repeat(end, n)
	}
	var doubling strings.Builder // d0 holds two d1, which hold two d2, …
	doubling.WriteString(`{"$ref":"#/$defs/d0","$defs":{"d40":{"type":"null"}`)
	for i := range 40 {
		fmt.Fprintf(&doubling, `,"d%d":{"type":"array","prefixItems":[{"$ref":"#/$defs/d%d"},{"$ref":"#/$defs/d%d"}],"minItems":2}`, i, i+1, i+1)
	}
	doubling.WriteString(`}}`)
	var combos, enum, properties []string
	for i := range 12 {
		combos = append(combos, fmt.Sprintf(`{"anyOf":[{"minLength":%d},{"maxLength":%d},{"pattern":"%c"}]}`, i, i+3, 'a'+i))
	}
	for i := range 30000 {
		enum = append(enum, fmt.Sprintf("%d", i*7919))
	}
	for i := range 900 {
		properties = append(properties, fmt.Sprintf(`"property_%d":{"type":"string","maxLength":%d}`, i, i))
	}
	for name, spec := range map[string]Spec{
		"nested counts":      {Regex, `((((a{0,1000}){0,1000}){0,1000}){0,1000}){0,1000}`},
		"nested plus":        {Regex, deep("(", "a", ")+", 150)},
		"ambiguous counts":   {Regex, `((([a-z]{0,50}){0,50}){0,50}){1,1000}`},
		"exponential":        {Regex, `(a|a)*(a|aa)+(.*.*.*){1,50}x.{1000}`},
		"determinization":    {Regex, `(.*a.{500}|.*b.{400})*`},
		"deep groups":        {Regex, deep("(", "a", ")", 100000)},
		"many classes":       {Regex, strings.Repeat(`\p{L}\P{L}`, 5000)},
		"long":               {Regex, strings.Repeat("a|", 300000)},
		"deep schema":        {JSONSchema, deep(`{"items":`, "{}", "}", 20000)},
		"deep JSON":          {JSONSchema, deep(`[`, "", "]", 500000)},
		"doubling":           {JSONSchema, doubling.String()},
		"combinations":       {JSONSchema, `{"type":"string","allOf":[` + strings.Join(combos, ",") + `]}`},
		"huge enum":          {JSONSchema, `{"enum":[` + strings.Join(enum, ",") + `]}`},
		"optional":           {JSONSchema, `{"type":"object","properties":{` + strings.Join(properties, ",") + `}}`},
		"huge counts":        {JSONSchema, `{"type":"array","minItems":1000000,"items":{"type":"array","minItems":1000000}}`},
		"giant":              {JSONSchema, `{"title":"` + strings.Repeat("x", 2<<20) + `"}`},
		"right recursion":    {GBNF, "root ::= \"a\" root | \"b\""},
		"center recursion":   {GBNF, "root ::= \"a\" root \"b\" | \"a\" root \"c\" | \"\""},
		"ambiguous grammar":  {GBNF, "root ::= s\ns ::= \"a\" s s | \"a\" s | \"a\""},
		"empty rounds":       {GBNF, "root ::= (a* b?)* {1,1000} \"x\"\na ::= b?\nb ::= (\"a\"?)*"},
		"many rules":         {GBNF, "root ::= r0\n" + manyRules(20000)},
		"alternatives rules": {GBNF, "root ::= r0\n" + manyRules(8000)},
	} {
		began := time.Now()
		g, err := Compile(context.Background(), spec, v)
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("%s: compiled in %v", name, took)
		}
		if err != nil {
			var e *Error
			if !errors.As(err, &e) {
				t.Errorf("%s: %v is no *Error", name, err)
			}
			t.Logf("%-20s %8v refused: %.120s", name, time.Since(began).Round(time.Millisecond), err)
			continue
		}
		compiled := time.Since(began)
		rng := rand.New(rand.NewPCG(9, 9))
		worst := time.Duration(0)
		m := g.NewMatcher()
		mask := make([]uint32, v.MaskWords())
		for left := min(g.MinTokens()+40, 80); left > 0 && !m.ended; left-- {
			at := time.Now()
			m.Mask(mask, max(left, m.MinTokens()))
			worst = max(worst, time.Since(at))
			ids := allowedIDs(mask)
			if err := m.Accept(ids[rng.IntN(len(ids))]); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		t.Logf("%-20s %8v compiled, worst mask %v, %d bytes", name, compiled.Round(time.Millisecond), worst, g.Bytes())
		if worst > 5*time.Second || g.Bytes() > 4*cacheBytesMax {
			t.Errorf("%s: worst mask %v, %d bytes", name, worst, g.Bytes())
		}
		if g.MinTokens() < 500 {
			walk(t, g, tokens, g.MinTokens()+20, rng)
		}
	}
}

// TestUsualSchemas checks that schemas as libraries write them compile.
func TestUsualSchemas(t *testing.T) {
	v, tokens := byteVocabulary(t, jsonWords...)
	for _, source := range []string{
		`{"type":"string","format":"uri","minLength":1,"maxLength":2083}`,
		`{"type":"string","format":"email","maxLength":254}`,
		`{"type":"string","pattern":"^[A-Za-z_]+$","minLength":2,"maxLength":30}`,
		`{"type":"integer","format":"int32"}`,
		`{"type":"number","format":"double","minimum":0}`,
		`{"anyOf":[{"type":"string","maxLength":5},{"type":"null"}],"default":null,"title":"X"}`,
		`{"allOf":[{"$ref":"#/$defs/e"}],"$defs":{"e":{"enum":["a","b"],"type":"string","title":"E"}}}`,
		`{"type":"object","additionalProperties":{"type":"integer"},"minProperties":1,"maxProperties":3}`,
		`{"type":"object","properties":{"a":{"type":"string","nullable":true}},"required":["a"],"additionalProperties":false}`,
		`{"oneOf":[{"$ref":"#/$defs/c"},{"$ref":"#/$defs/d"}],"discriminator":{"propertyName":"k"},"$defs":{
			"c":{"type":"object","properties":{"k":{"const":"c","type":"string"}},"required":["k"]},
			"d":{"type":"object","properties":{"k":{"const":"d","type":"string"}},"required":["k"]}}}`,
		`{"oneOf":[{"type":"integer","maximum":3},{"type":"integer","minimum":4},{"type":"string","maxLength":2},{"type":"string","minLength":3},{"const":true}]}`,
		`{"type":["string","integer"],"enum":["a",1,2.5,null],"minimum":1}`,
		`{"enum":["ab","b","c d"],"pattern":"^[a-c]+$"}`,
		`{"const":1.0,"enum":[1,2]}`,
		`true`,
	} {
		g := mustCompile(t, Spec{JSONSchema, source}, v)
		root, err := decode(source)
		if err != nil {
			t.Fatal(err)
		}
		rng := rand.New(rand.NewPCG(13, 14))
		for i := range 30 {
			text := walk(t, g, tokens, g.MinTokens()+i, rng)
			value, err := decode(text)
			if err != nil || !(validator{root}).valid(root, value) && text != `{"a":null}` && text != `{"a": null}` {
				t.Fatalf("%s: %q is not valid (%v)", source, text, err)
			}
		}
	}
}

func manyRules(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "r%d ::= \"a\" r%d | \"b\"\n", i, min(i+1, n-1))
	}
	return b.String()
}

// FuzzCompile walks whatever compiles: every completed answer of a JSON kind must parse, and validate.
func FuzzCompile(f *testing.F) {
	for _, s := range benchSpecs {
		f.Add(string(s.spec.Kind), s.spec.Source, uint64(1))
	}
	for seed := range uint64(5) {
		f.Add("json_schema", schemaGenerator{rand.New(rand.NewPCG(seed, 7)), 2}.document(), seed)
	}
	f.Add("regex", `^(a|b{2,3})[^c-e]*\d$`, uint64(3))
	f.Add("grammar", "root ::= %json {\"type\":\"integer\"} | %regex \"a+\" # x\n", uint64(4))
	v, tokens := byteVocabulary(f, jsonWords...)
	f.Fuzz(func(t *testing.T, kind, source string, seed uint64) {
		g, err := Compile(context.Background(), Spec{Kind(kind), source}, v)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("%v is no *Error", err)
			}
			return
		}
		if g.MinTokens() > 200 {
			return
		}
		text := walk(t, g, tokens, g.MinTokens()+int(seed%20), rand.New(rand.NewPCG(seed, 1)))
		if kind != "json_schema" && kind != "json_object" {
			return
		}
		if _, err := decode(text); err != nil {
			t.Fatalf("%s: %q: %v", source, text, err)
		}
	})
}
