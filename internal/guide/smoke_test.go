package guide

import (
	"encoding/json"
	"math/rand/v2"
	"testing"
)

func TestSmoke(t *testing.T) {
	v, tokens := byteVocabulary(t, jsonWords...)
	for _, spec := range []Spec{
		{JSONObject, ""},
		{JSONSchema, `{"type":"object","properties":{"name":{"type":"string","maxLength":5},"age":{"type":"integer","minimum":0,"maximum":130},"tags":{"type":"array","items":{"enum":["a","b",1]},"minItems":1,"maxItems":3},"next":{"anyOf":[{"$ref":"#"},{"type":"null"}]}},"required":["name","next"]}`},
		{JSONSchema, `{"type":"number","minimum":-1.5,"exclusiveMaximum":12.25}`},
		{JSONSchema, `{"type":"string","pattern":"^a.{2,40}[\"x]$"}`},
		{JSONSchema, `{"type":"string","format":"date-time"}`},
		{JSONSchema, `{"type":"string","format":"ipv6"}`},
		{GBNF, "root ::= %json {\"type\":\"array\",\"items\":{\"type\":\"boolean\"}}\n"},
	} {
		g := mustCompile(t, spec, v)
		rng := rand.New(rand.NewPCG(1, 2))
		for i := range 100 {
			text := walk(t, g, tokens, g.MinTokens()+i%40, rng)
			if !json.Valid([]byte(text)) {
				t.Fatalf("%s: %q", spec.Source, text)
			}
			if i < 3 {
				t.Logf("%d %s", g.MinTokens(), text)
			}
		}
	}
}
