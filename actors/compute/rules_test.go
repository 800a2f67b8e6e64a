package compute

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/schemas"
)

// editedFrom says what a logit becomes, straight from the definition in schemas.SamplingRules.
func editedFrom(r *schemas.SlotRules, output []int32, token int32, l float64) float64 {
	rules, inPrompt, count := &r.Rules, false, 0
	for _, t := range r.Tokens[:r.Prompt] {
		inPrompt = inPrompt || t == token
	}
	for _, t := range output {
		if t == token {
			count++
		}
	}
	if rules.RepetitionPenalty != 0 && (inPrompt || count > 0) {
		if l > 0 {
			l /= float64(rules.RepetitionPenalty)
		} else {
			l *= float64(rules.RepetitionPenalty)
		}
	}
	l -= float64(rules.FrequencyPenalty) * float64(count)
	if count > 0 {
		l -= float64(rules.PresencePenalty)
	}
	for i, t := range rules.BiasTokens {
		if t == token {
			l += float64(rules.BiasValues[i])
		}
	}
	for _, t := range r.StopTokens {
		if t == token && len(output) < int(r.MinTokens) {
			return math.Inf(-1)
		}
	}
	return l
}

// TestRulesEditLogitsAsDefined follows random sequences, some of which start in the middle, as after a preemption.
func TestRulesEditLogitsAsDefined(t *testing.T) {
	const vocab = 12
	rng := rand.New(rand.NewPCG(7, 7))
	token := func() int32 { return rng.Int32N(vocab) }
	for range 300 {
		r := &schemas.SlotRules{Prompt: rng.Int32N(4), MinTokens: rng.Int32N(6), StopTokens: schemas.I32{1, 2}, MaxTokens: 100}
		pick := func(v float32) float32 { return [2]float32{0, v}[rng.IntN(2)] }
		r.Rules = schemas.SamplingRules{FrequencyPenalty: pick(0.5), PresencePenalty: pick(-1.5), RepetitionPenalty: pick(1.7)}
		if rng.IntN(2) == 0 {
			r.Rules.BiasTokens, r.Rules.BiasValues = schemas.I32{2, 5}, schemas.F32{-100, 3}
		}
		var output []int32
		for range int(r.Prompt) {
			r.Tokens = append(r.Tokens, token())
		}
		for range rng.IntN(5) {
			output = append(output, token())
		}
		r.Tokens = append(r.Tokens, output...)
		s := newRuled(r, nil, vocab)
		for range 8 {
			edits := gpu.EditLogits{}
			s.apply(3, &edits)
			byToken := map[int32]gpu.LogitEdit{}
			for _, e := range edits.Edits {
				if _, twice := byToken[e.Token]; twice || e.Row != 3 {
					t.Fatalf("edit %+v: a second one, or of another row", e)
				}
				byToken[e.Token] = e
			}
			for id := range int32(vocab) {
				for _, l := range []float64{2.5, -1.25} {
					got := l
					if e, ok := byToken[id]; ok {
						if got > 0 {
							got /= float64(e.Scale)
						} else {
							got *= float64(e.Scale)
						}
						got += float64(e.Add)
					}
					if want := editedFrom(r, output, id, l); got != want && !(math.Abs(got-want) < 1e-5) {
						t.Fatalf("%+v after %v: token %d with logit %v becomes %v, want %v", r, output, id, l, got, want)
					}
				}
			}
			next := token()
			output = append(output, next)
			result := &schemas.StepResult{}
			if got := s.take(next, 1, result); got != next || len(result.Failed) > 0 {
				t.Fatalf("token %d became %d (%v)", next, got, result.Failed)
			}
		}
	}
}
