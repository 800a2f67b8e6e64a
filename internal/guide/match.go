package guide

import (
	"context"
	"sync"
)

// bytesVocabulary has each byte as a token, and one that ends an answer.
var bytesVocabulary = sync.OnceValue(func() *Vocabulary {
	tokens := make([][]byte, 257)
	for b := range 256 {
		tokens[b] = []byte{byte(b)}
	}
	v, err := NewVocabulary(tokens, []int32{256})
	if err != nil {
		panic(err) // it has tokens
	}
	return v
})

// CompileText compiles a constraint for Final: no model's vocabulary is needed. Errors are Compile's.
func CompileText(ctx context.Context, spec Spec) (*Grammar, error) {
	return Compile(ctx, spec, bytesVocabulary())
}

// Final reports whether a text satisfies a constraint from CompileText, and nothing can follow it.
func (g *Grammar) Final(text string) bool {
	m := g.NewMatcher()
	for i := range len(text) {
		if m.Accept(int32(text[i])) != nil {
			return false
		}
	}
	return m.at.complete && len(m.at.items) == 0
}
