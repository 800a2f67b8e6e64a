package scheduler

import "github.com/troupe-engine/troupe/schemas"

// Constants of the deadline policy.
const (
	// DeadlineNoneNs is the deadline, from its arrival, of a request that has none, or one that is further away.
	DeadlineNoneNs = 60_000_000_000
	// deadlineFarNs bounds deadlines, from the arrival.
	deadlineFarNs = 365 * 24 * 3_600_000_000_000
	// deadlineMissedNs comes behind every deadline that can still be met.
	deadlineMissedNs = 2 * deadlineFarNs
	// paceSamplesMax is over how many answers the pace is averaged, about.
	paceSamplesMax = 16
	paceMaxNs      = 1_000_000_000
)

// Deadline serves the earliest deadline first. A request that cannot make it any more yields to all that can: its
// predicted time does not fit into what is left. That is what the steps of its prompt and its predicted output cost, or,
// where costs are not known, its predicted output times the pace of recent answers. It still runs when nobody
// else needs the place, and ends with an error at its deadline. Requests without a deadline, or with one that is further
// away, are served as if it were DeadlineNoneNs after they came, so none starves.
type Deadline struct {
	predict     predictor
	paceNs      int64 // per output token of one sequence, from its start to its end
	paceSamples int64
}

// Name is "deadline".
func (*Deadline) Name() string { return "deadline" }

// Key is the deadline, behind all others if it cannot be met.
func (p *Deadline) Key(s *Sequence, nowNs int64) int64 {
	d := s.request.DeadlineMs
	if d == 0 {
		return s.arrivedNs + DeadlineNoneNs
	}
	deadline := s.arrivedNs + deadlineFarNs
	if d < deadline/1_000_000 {
		deadline = d * 1_000_000
	}
	if nowNs+p.remainingNs(s) > deadline {
		return s.arrivedNs + deadlineMissedNs
	}
	return min(deadline, s.arrivedNs+DeadlineNoneNs)
}

// remainingNs is how long s is expected to take from now on: by what steps cost where that is known, and otherwise by the
// pace of recent answers.
func (p *Deadline) remainingNs(s *Sequence) int64 {
	if e := &p.predict.expect; e.known() {
		return e.remainingNs(p.predict.left(s))
	}
	return p.predict.remaining(s) * p.paceNs
}

// Refresh looks at what a step costs with those that run; what is left of a deadline changes with time, too.
func (p *Deadline) Refresh(_ int64, running, _ []*Sequence) { p.predict.expect.refresh(running) }

// Costs are what answers' times are foretold from.
func (p *Deadline) Costs(c *schemas.StepCosts, cfg *Config) { p.predict.expect.set(c, cfg) }

// Arrived remembers the user.
func (p *Deadline) Arrived(s *Sequence, _ int64) { p.predict.arrived(s) }

// Planned changes nothing.
func (*Deadline) Planned(*Sequence, int32, int32, int64) {}

// Ended learns the length and the pace of the answer.
func (p *Deadline) Ended(s *Sequence, nowNs int64) {
	p.predict.ended(s)
	if n := int64(s.OutputTokens()); n > 0 && s.startedNs > 0 && nowNs > s.startedNs {
		p.paceSamples = min(p.paceSamples+1, paceSamplesMax)
		p.paceNs += (min((nowNs-s.startedNs)/n, paceMaxNs) - p.paceNs) / p.paceSamples
	}
}
