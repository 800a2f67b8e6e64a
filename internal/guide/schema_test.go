package guide

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
)

// schemaGenerator writes random schemas out of everything that is supported.
type schemaGenerator struct {
	*rand.Rand
	defs int
}

func (r schemaGenerator) pick(options ...string) string { return options[r.IntN(len(options))] }

// maybe returns text with the given chance in percent.
func (r schemaGenerator) maybe(percent int, text string) string {
	if r.IntN(100) < percent {
		return text
	}
	return ""
}

// document writes a whole schema; its definitions may be recursive.
func (r schemaGenerator) document() string {
	var defs []string
	for i := range r.defs {
		defs = append(defs, fmt.Sprintf(`"d%d":%s`, i, r.schema(2)))
	}
	body := strings.TrimPrefix(r.object(3), "{")
	if r.IntN(4) == 0 {
		body = strings.TrimPrefix(r.array(3), "{")
	}
	return `{"$defs":{` + strings.Join(defs, ",") + `},` + body
}

func (r schemaGenerator) schema(depth int) string {
	if depth <= 0 {
		return r.leaf()
	}
	switch r.IntN(12) {
	case 0, 1, 2:
		return r.object(depth)
	case 3, 4:
		return r.array(depth)
	case 5:
		return fmt.Sprintf(`{"anyOf":[%s,%s]}`, r.schema(depth-1), r.schema(depth-1))
	case 6:
		return fmt.Sprintf(`{"oneOf":[{"type":"string"},{"type":"array","items":%s},{"type":"object","properties":{"kind":{"const":"a"}},
			"required":["kind"]},{"type":"object","properties":{"kind":{"const":"b"},"v":%s},"required":["kind","v"]}]}`,
			r.schema(depth-1), r.schema(depth-1))
	case 7:
		return fmt.Sprintf(`{"allOf":[{"type":"object","properties":{"a":%s},"required":["a"]},{"properties":{"b":%s,"a":{}}}]}`,
			r.schema(depth-1), r.schema(depth-1))
	case 8:
		return fmt.Sprintf(`{"$ref":"#/$defs/d%d"}`, r.IntN(r.defs))
	}
	return r.leaf()
}

func (r schemaGenerator) leaf() string {
	switch r.IntN(14) {
	case 0:
		return `{"type":["string","null"]}`
	case 1:
		return fmt.Sprintf(`{"type":"string","minLength":%d,"maxLength":%d}`, r.IntN(4), 4+r.IntN(20))
	case 2:
		return fmt.Sprintf(`{"type":"string","pattern":%q}`, r.pick(`^[a-z]{2,5}$`, `^(foo|bar)+`, `x\d+$`, `^.{1,40}$`, `a|b`,
			`^[^"\\]*$`, `^\S+ \S+$`, `^\w+\.é*$`, `^\p{Greek}+$`, `^[\n\t"\\\x01]+$`))
	case 3:
		return fmt.Sprintf(`{"type":"string","format":%q}`, r.pick("date-time", "date", "time", "email", "uuid", "ipv4", "ipv6", "uri"))
	case 4:
		return fmt.Sprintf(`{"type":"integer","minimum":%d,"maximum":%d}`, r.IntN(50)-25, 25+r.IntN(1000))
	case 5:
		return fmt.Sprintf(`{"type":"integer",%q:%d}`, r.pick("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), r.IntN(2000)-1000)
	case 6:
		return fmt.Sprintf(`{"type":"number","minimum":%d.5,"exclusiveMaximum":%d.25}`, r.IntN(50)-60, r.IntN(1000))
	case 7:
		return `{"enum":["red","green","re",1,1.5,null,true,{"a":[1,"x"]},"é\"\n"]}`
	case 8:
		return fmt.Sprintf(`{"const":%s}`, r.pick(`"x"`, `3`, `null`, `[1,{"b":2}]`, `""`))
	case 9:
		return r.pick(`true`, `{}`, `{"type":"object"}`, `{"type":"array","maxItems":2}`)
	case 10:
		return `{"type":"number"}`
	case 11:
		return `{"type":"integer"}`
	}
	return r.pick(`{"type":"string"}`, `{"type":"boolean"}`, `{"type":"null"}`)
}

func (r schemaGenerator) object(depth int) string {
	var properties, required []string
	names := []string{"a", "ab", "name", "long_property_name", "é", "q\\\"", "with space", ""}
	r.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	for _, name := range names[:r.IntN(5)] {
		properties = append(properties, fmt.Sprintf(`"%s":%s`, name, r.schema(depth-1)))
		if r.IntN(2) == 0 {
			required = append(required, `"`+name+`"`)
		}
	}
	extra := ""
	switch r.IntN(6) {
	case 0:
		extra = `,"additionalProperties":` + r.schema(depth-2)
	case 1:
		extra = fmt.Sprintf(`,"patternProperties":{"^x_[a-z]{1,3}$":%s}`, r.schema(depth-2))
		extra += r.maybe(50, `,"additionalProperties":false`)
	case 2, 3:
		extra = `,"additionalProperties":false`
	}
	return fmt.Sprintf(`{"type":"object","properties":{%s},"required":[%s]%s}`, strings.Join(properties, ","),
		strings.Join(required, ","), extra)
}

func (r schemaGenerator) array(depth int) string {
	n := r.IntN(3)
	return fmt.Sprintf(`{"type":"array","items":%s%s%s%s}`, r.schema(depth-1),
		r.maybe(30, fmt.Sprintf(`,"prefixItems":[%s,%s]`, r.schema(depth-1), r.schema(depth-2))),
		r.maybe(50, fmt.Sprintf(`,"minItems":%d`, n)), r.maybe(50, fmt.Sprintf(`,"maxItems":%d`, n+r.IntN(4))))
}

// TestRandomSchemas walks random schemas at random within several budgets: every answer must parse and validate.
// With GUIDE_DUMP=file the answers are also written there, one JSON object a line, for a validator of one's own.
func TestRandomSchemas(t *testing.T) {
	v, tokens := defaultVocabulary(t)
	var dump *os.File
	if path := os.Getenv("GUIDE_DUMP"); path != "" {
		var err error
		if dump, err = os.Create(path); err != nil {
			t.Fatal(err)
		}
		defer dump.Close()
	}
	schemas, answers, refused := 1000, 0, 0
	if testing.Short() {
		schemas = 100
	}
	for seed := range uint64(schemas) {
		rng := rand.New(rand.NewPCG(seed, 7))
		source := schemaGenerator{rng, 3}.document()
		g, err := Compile(context.Background(), Spec{JSONSchema, source}, v)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("seed %d: %v is no *Error", seed, err)
			}
			refused++
			continue
		}
		root, err := decode(source)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for _, budget := range []int{g.MinTokens(), g.MinTokens() + 3, g.MinTokens() + rng.IntN(60), 200 + g.MinTokens()} {
			text := walk(t, g, tokens, budget, rng)
			value, err := decode(text)
			if err != nil {
				t.Fatalf("seed %d, budget %d: %v\n%s\n%s", seed, budget, err, source, text)
			}
			if !(validator{root}).valid(root, value) {
				t.Fatalf("seed %d, budget %d: not valid\n%s\n%s", seed, budget, source, text)
			}
			answers++
			if dump != nil {
				line, _ := json.Marshal(map[string]any{"schema": json.RawMessage(source), "answer": text})
				fmt.Fprintf(dump, "%s\n", line)
			}
		}
	}
	t.Logf("%d schemas, %d refused, %d answers", schemas, refused, answers)
	if refused > schemas/3 {
		t.Errorf("%d of %d schemas were refused", refused, schemas)
	}
}
