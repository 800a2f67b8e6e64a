package scheduler

import (
	"cmp"
	"slices"
	"sort"
	"strings"

	"github.com/troupe-engine/troupe/schemas"
)

// Policy orders sequences by a key: the smaller one goes first, and of equal keys the one that arrived first.
// The order decides who gets tokens and blocks first and, from its end, who loses blocks when they run out.
//
// A policy is part of the core: no clock, goroutine, randomness, I/O or map order. Use integers: floating-point
// sums may differ between machines. One instance belongs to one core.
type Policy interface {
	Name() string
	// Key is asked when s arrives or returns to the queue and, if the policy is Dynamic, for all sequences before
	// each step.
	Key(s *Sequence, nowNs int64) int64
}

// Dynamic is a policy whose keys change while sequences wait and run. The order changes at one moment only, right
// before the rows of a step are chosen. Because it may change its mind, a sequence that waits takes no blocks
// away from running ones under it, unless it is Preemptive.
type Dynamic interface {
	Policy
	// Refresh comes before the keys are asked anew. The slices are the core's: they are not kept or changed.
	Refresh(nowNs int64, running, waiting []*Sequence)
}

// Preemptive is a Dynamic policy under which waiting sequences may take the blocks of running ones behind them.
type Preemptive interface {
	Dynamic
	MayPreempt() bool
}

// Observer is a policy that learns from what happens to sequences. A policy that is chosen while sequences are
// in the engine hears of their arrival first, in order of arrival.
type Observer interface {
	Arrived(s *Sequence, nowNs int64)
	// Planned says that the next step computes so many prompt tokens of s and samples so many output tokens. What
	// was computed before and is computed again, after a preemption, does not count, nor do cached tokens.
	Planned(s *Sequence, prompt, output int32, nowNs int64)
	// Ended comes last; s.Finish says how.
	Ended(s *Sequence, nowNs int64)
}

// Configurable is a policy that depends on the replica's limits.
type Configurable interface{ Configure(cfg *Config) }

// FCFS serves in order of arrival.
type FCFS struct{}

// Name is "fcfs".
func (FCFS) Name() string { return "fcfs" }

// Key is the number of the arrival.
func (FCFS) Key(s *Sequence, _ int64) int64 { return int64(s.arrival) }

// AgingNs is what one unit of priority is worth in waiting time: a request is overtaken only by better
// ones that arrive within AgingNs times the difference, so none starves.
const AgingNs = 10_000_000_000

// Priority serves lower Priority values first and lets better requests take the blocks of worse ones
// that run. Waiting makes up for priority at the rate of AgingNs.
type Priority struct{}

// Name is "priority".
func (Priority) Name() string { return "priority" }

// Key is the arrival time shifted by priority.
func (Priority) Key(s *Sequence, _ int64) int64 {
	// Priorities are clamped so that the product cannot overflow: ±10⁶ is over 100 days of waiting.
	p := int64(max(-1_000_000, min(s.Priority(), 1_000_000)))
	return s.arrivedNs + p*AgingNs
}

var policies = map[string]func() Policy{
	"fcfs":     func() Policy { return FCFS{} },
	"priority": func() Policy { return Priority{} },
	"shortest": func() Policy { return &Shortest{} },
	"fair":     func() Policy { return &Fair{} },
	"deadline": func() Policy { return &Deadline{} },
	"prefix":   func() Policy { return &Prefix{} },
}

// RegisterPolicy makes a policy selectable by its name; fresh makes an instance for one core. Call it from an
// init function.
func RegisterPolicy(name string, fresh func() Policy) {
	if _, taken := policies[name]; taken || name == "" || strings.ContainsAny(name, ": \t\r\n") {
		panic("scheduler: policy name " + name + " is registered already, empty, or has a colon or space")
	}
	policies[name] = fresh
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

// PolicyByName makes a policy: a registered one, or, for a name that starts with "nats:", one that runs in
// another process (see External).
func PolicyByName(name string) (Policy, error) {
	if fresh, ok := policies[name]; ok {
		return fresh(), nil
	}
	if rest, ok := strings.CutPrefix(name, ExternalPrefix); ok {
		return parseExternal(rest)
	}
	return nil, schemas.Errorf(schemas.KindNotFound, "policy", "no scheduling policy %.40q", name).
		WithParam("policy").WithHint("choose one of %s, or %sNAME for a process that answers on %sNAME", strings.Join(Policies(), ", "),
		ExternalPrefix, schemas.RankSubjectPrefix)
}

// before is the order of all queues.
func before(a, b *Sequence) bool { return compare(a, b) < 0 }

func compare(a, b *Sequence) int {
	if o := cmp.Compare(a.key, b.key); o != 0 {
		return o
	}
	return cmp.Compare(a.arrival, b.arrival)
}

// setPolicy puts p in charge of all that is queued and running.
func (c *Core) setPolicy(p Policy) {
	c.policy = p
	c.dynamic, _ = p.(Dynamic)
	c.external, _ = p.(*External)
	introduce(p, &c.cfg, c.arrivalOrder(), c.now)
	c.rekey()
}

// introduce tells a policy the limits and who is there already.
func introduce(p Policy, cfg *Config, present []*Sequence, nowNs int64) {
	if q, ok := p.(Configurable); ok {
		q.Configure(cfg)
	}
	tellCosts(p, cfg)
	o, observes := p.(Observer)
	for _, s := range present {
		s.note, s.rank = 0, unranked
		if observes {
			o.Arrived(s, nowNs)
		}
	}
}

// arrivalOrder lists all sequences by arrival.
func (c *Core) arrivalOrder() []*Sequence {
	all := slices.Concat(c.running, c.waiting)
	slices.SortFunc(all, func(a, b *Sequence) int { return cmp.Compare(a.arrival, b.arrival) })
	return all
}

// rekey asks for every key anew and sorts the queues. They are nearly in order: sorting costs little.
func (c *Core) rekey() {
	if c.dynamic != nil {
		c.dynamic.Refresh(c.now, c.running, c.waiting)
	}
	for _, queue := range [][]*Sequence{c.running, c.waiting} {
		for _, s := range queue {
			s.key = c.policy.Key(s, c.now)
		}
		slices.SortFunc(queue, compare)
	}
}

// mayPreempt reports whether s may take the blocks of running sequences behind it.
func (c *Core) mayPreempt(s *Sequence) bool {
	if c.dynamic == nil || s.slot != noSlot {
		return true
	}
	p, ok := c.dynamic.(Preemptive)
	return ok && p.MayPreempt()
}

// insert puts s at its place in a queue that is in order.
func (c *Core) insert(queue []*Sequence, s *Sequence) []*Sequence {
	s.key = c.policy.Key(s, c.now)
	at := sort.Search(len(queue), func(i int) bool { return before(s, queue[i]) })
	return slices.Insert(queue, at, s)
}

func remove(queue []*Sequence, s *Sequence) []*Sequence {
	if at := slices.Index(queue, s); at >= 0 {
		return slices.Delete(queue, at, at+1)
	}
	return queue
}
