package scheduler

import "github.com/troupe-engine/troupe/schemas"

// predictor guesses how long an answer will be: the running mean of its user's answers, or of everybody's while
// nothing is known of the user, and never more than max_tokens.
type predictor struct {
	users  users[mean]
	all    mean
	expect expectation
}

// mean is a running mean in 1/1024 tokens: of all samples at first, then an exponential one over the last
// meanSamplesMax or so.
type mean struct{ scaled, samples int64 }

const (
	meanScale      = 1024
	meanSamplesMax = 32
)

func (m *mean) add(tokens int32) {
	m.samples = min(m.samples+1, meanSamplesMax)
	m.scaled += (int64(tokens)*meanScale - m.scaled) / m.samples
}

func (p *predictor) arrived(s *Sequence) { p.users.arrive(s.User()) }

// ended learns the length of a complete answer. How long one that was cut off would have become is not known.
func (p *predictor) ended(s *Sequence) {
	if u := p.users.get(s.User()); u != nil && !s.request.Embed && (s.finish == schemas.FinishStop || s.finish == schemas.FinishLength) {
		u.add(s.OutputTokens())
		p.all.add(s.OutputTokens())
	}
	p.users.leave(s.User())
}

// output predicts the output tokens of s in all, 1 to its limit. An answer that is longer than predicted is
// taken for half done.
func (p *predictor) output(s *Sequence) int32 {
	guess := int64(s.maxTokens)
	if u := p.users.get(s.User()); u != nil && u.samples > 0 {
		guess = (u.scaled + meanScale/2) / meanScale
	} else if p.all.samples > 0 {
		guess = (p.all.scaled + meanScale/2) / meanScale
	}
	if had := int64(s.OutputTokens()); had >= guess {
		guess = 2 * had
	}
	return int32(max(1, min(guess, int64(s.maxTokens))))
}

// left predicts the tokens that are left to compute for s.
func (p *predictor) left(s *Sequence) (prompt, output int32) {
	return max(0, s.PromptTokens()-s.planned), max(0, p.output(s)-s.OutputTokens())
}

// remaining predicts what is left to do for s, in output tokens; so many prompt tokens as cost the same count as one.
func (p *predictor) remaining(s *Sequence) int64 {
	prompt, output := p.left(s)
	per := p.expect.promptTokensPerOutput()
	return int64(output) + (int64(prompt)+per-1)/per
}

// prefillPerOutput is how many prompt tokens cost about as much as one output token, where costs are not known: a step
// computes hundreds of the former and one of the latter for each sequence.
const prefillPerOutput = 16
