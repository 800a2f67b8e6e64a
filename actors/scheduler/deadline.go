package scheduler

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
// predicted output times the pace of recent answers does not fit into what is left. It still runs when nobody
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
	if nowNs+p.predict.remaining(s)*p.paceNs > deadline {
		return s.arrivedNs + deadlineMissedNs
	}
	return min(deadline, s.arrivedNs+DeadlineNoneNs)
}

// Refresh has nothing to prepare: what is left of a deadline changes with time.
func (*Deadline) Refresh(int64, []*Sequence, []*Sequence) {}

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
