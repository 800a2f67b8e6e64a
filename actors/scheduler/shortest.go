package scheduler

import "github.com/troupe-engine/troupe/schemas"

// ShortestAgingNs is what one token of work less is worth in waiting time.
const ShortestAgingNs = 20_000_000

// Shortest serves the sequence with the least predicted work left first (shortest remaining processing time). The
// length of an answer is predicted by its user's earlier ones. Every output token of work is worth
// ShortestAgingNs of waiting: a request is overtaken only by those that arrive within that time for each token
// of its max_tokens, so none starves.
type Shortest struct{ predict predictor }

// Name is "shortest".
func (*Shortest) Name() string { return "shortest" }

// Key is the arrival time, later by what is left to do.
func (p *Shortest) Key(s *Sequence, _ int64) int64 {
	return s.arrivedNs + p.predict.remaining(s)*ShortestAgingNs
}

// Refresh looks at what a step costs with those that run; what is left changes with every token, too.
func (p *Shortest) Refresh(_ int64, running, _ []*Sequence) { p.predict.expect.refresh(running) }

// Costs say how many prompt tokens are as much work as one of output.
func (p *Shortest) Costs(c *schemas.StepCosts, cfg *Config) { p.predict.expect.set(c, cfg) }

// Arrived remembers the user.
func (p *Shortest) Arrived(s *Sequence, _ int64) { p.predict.arrived(s) }

// Planned changes nothing.
func (*Shortest) Planned(*Sequence, int32, int32, int64) {}

// Ended learns from the answer's length.
func (p *Shortest) Ended(s *Sequence, _ int64) { p.predict.ended(s) }
