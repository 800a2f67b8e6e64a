package bus

import (
	"context"
	"encoding/binary"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/troupe-engine/troupe/schemas"
)

// Faults disturb what a node's actors send: requests and announcements, in process as over NATS, and the replies to
// requests. Without them, a message costs the look at one pointer more.
//
// What is switched on is a schemas.FaultPlan, which says what each kind does.

// faults is a plan at work.
type faults struct {
	plan *schemas.FaultPlan
	note func(*schemas.InjectedFault) // journals
	life context.Context              // ends when the plan does: nothing is held back any longer
	end  context.CancelFunc

	mu     sync.Mutex
	rules  []*faultRule
	held   map[string]chan struct{} // by subject: the message that waits for the next one; its turn
	recent []schemas.InjectedFault  // the last schemas.FaultsRecentMax, the oldest first
}

// faultRule is a rule at work. Guarded by faults.mu.
type faultRule struct {
	schemas.FaultRule
	pattern          []string
	seen             map[string]uint64 // messages by subject
	messages, struck uint64
}

// faultSubjectsMax bounds the subjects that a rule counts one by one: instance names come in messages. Further ones
// count together.
const faultSubjectsMax = 4096

// What can happen to a request or an announcement, and to a reply.
var (
	requestFaults = []schemas.FaultKind{schemas.FaultDrop, schemas.FaultDelay, schemas.FaultDuplicate, schemas.FaultReorder, schemas.FaultError}
	replyFaults   = []schemas.FaultKind{schemas.FaultDrop, schemas.FaultDelay, schemas.FaultError}
)

// SetFaults makes the node disturb its actors' messages from now on, in place of what it did before; nil ends that.
// Errors name the field of the plan.
func (n *Node) SetFaults(plan *schemas.FaultPlan) error {
	var f *faults
	if plan != nil {
		var err error
		if f, err = newFaults(plan, n.noteFault); err != nil {
			return err
		}
	}
	if before := n.faults.Swap(f); before != nil {
		before.end()
	}
	return nil
}

func newFaults(plan *schemas.FaultPlan, note func(*schemas.InjectedFault)) (*faults, error) {
	own := &schemas.FaultPlan{Seed: plan.Seed, Rules: slices.Clone(plan.Rules)} // a message stays as it is
	if err := own.Validate(); err != nil {
		return nil, err
	}
	f := &faults{plan: own, note: note, held: map[string]chan struct{}{}}
	f.life, f.end = context.WithCancel(context.Background())
	for _, rule := range own.Rules {
		f.rules = append(f.rules, &faultRule{FaultRule: rule, pattern: strings.Split(rule.Subject, "."),
			seen: map[string]uint64{}})
	}
	return f, nil
}

// noteFault journals a fault as an event of the actor whose message it is.
func (n *Node) noteFault(what *schemas.InjectedFault) {
	if n.Journaling() {
		actor, rest, _ := strings.Cut(strings.TrimPrefix(strings.TrimSuffix(what.Subject, schemas.ReplySuffix), schemas.SubjectPrefix), ".")
		if _, instance, one := strings.Cut(rest, "."); one {
			actor += "." + instance
		}
		n.Journal(schemas.JournalEntry{Actor: actor, Fault: what})
	}
}

