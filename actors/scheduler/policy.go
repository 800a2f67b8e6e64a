package scheduler

import (
	"cmp"
	"slices"
	"sort"
	"strings"

	"github.com/troupe-engine/troupe/schemas"
)

// Policy orders sequences. The order decides who gets tokens and blocks first and, from its end, who
// loses blocks when they run out. It must be a strict weak order that a sequence's progress does not
// change; break ties by Arrival.
type Policy interface {
	Name() string
	// Before reports whether a is served before b.
	Before(a, b *Sequence) bool
}

// FCFS serves in order of arrival.
type FCFS struct{}

// Name is "fcfs".
func (FCFS) Name() string { return "fcfs" }

// Before compares arrivals.
func (FCFS) Before(a, b *Sequence) bool { return a.arrival < b.arrival }

// AgingNs is what one unit of priority is worth in waiting time: a request is overtaken only by better
// ones that arrive within AgingNs times the difference, so none starves.
const AgingNs = 10_000_000_000

// Priority serves lower Priority values first and lets better requests take the blocks of worse ones
// that run. Waiting makes up for priority at the rate of AgingNs.
type Priority struct{}

// Name is "priority".
func (Priority) Name() string { return "priority" }

// Before compares arrival times shifted by priority.
func (Priority) Before(a, b *Sequence) bool {
	if o := cmp.Compare(agedArrival(a), agedArrival(b)); o != 0 {
		return o < 0
	}
	return a.arrival < b.arrival
}

func agedArrival(s *Sequence) int64 {
	// Priorities are clamped so that the product cannot overflow: ±10⁶ is over 100 days of waiting.
	p := int64(max(-1_000_000, min(s.Priority(), 1_000_000)))
	return s.arrivedNs + p*AgingNs
}

var policies = map[string]Policy{"fcfs": FCFS{}, "priority": Priority{}}

// RegisterPolicy makes a policy selectable by its name. Call it from an init function.
func RegisterPolicy(p Policy) {
	if _, taken := policies[p.Name()]; taken {
		panic("scheduler: policy " + p.Name() + " is registered already")
	}
	policies[p.Name()] = p
}

// Policies lists the registered names, sorted.
func Policies() []string {
	names := make([]string, 0, len(policies))
	for name := range policies {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// PolicyByName finds a registered policy.
func PolicyByName(name string) (Policy, error) {
	if p, ok := policies[name]; ok {
		return p, nil
	}
	return nil, schemas.Errorf(schemas.KindNotFound, "policy", "no scheduling policy %.40q", name).
		WithParam("policy").WithHint("choose one of %s", strings.Join(Policies(), ", "))
}

func (c *Core) setPolicy(p Policy) {
	c.policy = p
	for _, queue := range [][]*Sequence{c.waiting, c.running} {
		slices.SortFunc(queue, func(a, b *Sequence) int {
			if p.Before(a, b) {
				return -1
			}
			return 1
		})
	}
}

// insert puts s at its place in a queue that is in policy order.
func (c *Core) insert(queue []*Sequence, s *Sequence) []*Sequence {
	at := sort.Search(len(queue), func(i int) bool { return c.policy.Before(s, queue[i]) })
	return slices.Insert(queue, at, s)
}

func remove(queue []*Sequence, s *Sequence) []*Sequence {
	if at := slices.Index(queue, s); at >= 0 {
		return slices.Delete(queue, at, at+1)
	}
	return queue
}
