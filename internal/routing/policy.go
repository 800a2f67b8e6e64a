package routing

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/troupe-engine/troupe/schemas"
)

// Candidate is a replica that can take a request, as a policy sees it.
type Candidate struct {
	*Replica
	Overlap  int32  // of the prompt's blocks, those the replica probably has
	Uncached int64  // prompt tokens it would have to compute
	Requests int32  // waiting and running there, as far as is known
	Queued   int64  // prompt tokens to be computed before this request's
	Routed   uint64 // requests this router has sent there, ever

	at *replica
}

// Policy chooses a replica for a request. It may keep state, but no clock and no chance beyond its seed.
type Policy interface {
	Name() string
	// Choose returns the index of one of at least two candidates, which are in the order of their names. It
	// keeps neither.
	Choose(q *Request, candidates []Candidate) int
}

var policies = map[string]func(seed uint64) Policy{
	"round-robin":  func(uint64) Policy { return &RoundRobin{} },
	"least-loaded": func(uint64) Policy { return LeastLoaded{} },
	"two-choices":  NewTwoChoices,
	"prefix":       func(uint64) Policy { return DefaultPrefix() },
}

// RegisterPolicy makes a policy selectable by its name. Call it from an init function.
func RegisterPolicy(name string, make func(seed uint64) Policy) {
	if _, taken := policies[name]; taken {
		panic("routing: policy " + name + " is registered already")
	}
	policies[name] = make
}

// Policies lists the registered names, sorted.
func Policies() []string {
	names := make([]string, 0, len(policies))
	for name := range policies {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// NewPolicy makes a registered policy or, for a name that starts with "nats:", one in another process.
func NewPolicy(name string, seed uint64) (Policy, error) {
	if strings.HasPrefix(name, ExternalPrefix) {
		return parseExternal(name, seed)
	}
	if make, ok := policies[name]; ok {
		return make(seed), nil
	}
	return nil, schemas.Errorf(schemas.KindNotFound, "route", "no routing policy %.40q", name).
		WithParam("routing").WithHint("choose one of %s, or %sNAME for one that answers on %sNAME", strings.Join(Policies(), ", "), ExternalPrefix, schemas.RouteSubjectPrefix)
}

// RoundRobin takes one after the other, whatever they have to do.
type RoundRobin struct{ last schemas.Instance }

// Name is "round-robin".
func (*RoundRobin) Name() string { return "round-robin" }

// Choose takes the first after the last one chosen, by name: replicas may come and go in between.
func (p *RoundRobin) Choose(_ *Request, candidates []Candidate) int {
	next := max(slices.IndexFunc(candidates, func(c Candidate) bool { return c.Name > p.last }), 0)
	p.last = candidates[next].Name
	return next
}

// LeastLoaded takes the replica with the smallest share of its places taken.
type LeastLoaded struct{}

// Name is "least-loaded".
func (LeastLoaded) Name() string { return "least-loaded" }

// Choose compares loads.
func (LeastLoaded) Choose(_ *Request, candidates []Candidate) int {
	best := 0
	for i := range candidates {
		if compareLoad(&candidates[i], &candidates[best]) < 0 {
			best = i
		}
	}
	return best
}

// compareLoad orders by load; equals by who has got less so far, so that idle replicas share the work.
func compareLoad(a, b *Candidate) int {
	return cmp.Or(cmp.Compare(a.load(), b.load()), cmp.Compare(a.Queued, b.Queued), cmp.Compare(a.Routed, b.Routed))
}

// TwoChoices draws two replicas and takes the one with less load: nearly as even as LeastLoaded, and without the
// herds that it makes where several gateways see the same old reports (Mitzenmacher 2001).
type TwoChoices struct{ rng *rand.Rand }

// NewTwoChoices makes a TwoChoices that draws by seed.
func NewTwoChoices(seed uint64) Policy {
	return &TwoChoices{rand.New(rand.NewPCG(seed, 0x74776f2d63686f69))}
}

// Name is "two-choices".
func (*TwoChoices) Name() string { return "two-choices" }

// Choose draws two that differ.
func (p *TwoChoices) Choose(_ *Request, candidates []Candidate) int {
	a := p.rng.IntN(len(candidates))
	b := p.rng.IntN(len(candidates) - 1)
	if b >= a {
		b++
	}
	if compareLoad(&candidates[b], &candidates[a]) < 0 {
		return b
	}
	return a
}

// Prefix takes the replica with the least expected work before the first token, in prompt tokens to compute:
// the request's own that are not cached there, those queued before it, what running sequences slow it down,
// and what waiting for a place or for blocks costs.
type Prefix struct {
	RunningTokens int64 // what a running sequence costs: its share of the steps
	PlaceTokens   int64 // what waiting for a place costs, per request that is to end before
}

// DefaultPrefix is the policy "prefix".
func DefaultPrefix() Prefix { return Prefix{RunningTokens: 16, PlaceTokens: 512} }

// Name is "prefix".
func (Prefix) Name() string { return "prefix" }

// Choose compares costs; equals by load.
func (p Prefix) Choose(q *Request, candidates []Candidate) int {
	best, lowest := 0, int64(0)
	for i := range candidates {
		cost := p.cost(q, &candidates[i])
		if i == 0 || cost < lowest || cost == lowest && compareLoad(&candidates[i], &candidates[best]) < 0 {
			best, lowest = i, cost
		}
	}
	return best
}

func (p Prefix) cost(q *Request, c *Candidate) int64 {
	running := min(int64(c.Requests), int64(c.SequencesMax))
	cost := c.Uncached + c.Queued + p.RunningTokens*running
	if over := int64(c.Requests) + 1 - int64(c.SequencesMax); over > 0 {
		cost += p.PlaceTokens * over
	}
	if c.BlockSize > 0 { // blocks that have to be freed by others first
		if missing := c.Uncached/int64(c.BlockSize) + 1 - int64(c.Load.FreeBlocks); missing > 0 {
			cost += missing * int64(c.BlockSize)
		}
	}
	return cost
}