// FaultsState says what the node does to its actors' messages, and what has happened so far.
func (n *Node) FaultsState() *schemas.FaultsState {
	st := &schemas.FaultsState{Node: n.id}
	f := n.faults.Load()
	if f == nil {
		return st
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	st.On, st.Seed, st.Recent = true, f.plan.Seed, slices.Clone(f.recent)
	for _, r := range f.rules {
		st.Rules = append(st.Rules, schemas.FaultRuleState{Rule: r.FaultRule, Messages: r.messages, Faults: r.struck})
	}
	return st
}

// ServeFaults starts the actor by which the node's faults are switched. Whoever may ask it can make every request fail.
func (n *Node) ServeFaults() error {
	a := NewActor(n, schemas.Faults.Service, schemas.Instance(n.id), "Disturbs its node's messages on request, to see what comes of it.")
	Handle(a, schemas.Faults, NewGroup(), func(_ context.Context, req *schemas.FaultsRequest) (*schemas.FaultsState, error) {
		switch {
		case req.Off && req.Plan != nil:
			return nil, schemas.Errorf(schemas.KindInvalid, "faults", "off is true beside a plan; expected one of them").WithParam("off")
		case req.Off || req.Plan != nil:
			if err := n.SetFaults(req.Plan); err != nil {
				return nil, err
			}
			n.log.Warn().Stringer("plan", req.Plan).Msg("faults are switched")
		}
		return n.FaultsState(), nil
	})
	return a.Start()
}

// Suffers reports whether a message that an actor got on subject suffers a fault that the actor has to carry out
// itself, and the fault's delay. Ask once for each message.
func (n *Node) Suffers(kind schemas.FaultKind, subject string) (delay time.Duration, hit bool) {
	f := n.faults.Load()
	if f == nil {
		return 0, false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.strike(subject, []schemas.FaultKind{kind}) {
		delay, hit = delay+s.rule.delay(), true
	}
	return delay, hit
}

func (r *faultRule) delay() time.Duration { return time.Duration(r.DelayUs) * time.Microsecond }

// stroke is a rule that hits a message.
type stroke struct {
	rule  *faultRule
	drawn time.Duration // part of the rule's delay
}

// strike draws which rules of some kinds hit the next message on a subject, and journals that. f.mu is held.
func (f *faults) strike(subject string, kinds []schemas.FaultKind) (hits []stroke) {
	for i, r := range f.rules {
		if !slices.Contains(kinds, r.Kind) || !matches(r.pattern, subject) {
			continue
		}
		counted := subject
		if len(r.seen) >= faultSubjectsMax && r.seen[subject] == 0 {
			counted = ""
		}
		r.seen[counted]++
		r.messages++
		rng := draws(f.plan.Seed, i, counted, r.seen[counted])
		if chance, part := rng.Float64(), rng.Float64(); chance < r.Probability && (r.CountMax == 0 || r.struck < uint64(r.CountMax)) {
			r.struck++
			s := stroke{r, time.Duration(part * float64(r.delay()))}
			hits = append(hits, s)
			f.keep(&schemas.InjectedFault{Kind: r.Kind, Subject: subject, Rule: int32(i), Message: r.seen[counted], DelayUs: s.told()})
		}
	}
	return hits
}

// draws are what decides about the message with a number on a subject.
func draws(seed uint64, rule int, subject string, number uint64) *rand.Rand {
	h := fnv.New64a()
	var head [16]byte
	binary.LittleEndian.PutUint64(head[:], uint64(rule))
	binary.LittleEndian.PutUint64(head[8:], number)
	_, _ = h.Write(head[:]) // a hash takes everything
	_, _ = h.Write([]byte(subject))
	return rand.New(rand.NewPCG(seed, h.Sum64()))
}

// told is the delay that the journal names, in microseconds.
func (s stroke) told() int64 {
	switch s.rule.Kind {
	case schemas.FaultDelay, schemas.FaultDuplicate:
		return s.drawn.Microseconds()
	}
	return s.rule.DelayUs // all of it, or how long at most
}

// keep remembers and journals a fault. f.mu is held.
func (f *faults) keep(what *schemas.InjectedFault) {
	if len(f.recent) == schemas.FaultsRecentMax {
		f.recent = append(f.recent[:0], f.recent[1:]...)
	}
	f.recent = append(f.recent, *what)
	f.note(what)
}

// matches reports whether a subject matches a pattern, given by its tokens.
func matches(pattern []string, subject string) bool {
	for i, want := range pattern {
		token, rest, more := strings.Cut(subject, ".")
		switch {
		case want == ">":
			return true
		case want != "*" && want != token:
			return false
		case !more:
			return i == len(pattern)-1
		}
		subject = rest
	}
	return false
}

// fate is what happens to one message.
type fate struct {
	drop    bool
	failure *schemas.Error
	late    time.Duration
	copies  []time.Duration // when further ones come
	hold    time.Duration   // wait for the next message on the subject, at most so long
	turn    chan struct{}   // closes when that one is through
	next    chan struct{}   // that of the message before, to be closed; or nil
}

// fate draws what happens to a message.
func (f *faults) fate(subject string, kinds []schemas.FaultKind) (d fate) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.strike(subject, kinds) {
		switch s.rule.Kind {
		case schemas.FaultDrop:
			d.drop = true
		case schemas.FaultDelay:
			d.late += s.drawn
		case schemas.FaultDuplicate:
			d.copies = append(d.copies, s.drawn)
		case schemas.FaultReorder:
			d.hold = max(d.hold, s.rule.delay())
		case schemas.FaultError:
			d.failure = schemas.Errorf(schemas.KindUnavailable, "fault", "%s failed on request: rule %d, %q", subject, slices.Index(f.rules, s.rule), s.rule.String()).
				WithHint("`troupe faults off` ends that")
		}
	}
	f.line(&d, subject)
	return d
}

// line puts a message that is held back in line, and finds out who waits for this one. f.mu is held.
func (f *faults) line(d *fate, subject string) {
	if d.next = f.held[subject]; d.next != nil {
		delete(f.held, subject)
	}
	if d.hold > 0 && len(f.held) < faultSubjectsMax {
		d.turn = make(chan struct{})
		f.held[subject] = d.turn
	}
}

// passed lets go whoever waits for this message.
func (d *fate) passed() {
	if d.next != nil {
		close(d.next)
	}
}

// patient waits as long as the message is held back.
func (d *fate) patient(ctx, life context.Context) {
	if d.late == 0 && d.turn == nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(life, cancel)()
	sleep(ctx, d.late)
	if d.turn == nil {
		return
	}
	hold := time.NewTimer(d.hold)
	defer hold.Stop()
	select {
	case <-d.turn:
	case <-hold.C:
	case <-ctx.Done():
	}
}

// copyWait bounds the wait for the reply to a copy, which nobody reads.
const copyWait = time.Second

// request sends one attempt of a request through the faults. An answer that never comes is context.DeadlineExceeded, after
// the time that the sender waits for one.
func request[R any](ctx context.Context, f *faults, subject string, wait time.Duration, send func(context.Context) (R, error)) (reply R, err error) {
	var none R
	d := f.fate(subject, requestFaults)
	defer d.passed()
	for _, after := range d.copies {
		go func() { // it arrives whenever it does, also after the caller has moved on
			late, cancel := context.WithTimeout(f.life, after+copyWait)
			defer cancel()
			if sleep(late, after); late.Err() == nil {
				_, _ = send(late)
			}
		}()
	}
	if d.drop {
		return none, f.lost(ctx, wait)
	}
	d.patient(ctx, f.life)
	if d.failure != nil {
		return none, d.failure
	}
	if reply, err = send(ctx); err != nil {
		return reply, err
	}
	back := f.fate(subject+schemas.ReplySuffix, replyFaults)
	if back.drop {
		return none, f.lost(ctx, wait)
	}
	back.patient(ctx, f.life)
	if back.failure != nil {
		return none, back.failure
	}
	return reply, nil
}

// lost waits for an answer that does not come, until the faults are switched off.
func (f *faults) lost(ctx context.Context, wait time.Duration) error {
	waiting, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	select {
	case <-waiting.Done():
	case <-f.life.Done():
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return context.DeadlineExceeded
}

// publish sends an announcement through the faults. It never waits.
func (f *faults) publish(m *nats.Msg, send func(*nats.Msg) error) error {
	return f.pass(m.Subject, requestFaults, func() error { return send(m) })
}

// pass lets a message through the faults of some kinds. It never waits: what is late is sent on another goroutine.
func (f *faults) pass(subject string, kinds []schemas.FaultKind, send func() error) error {
	d := f.fate(subject, kinds)
	for _, after := range d.copies {
		time.AfterFunc(after, func() { _ = send() })
	}
	if d.drop || d.failure != nil {
		d.passed()
		if d.failure != nil {
			return d.failure
		}
		return nil
	}
	if d.late > 0 || d.turn != nil {
		go func() {
			defer d.passed()
			d.patient(f.life, f.life)
			_ = send()
		}()
		return nil
	}
	defer d.passed()
	return send()
}

// LossyNetwork is a plan that drops, duplicates and delays everything that actors send each other, and their replies, each
// with its probability.
func LossyNetwork(seed uint64, drop, duplicate, delay float64, delayMax time.Duration) *schemas.FaultPlan {
	all := schemas.SubjectPrefix + ">"
	plan := &schemas.FaultPlan{Seed: seed}
	for _, r := range []schemas.FaultRule{{Kind: schemas.FaultDrop, Subject: all, Probability: drop}, {Kind: schemas.FaultDuplicate, Subject: all, Probability: duplicate, DelayUs: delayMax.Microseconds()},
		{Kind: schemas.FaultDelay, Subject: all, Probability: delay, DelayUs: delayMax.Microseconds()}} {
		if r.Probability > 0 {
			plan.Rules = append(plan.Rules, r)
		}
	}
	return plan
}
