package scheduler

import (
	"hash/fnv"
	"math"
	"net/url"
	"strings"
	"time"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

// ExternalPrefix starts the names of policies in other processes.
const ExternalPrefix = "nats:"

const (
	// RankLimitDefault is how long a policy in another process has for an answer.
	RankLimitDefault = 5 * time.Millisecond
	rankLimitMax     = 10 * time.Second
	// rankPauseNs is how long a policy that is gone, or failed rankFailuresMax times running, is left alone.
	rankPauseNs     = 100_000_000
	rankFailuresMax = 3
	// rankLostNs is when a question is given up whose end nobody reported.
	rankLostNs = 1_000_000_000

	unranked int32 = -1
	// unrankedKey is behind every rank.
	unrankedKey = int64(1) << 40
)

// External is a policy in another process, which is asked over NATS by schemas.Rank. Its name says how:
//
//	nats:NAME[?limit=5ms][&fallback=fcfs][&wait][&json][&preempt]
//
// NAME is the last token of inf.v1.policy.rank.NAME, or a whole subject of one's own.
//
// The core makes a question (Effects.Rank) and hears the answer as an event (Ranked), so it stays pure. By default it
// goes on meanwhile: a step is chosen in the order that came last, which is about one step old, and sequences
// that came since go behind those it has. With wait, no step is chosen before the answer or the limit.
//
// A policy that is late, gone or answers nonsense is replaced by its fallback until it answers again.
type External struct {
	name, subject       string
	limit               time.Duration
	wait, json, preempt bool
	fallback            Policy

	asked       *question
	stamp       rankStamp // of the last question
	failures    int       // running
	pausedUntil int64     // nanoseconds
	state       schemas.RankState
}

// question is what a policy has yet to answer.
type question struct {
	number  uint64
	rows    []*Sequence
	askedNs int64
}

// rankStamp changes whenever there is something new to ask about.
type rankStamp struct {
	step               schemas.StepID
	arrivals, finished uint64
}

// Question is a RankRequest and how to ask it.
type Question struct {
	Request *schemas.RankRequest
	Subject string
	JSON    bool
	Limit   time.Duration
	// Wait says that the answer must be the next event, as with Reserve.
	Wait   bool
	Shadow bool
}

func parseExternal(rest string) (*External, error) {
	bad := func(format string, args ...any) error {
		return schemas.Errorf(schemas.KindInvalid, "policy", format, args...).WithParam("policy").
			WithHint("write nats:NAME[?limit=5ms][&fallback=fcfs][&wait][&json][&preempt]")
	}
	e := &External{name: ExternalPrefix + rest, limit: RankLimitDefault, fallback: FCFS{}}
	name, options, _ := strings.Cut(rest, "?")
	subject, invalid := RankSubject(name)
	if invalid != nil {
		return nil, invalid
	}
	e.subject = subject
	set, err := url.ParseQuery(options)
	if err != nil || len(rest) > 512 {
		return nil, bad("the policy's options %.80q cannot be read", options)
	}
	for key, values := range set {
		value := values[len(values)-1]
		flag := value == "" || value == "true" || value == "1"
		switch key {
		case "limit":
			d, err := time.ParseDuration(value)
			if err != nil || d <= 0 || d > rankLimitMax {
				return nil, bad("limit is %.20q; expected a duration up to %s", value, rankLimitMax)
			}
			e.limit = d
		case "fallback":
			fresh, ok := policies[value]
			if !ok {
				return nil, bad("fallback is %.40q; expected one of %s", value, strings.Join(Policies(), ", "))
			}
			e.fallback = fresh()
		case "wait":
			e.wait = flag
		case "json":
			e.json = flag
		case "preempt":
			e.preempt = flag
		default:
			return nil, bad("there is no option %.40q of a policy", key)
		}
	}
	e.state = schemas.RankState{Subject: e.subject, Fallback: e.fallback.Name(), Limit: e.limit.Nanoseconds(), Reason: "it has not answered yet"}
	return e, nil
}

// RankSubject is where a policy is asked, see bus.OutsideSubject.
func RankSubject(name string) (string, error) {
	return bus.OutsideSubject(schemas.RankSubjectPrefix, name, "policy")
}

// Name is how the policy was chosen.
func (e *External) Name() string { return e.name }

// Key is the place in the last order or, while there is none to rely on, the fallback's key.
func (e *External) Key(s *Sequence, nowNs int64) int64 {
	switch {
	case !e.state.Active:
		return e.fallback.Key(s, nowNs)
	case s.rank == unranked:
		return unrankedKey + int64(s.arrival)
	}
	return int64(s.rank)
}

// Refresh refreshes the fallback, if it is in charge.
func (e *External) Refresh(nowNs int64, running, waiting []*Sequence) {
	if d, ok := e.fallback.(Dynamic); ok && !e.state.Active {
		d.Refresh(nowNs, running, waiting)
	}
}

// MayPreempt is the option preempt.
func (e *External) MayPreempt() bool { return e.preempt }

// Configure, Arrived, Planned and Ended tell the fallback, so that it is ready.
func (e *External) Configure(cfg *Config) {
	if p, ok := e.fallback.(Configurable); ok {
		p.Configure(cfg)
	}
}

// Costs tells the fallback.
func (e *External) Costs(_ *schemas.StepCosts, cfg *Config) { tellCosts(e.fallback, cfg) }

// Arrived tells the fallback.
func (e *External) Arrived(s *Sequence, nowNs int64) {
	if o, ok := e.fallback.(Observer); ok {
		o.Arrived(s, nowNs)
	}
}

// Planned tells the fallback.
func (e *External) Planned(s *Sequence, prompt, output int32, nowNs int64) {
	if o, ok := e.fallback.(Observer); ok {
		o.Planned(s, prompt, output, nowNs)
	}
}

// Ended tells the fallback.
func (e *External) Ended(s *Sequence, nowNs int64) {
	if o, ok := e.fallback.(Observer); ok {
		o.Ended(s, nowNs)
	}
}

// decided counts a step that is chosen now.
func (e *External) decided() {
	if e.state.Active {
		e.state.Ranked++
	} else {
		e.state.Unranked++
	}
}

// ask makes a question, if there is something new to ask about two sequences or more and no answer is due.
func (e *External) ask(q *queueView, number uint64) *Question {
	if e.asked != nil || q.nowNs < e.pausedUntil || len(q.running)+len(q.waiting) < 2 || q.stamp == e.stamp {
		return nil
	}
	began := q.cfg.stopwatch()
	e.stamp = q.stamp
	e.asked = &question{number: number, askedNs: q.nowNs}
	r := q.request(number, &e.asked.rows)
	e.state.Asked++
	e.state.AskNs += q.cfg.stopwatch() - began
	return &Question{Request: r, Subject: e.subject, JSON: e.json, Limit: e.limit}
}

// queueView is what a policy is asked about.
type queueView struct {
	cfg              *Config
	nowNs            int64
	stamp            rankStamp
	slotsFree        int
	running, waiting []*Sequence
}

// request writes the queue down, and which sequence each row is.
func (q *queueView) request(number uint64, rows *[]*Sequence) *schemas.RankRequest {
	all := len(q.running) + len(q.waiting)
	n := min(all, schemas.RankRowsMax)
	column := func() schemas.I32 { return make(schemas.I32, n) }
	r := &schemas.RankRequest{Version: 1, Number: number, Replica: q.cfg.Replica, NowMs: q.nowNs / 1e6, Step: q.stamp.step,
		SequencesMax: q.cfg.SequencesMax, SlotsFree: int32(q.slotsFree), TokensStepMax: q.cfg.TokensStepMax, More: int32(all - n),
		Seq: make(schemas.U64, n), State: make(schemas.U8, n), Arrival: column(), AgeMs: column(), Prompt: column(), Output: column(),
		Computed: column(), Cached: column(), MaxTokens: column(), Priority: column(), DeadlineMs: column(), User: make(schemas.U64, n)}
	*rows = append(make([]*Sequence, 0, n), q.running[:min(n, len(q.running))]...)
	*rows = append(*rows, q.waiting[:n-len(*rows)]...)
	oldest := uint64(math.MaxUint64)
	for _, s := range *rows {
		oldest = min(oldest, s.arrival)
	}
	for i, s := range *rows {
		r.Seq[i], r.State[i] = uint64(s.id), s.rankState()
		r.Arrival[i], r.AgeMs[i] = int32(s.arrival-oldest), clamp32((q.nowNs-s.arrivedNs)/1e6)
		r.Prompt[i], r.Output[i], r.MaxTokens[i] = s.PromptTokens(), s.OutputTokens(), s.maxTokens
		r.Computed[i], r.Cached[i], r.Priority[i] = s.planned, s.cached, s.Priority()
		r.DeadlineMs[i] = schemas.RankForever
		if d := s.request.DeadlineMs; d != 0 {
			r.DeadlineMs[i] = clamp32(d - q.nowNs/1e6)
		}
		r.User[i] = hashName(s.User())
	}
	return r
}

func (s *Sequence) rankState() byte {
	switch {
	case s.slot != noSlot:
		return schemas.RankRunning
	case s.preemptions > 0:
		return schemas.RankPreempted
	}
	return schemas.RankWaiting
}

func clamp32(v int64) int32 { return int32(max(math.MinInt32, min(v, math.MaxInt32))) }

// hashName is the FNV-1a hash of a name, 0 for none.
func hashName(name string) uint64 {
	if name == "" {
		return 0
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(name)) // never fails
	return h.Sum64()
}

// answer takes what became of a question. It returns why the fallback took over just now, or that the policy is back.
func (e *External) answer(a *schemas.RankOutcome, q *queueView) (fell *schemas.Error, back bool) {
	if e.asked == nil || a.Number != e.asked.number {
		return nil, false // of a policy that is no longer in charge, or given up
	}
	began := q.cfg.stopwatch()
	defer func() { e.state.ApplyNs += q.cfg.stopwatch() - began }()
	rows := e.asked.rows
	e.asked = nil
	if e.wait {
		e.state.WaitNs += a.TripNs
	}
	err := a.Error
	switch {
	case err == nil && a.Reply == nil:
		err = schemas.Errorf(schemas.KindInvalid, "rank", "neither an order nor an error")
	case err == nil:
		err = CheckOrder(a.Reply, a.Number, len(rows))
	}
	if err != nil {
		return e.fail(err, q.nowNs), false
	}
	e.failures = 0
	e.state.Answered++
	e.state.TripNs += a.TripNs
	e.state.TripMax = max(e.state.TripMax, a.TripNs)
	for _, queue := range [][]*Sequence{q.running, q.waiting} {
		for _, s := range queue {
			s.rank = unranked
		}
	}
	for place, row := range a.Reply.Order {
		rows[row].rank = int32(place)
	}
	if e.state.Active {
		return nil, false
	}
	e.state.Active, e.state.Reason = true, ""
	if e.state.Fell > 0 {
		e.state.Returned++
		back = true
	}
	return nil, back
}

// fail counts a failure and puts the fallback in charge; it returns the reason if that is news.
func (e *External) fail(err *schemas.Error, nowNs int64) *schemas.Error {
	e.asked = nil
	e.failures++
	switch err.Kind {
	case schemas.KindTimeout:
		e.state.Late++
	case schemas.KindUnavailable:
		e.state.Absent++
	default:
		e.state.Invalid++
	}
	if err.Kind == schemas.KindUnavailable || e.failures >= rankFailuresMax {
		e.pausedUntil = nowNs + rankPauseNs
	}
	e.stamp = rankStamp{} // ask again, also if nothing changes
	news := e.state.Active || e.state.Fell == 0
	e.state.Active, e.state.Reason = false, err.Detail
	if !news {
		return nil
	}
	e.state.Fell++
	return err.WithHint("%s decides until it answers; `troupe policy` shows the counts", e.fallback.Name())
}

// CheckOrder says what is wrong with an answer to question number about n rows, or nil.
func CheckOrder(r *schemas.RankReply, number uint64, n int) *schemas.Error {
	bad := func(param, format string, args ...any) *schemas.Error {
		return schemas.Errorf(schemas.KindInvalid, "rank reply", param+": "+format, args...).WithParam(param)
	}
	if r.Number != number {
		return bad("number", "%d; expected %d, as in the question", r.Number, number)
	}
	if len(r.Order) != n {
		return bad("order", "%d elements for %d rows; expected each row once", len(r.Order), n)
	}
	seen := make([]bool, n)
	for place, row := range r.Order {
		if row < 0 || int(row) >= n {
			return bad("order", "element %d is %d; expected 0 to %d", place, row, n-1)
		}
		if seen[row] {
			return bad("order", "element %d is row %d, which came before; expected each row once", place, row)
		}
		seen[row] = true
	}
	return nil
}

// overdue gives up a question whose end nobody reported.
func (e *External) overdue(nowNs int64) *schemas.Error {
	if e.asked == nil || nowNs-e.asked.askedNs < rankLostNs+e.limit.Nanoseconds() {
		return nil
	}
	return e.fail(schemas.Errorf(schemas.KindTimeout, "rank", "nothing was heard of question %d", e.asked.number), nowNs)
}
