package guide

import (
	"context"
	"testing"
)

func TestFinal(t *testing.T) {
	for _, c := range []struct {
		spec      Spec
		good, bad []string
	}{
		{Spec{Kind: JSONObject}, []string{`{}`, `{"a": [1,"é"]}`}, []string{``, `{`, `{"a":1,"a":2}`, `{}x`, `[]`}},
		{Spec{JSONSchema, `{"enum":[1,2,20]}`}, []string{"1", "20"}, []string{"", "2", "21", "-", "1.0"}},
		{Spec{Regex, `a+b?`}, []string{"ab", "aaab"}, []string{"", "a", "b", "abb"}},
		{Spec{GBNF, `root ::= "é" %json {"type":"null"}`}, []string{"énull"}, []string{"\xc3", "énul"}},
	} {
		g, err := CompileText(context.Background(), c.spec)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range c.good {
			if !g.Final(text) {
				t.Errorf("%v does not end with %q", c.spec, text)
			}
		}
		for _, text := range c.bad {
			if g.Final(text) {
				t.Errorf("%v ends with %q", c.spec, text)
			}
		}
	}
	if _, err := CompileText(context.Background(), Spec{Regex, "("}); err == nil {
		t.Error("( is compiled")
	}
}
