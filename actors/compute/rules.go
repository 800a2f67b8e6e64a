package compute

import (
	"math"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/internal/guide"
	"github.com/troupe-engine/troupe/schemas"
)

// ruled is a slot whose sequence has rules: what they have to know of its tokens.
type ruled struct {
	schemas.SlotRules
	edits   map[int32]gpu.LogitEdit // by token: penalties, biases and, before MinTokens, end tokens
	bias    map[int32]float32
	counts  map[int32]int32    // of tokens in the output
	seen    map[int32]struct{} // tokens of the prompt and the output
	output  int32              // tokens
	matcher *guide.Matcher     // nil without a guide
	allowed []uint32
	failure *schemas.Error // the sequence cannot go on
}

// newRuled takes over a sequence's tokens so far. A guide that does not take them fails the sequence alone.
func newRuled(r *schemas.SlotRules, guides *guides, vocabSize int) *ruled {
	s := &ruled{SlotRules: *r, edits: map[int32]gpu.LogitEdit{}, bias: map[int32]float32{}, counts: map[int32]int32{}, seen: map[int32]struct{}{}}
	if s.Rules.RepetitionPenalty == 0 {
		s.Rules.RepetitionPenalty = 1
	}
	for i, t := range s.Rules.BiasTokens {
		s.bias[t] = s.Rules.BiasValues[i]
		s.renew(t)
	}
	if s.Rules.RepetitionPenalty != 1 {
		for _, t := range s.Tokens[:s.Prompt] {
			s.seen[t] = struct{}{}
			s.renew(t)
		}
	}
	if g := s.Rules.Guide; g != nil {
		grammar, err := guides.get(g)
		if err != nil {
			s.failure = err
			return s
		}
		s.matcher, s.allowed = grammar.NewMatcher(), make([]uint32, (vocabSize+31)/32)
	}
	s.forbidEnd()
	for _, t := range s.Tokens[s.Prompt:] {
		s.push(t)
	}
	return s
}

// push takes a token of the output.
func (s *ruled) push(token int32) {
	s.output++
	s.counts[token]++
	s.seen[token] = struct{}{}
	if r := &s.Rules; r.RepetitionPenalty != 1 || r.FrequencyPenalty != 0 || r.PresencePenalty != 0 {
		s.renew(token)
	}
	if s.output == s.MinTokens {
		for _, t := range s.StopTokens {
			s.renew(t)
		}
	}
	s.forbidEnd()
	if s.matcher != nil && s.failure == nil {
		if err := s.matcher.Accept(token); err != nil {
			s.failure = schemas.Errorf(schemas.KindInternal, "guide", "output token %d: %v", s.output-1, err).
				WithHint("this is a bug in package guide, or the vocabulary cannot spell what the guide asks for")
		}
	}
}

// take hears what was sampled, and returns it, or -1 with the reason if the sequence cannot go on.
func (s *ruled) take(token int32, seq schemas.SeqID, r *schemas.StepResult) int32 {
	if s.failure == nil && token >= 0 {
		s.push(token)
	}
	if s.failure == nil {
		return token
	}
	r.Failed = append(r.Failed, schemas.SeqError{Seq: seq, Error: *s.failure})
	return -1
}

// renew writes the edit of a token.
func (s *ruled) renew(token int32) {
	e := gpu.LogitEdit{Token: token, Scale: 1, Add: s.bias[token]}
	if _, seen := s.seen[token]; seen {
		e.Scale = s.Rules.RepetitionPenalty
	}
	if n := s.counts[token]; n > 0 {
		e.Add -= s.Rules.FrequencyPenalty*float32(n) + s.Rules.PresencePenalty
	}
	s.edits[token] = e
}

// forbidEnd takes the end tokens out until there are enough others.
func (s *ruled) forbidEnd() {
	if s.output >= s.MinTokens {
		return
	}
	for _, t := range s.StopTokens {
		s.edits[t] = gpu.LogitEdit{Token: t, Scale: 1, Add: float32(math.Inf(-1))}
	}
}

// apply adds to the changes of a step what the rules demand for the logits in a row. Every token has at most one edit,
// so that their order does not matter.
func (s *ruled) apply(row int32, to *gpu.EditLogits) {
	for _, e := range s.edits {
		e.Row = row
		to.Edits = append(to.Edits, e)
	}
	if s.matcher != nil && s.failure == nil {
		s.matcher.Mask(s.allowed, int(s.MaxTokens-s.output))
		to.Masks = append(to.Masks, gpu.LogitMask{Row: row, Allowed: s.allowed})
	}
}
