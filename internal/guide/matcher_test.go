package guide

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
)

// TestForgetting checks that answers and masks stay the same when the grammar's memory is dropped at any time.
func TestForgetting(t *testing.T) {
	v, tokens := byteVocabulary(t, jsonWords...)
	for _, b := range benchSpecs {
		g, fresh := mustCompile(t, b.spec, v), mustCompile(t, b.spec, v)
		rng := rand.New(rand.NewPCG(11, 12))
		m, other := g.NewMatcher(), fresh.NewMatcher()
		got, want := make([]uint32, v.MaskWords()), make([]uint32, v.MaskWords())
		for left := g.MinTokens() + 40; left > 0 && !m.ended; left-- {
			if rng.IntN(4) == 0 {
				g.m.forget()
			}
			m.Mask(got, left)
			other.Mask(want, left)
			if !slices.Equal(got, want) {
				t.Fatalf("%s: %s", b.name, difference(tokens, allowedIDs(got), allowedIDs(want)))
			}
			ids := allowedIDs(got)
			id := ids[rng.IntN(len(ids))]
			if err := m.Accept(id); err != nil {
				t.Fatal(err)
			}
			if err := other.Accept(id); err != nil {
				t.Fatal(err)
			}
			if m.Complete() != other.Complete() || m.MinTokens() != other.MinTokens() {
				t.Fatalf("%s: the matchers came apart", b.name)
			}
		}
	}
}

// TestConcurrentMatchers runs many matchers of one grammar at once; the race detector watches.
func TestConcurrentMatchers(t *testing.T) {
	v, tokens := byteVocabulary(t, jsonWords...)
	for _, b := range benchSpecs[1:3] {
		g := mustCompile(t, b.spec, v)
		var wg sync.WaitGroup
		for seed := range uint64(8) {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(seed, 1))
				m := g.NewMatcher()
				mask := make([]uint32, v.MaskWords())
				for left := g.MinTokens() + 60; left > 0 && !m.ended; left-- {
					m.Mask(mask, left)
					ids := allowedIDs(mask)
					if err := m.Accept(ids[rng.IntN(len(ids))]); err != nil {
						t.Error(err)
						return
					}
				}
				if !m.Complete() {
					t.Error("an answer is not complete")
				}
			})
		}
		wg.Wait()
		walk(t, g, tokens, g.MinTokens(), rand.New(rand.NewPCG(1, 1)))
	}
}

// TestMatcherErrors checks what happens at the edges of the API.
func TestMatcherErrors(t *testing.T) {
	v, _ := byteVocabulary(t, "ab")
	g := mustCompile(t, Spec{Regex, `ab?`}, v)
	end := int32(v.Size() - 1)
	m := g.NewMatcher()
	for _, id := range []int32{-1, int32(v.Size()), 'b', end} {
		if m.Accept(id) == nil {
			t.Errorf("token %d was accepted at the start", id)
		}
	}
	clone := m.Clone()
	if err := m.Accept('a'); err != nil {
		t.Fatal(err)
	}
	if !m.Complete() || clone.Complete() {
		t.Error("a clone is not independent of its original")
	}
	if err := m.Accept(end); err != nil {
		t.Fatal(err)
	}
	if m.Accept('b') == nil {
		t.Error("a token was accepted after the end")
	}
	mask := make([]uint32, v.MaskWords())
	m.Mask(mask, 5)
	if ids := allowedIDs(mask); len(ids) != 0 {
		t.Errorf("tokens %v are allowed after the end", ids)
	}
	clone.Mask(mask, 0) // less than MinTokens: the shortest way stays open
	if ids := allowedIDs(mask); !slices.Equal(ids, []int32{'a', 256}) {
		t.Errorf("tokens %v are allowed with no budget, want a and ab", ids)
	}
	for _, end := range []int32{-1, 3} {
		if _, err := NewVocabulary([][]byte{{'a'}, nil, {'b'}}, []int32{end}); err == nil {
			t.Errorf("end token %d was accepted", end)
		}
	}
	if _, err := NewVocabulary([][]byte{nil, {}}, nil); err == nil {
		t.Error("a vocabulary without text was accepted")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Compile(ctx, Spec{Regex, "a"}, v); err != context.Canceled {
		t.Errorf("Compile with a cancelled context: %v", err)
	}
	if g.CompileTime() <= 0 || g.Bytes() <= 0 {
		t.Errorf("CompileTime %v, Bytes %d", g.CompileTime(), g.Bytes())
	}
}

// TestWorkLimit checks that a mask whose walk is cut short is never wider than the full one, and still leads on.
func TestWorkLimit(t *testing.T) {
	v, _ := byteVocabulary(t, jsonWords...)
	g := mustCompile(t, Spec{Regex, `(?:a|b|ab.*|[^x]{2,9})*y`}, v)
	full := g.m.maskOf(g.start)
	want, got := make([]uint32, v.MaskWords()), make([]uint32, v.MaskWords())
	full.copyTo(want, costInfinite-1)
	for _, work := range []int{0, 5, 50, 500} {
		b := maskBuilder{machine: g.m, levels: map[int32]*level{}, work: work}
		b.fill(&v.lexicon, g.start)
		cut := &mask{}
		for _, l := range b.levels {
			cut.levels = append(cut.levels, *l)
		}
		cut.copyTo(got, costInfinite-1)
		for i := range got {
			if got[i]&^want[i] != 0 {
				t.Errorf("with %d steps the mask allows what the full one does not", work)
			}
		}
		if !slices.Contains(allowedIDs(got), 'y') {
			t.Errorf("with %d steps the mask does not have the shortest way", work)
		}
	}
}

// TestStackDepth checks that answers nest no deeper than common parsers read, even if the sampler only opens brackets.
func TestStackDepth(t *testing.T) {
	v, _ := byteVocabulary(t)
	g := mustCompile(t, Spec{JSONSchema, `{"type":"array"}`}, v)
	m := g.NewMatcher()
	depth := 0
	mask := make([]uint32, v.MaskWords())
	for ; ; depth++ {
		m.Mask(mask, 1<<20)
		if !slices.Contains(allowedIDs(mask), '[') {
			break
		}
		if err := m.Accept('['); err != nil {
			t.Fatal(err)
		}
		if depth > 2*stackDepthMax {
			t.Fatal("nesting has no limit")
		}
	}
	for range depth {
		if err := m.Accept(']'); err != nil {
			t.Fatal(err)
		}
	}
	if !m.Complete() || depth < stackDepthMax/2 {
		t.Errorf("nested %d deep, complete: %v", depth, m.Complete())
	}
}
