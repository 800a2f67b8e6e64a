package scheduler

import (
	"cmp"
	"math"
	"slices"
)

// Weights of the fair policy's virtual tokens, as in the paper, and what one is worth in waiting time.
const (
	FairPromptWeight = 1
	FairOutputWeight = 2
	FairAgingNs      = 10_000_000
)

// Fair shares the engine between users: the one who has received the least service goes first. Service is a
// counter of virtual tokens for each user, charged as tokens are computed, and a user who comes back starts no
// lower than the least-served one present: being away saves nothing up (the virtual token counter of Sheng et al.,
// "Fairness in Serving Large Language Models", arXiv 2401.00588). Two things are added: prompts that would start in
// the same step are charged in advance, so that one user does not take all slots at once; and each virtual token
// is worth FairAgingNs of waiting, so that a stream of new users cannot starve an old one.
type Fair struct {
	users users[int64] // virtual tokens
	floor int64        // the last least-served user's, for those who come to an empty engine
	order []*Sequence  // scratch
	ahead map[string]int64
}

// Name is "fair".
func (*Fair) Name() string { return "fair" }

// Key is the user's virtual tokens, with the prompts ahead of this one, and the arrival time.
func (p *Fair) Key(s *Sequence, _ int64) int64 {
	counter := s.note
	if u := p.users.get(s.User()); u != nil {
		counter += *u
	}
	// A counter would overflow after 10¹¹ tokens more than the least-served user's.
	return s.arrivedNs + min(counter, math.MaxInt64/(4*FairAgingNs))*FairAgingNs
}

// Refresh charges every waiting sequence with the prompts of its user's earlier ones.
func (p *Fair) Refresh(_ int64, running, waiting []*Sequence) {
	if p.ahead == nil {
		p.ahead = map[string]int64{}
	}
	clear(p.ahead)
	for _, s := range running {
		s.note = 0
	}
	p.order = append(p.order[:0], waiting...)
	slices.SortFunc(p.order, func(a, b *Sequence) int { return cmp.Compare(a.arrival, b.arrival) })
	for _, s := range p.order {
		s.note = p.ahead[s.User()]
		p.ahead[s.User()] += int64(max(0, s.PromptTokens()-s.reached)) * FairPromptWeight
	}
	clear(p.order) // keeps no prompt alive
}

// Arrived lifts the counter of a user who was away.
func (p *Fair) Arrived(s *Sequence, _ int64) {
	u, _ := p.users.arrive(s.User())
	if u.alive == 1 {
		u.of = max(u.of, p.least(u))
	}
}

// least is the smallest counter of the users present, but for u. The order of the map does not matter to it.
func (p *Fair) least(but *user[int64]) int64 {
	least, found := int64(math.MaxInt64), false
	for _, u := range p.users.of {
		if u != but && u.alive > 0 {
			least, found = min(least, u.of), true
		}
	}
	if !found {
		return p.floor
	}
	return least
}

// Planned charges the user.
func (p *Fair) Planned(s *Sequence, prompt, output int32, _ int64) {
	if u := p.users.get(s.User()); u != nil {
		*u += int64(prompt)*FairPromptWeight + int64(output)*FairOutputWeight
	}
}

// Ended lets the user go with the last of its sequences.
func (p *Fair) Ended(s *Sequence, _ int64) {
	p.users.leave(s.User())
	if u := p.users.of[s.User()]; u != nil && u.alive == 0 {
		p.floor = max(p.floor, u.of) // the last to leave an engine that is empty then
	}
}
