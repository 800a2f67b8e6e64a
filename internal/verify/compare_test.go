package verify

import (
	"strings"
	"testing"
)

func TestAGoldenOfAnotherModelIsNamed(t *testing.T) {
	g := &Golden{Prompt: []int32{1}, Greedy: []int32{2}, Logits: [][]float32{{0, 1}}}
	o := &outcome{tokens: []int32{2}, logits: map[int32][]float32{0: {0, 1, 2}}}
	r := &Result{Greedy: 1, GreedyOf: 1, Identical: true}
	compare(r, o, g, o)
	if !strings.Contains(r.Failure, "2 tokens") || !strings.Contains(r.Failure, "3") {
		t.Errorf("failure %q; want both sizes", r.Failure)
	}
}

func TestEveryDifferenceIsSeen(t *testing.T) {
	g := &Golden{Prompt: []int32{1}, Greedy: []int32{2, 3}, Logits: [][]float32{{0, 1}}}
	alone := &outcome{tokens: []int32{2, 3}, logits: map[int32][]float32{0: {0, 1}, 1: {5, 6}}}
	for name, c := range map[string]struct {
		o    *outcome
		want string
	}{
		"nothing":             {alone, ""},
		"a logit":             {&outcome{tokens: alone.tokens, logits: map[int32][]float32{0: {0, 1.5}}}, "logit error 0.5"},
		"NaN":                 {&outcome{tokens: alone.tokens, logits: map[int32][]float32{0: {nan(), 1}}}, "token 0 at position 0 is NaN"},
		"a token":             {&outcome{tokens: []int32{2, 9}, logits: alone.logits}, "greedy token 1"},
		"too few tokens":      {&outcome{tokens: []int32{2}, logits: alone.logits}, "greedy token 1"},
		"a bit after the end": {&outcome{tokens: alone.tokens, logits: map[int32][]float32{1: {5, 7}}}, "not bit-identical"},
	} {
		r := &Result{Greedy: 2, GreedyOf: 2, Identical: true}
		compare(r, c.o, g, alone)
		r.judge(1e-3, nil)
		if (c.want == "") != (r.Failure == "") || !strings.Contains(r.Failure, c.want) {
			t.Errorf("%s differs: failure %q, want %q", name, r.Failure, c.want)
		}
	}
}

func nan() float32 {
	var zero float32
	return zero / zero
}
