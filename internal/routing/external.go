package routing

import (
	"context"
	"fmt"
	"hash/fnv"
	"math"
	"net/url"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

// ExternalPrefix starts the names of policies in other processes.
const ExternalPrefix = "nats:"

const (
	// ExternalLimitDefault is how long a policy in another process has for an answer.
	ExternalLimitDefault = 5 * time.Millisecond
	externalLimitMax     = time.Second
	// externalPauseNs is how long one that is gone, or failed externalFailuresMax times running, is left alone.
	externalPauseNs     = int64(100 * time.Millisecond)
	externalFailuresMax = 3
	// externalReplyBytes bounds an answer.
	externalReplyBytes = 1024
)

// External is a policy in another process, which is asked over NATS by schemas.Route. Its name says how:
//
//	nats:NAME[?limit=5ms][&fallback=prefix][&json]
//
// NAME is the last token of inf.v1.policy.route.NAME, or a whole subject of one's own.
//
// A router waits for nobody, so who uses it asks: Router.Question, Ask, Router.Answer, and then Router.Route with
// Request.Chosen. Where that is "", or cannot take the request any more, the fallback chooses.
type External struct {
	name, subject string
	limit         time.Duration
	json          bool
	fallback      Policy

	number      uint64 // of the last question
	asking      int    // questions that are not answered yet
	failures    int    // running
	pausedUntil int64  // nanoseconds
	state       schemas.RouteState
}

// Question is a RouteRequest and how to ask it.
type Question struct {
	Request *schemas.RouteRequest
	Subject string
	JSON    bool
	Limit   time.Duration

	policy *External
}

// Answer is what became of a question: exactly one of Reply and Error is set.
type Answer struct {
	Reply *schemas.RouteReply
	Error *schemas.Error
	Trip  time.Duration // from question to answer
}

func parseExternal(name string, seed uint64) (*External, error) {
	bad := func(format string, args ...any) error {
		return schemas.Errorf(schemas.KindInvalid, "route", format, args...).WithParam("routing").WithHint("write nats:NAME[?limit=5ms][&fallback=prefix][&json]")
	}
	e := &External{name: name, limit: ExternalLimitDefault}
	plain, options, _ := strings.Cut(strings.TrimPrefix(name, ExternalPrefix), "?")
	var err error
	if e.subject, err = bus.OutsideSubject(schemas.RouteSubjectPrefix, plain, "routing"); err != nil {
		return nil, err
	}
	set, err := url.ParseQuery(options)
	if err != nil || len(name) > 512 {
		return nil, bad("the policy's options %.80q cannot be read", options)
	}
	fallback := PolicyDefault
	for key, values := range set {
		value := values[len(values)-1]
		switch key {
		case "limit":
			d, err := time.ParseDuration(value)
			if err != nil || d <= 0 || d > externalLimitMax {
				return nil, bad("limit is %.20q; expected a duration up to %s", value, externalLimitMax)
			}
			e.limit = d
		case "fallback":
			fallback = value
		case "json":
			e.json = value == "" || value == "true" || value == "1"
		default:
			return nil, bad("there is no option %.40q of a policy", key)
		}
	}
	fresh, ok := policies[fallback]
	if !ok {
		return nil, bad("fallback is %.40q; expected one of %s", fallback, strings.Join(Policies(), ", "))
	}
	e.fallback = fresh(seed)
	e.state = schemas.RouteState{Policy: name, Subject: e.subject, Fallback: fallback, Limit: e.limit.Nanoseconds()}
	return e, nil
}

// Name is how the policy was chosen.
func (e *External) Name() string { return e.name }

// Choose takes what was chosen, if it is there, and otherwise asks the fallback.
func (e *External) Choose(q *Request, candidates []Candidate) int {
	if q.Chosen != "" {
		for i := range candidates {
			if candidates[i].Name == q.Chosen {
				e.state.Followed++
				return i
			}
		}
	}
	e.state.Fell++
	return e.fallback.Choose(q, candidates)
}

// asks reports whether a question is to be asked: of a policy that fails, one at a time, and none for a while.
func (e *External) asks(nowNs int64) bool {
	return e.failures == 0 || nowNs >= e.pausedUntil && e.asking == 0
}

// Question is what to ask a policy in another process about a request before it is routed; nil if the policy is none, is left alone
// for a while after it failed, or has nothing to choose. Tell the router what becomes of it with Answer.
func (r *Router) Question(q *Request, nowNs int64) *Question {
	e, outside := r.policy.(*External)
	if !outside || !e.asks(nowNs) || r.collect(q) != nil || len(r.candidates) < 2 || r.home(q.Session) >= 0 {
		return nil
	}
	e.number++
	e.asking++
	e.state.Asked++
	n := min(len(r.candidates), schemas.RouteRowsMax)
	column := func(of func(c *Candidate) int64) schemas.I32 {
		values := make(schemas.I32, n)
		for i := range values {
			values[i] = int32(max(math.MinInt32, min(of(&r.candidates[i]), math.MaxInt32)))
		}
		return values
	}
	m := &schemas.RouteRequest{Version: 1, Number: e.number, NowMs: nowNs / 1e6, Model: q.Model, Session: hashName(q.Session), Prompt: q.Prompt,
		Overlap:      column(func(c *Candidate) int64 { return int64(c.Overlap) }),
		Uncached:     column(func(c *Candidate) int64 { return c.Uncached }),
		Requests:     column(func(c *Candidate) int64 { return int64(c.Requests) }),
		Queued:       column(func(c *Candidate) int64 { return c.Queued }),
		SequencesMax: column(func(c *Candidate) int64 { return int64(c.SequencesMax) }),
		FreeBlocks:   column(func(c *Candidate) int64 { return int64(c.Load.FreeBlocks) }),
		Blocks:       column(func(c *Candidate) int64 { return int64(c.Blocks) }),
		BlockSize:    column(func(c *Candidate) int64 { return int64(c.BlockSize) }),
		More:         int32(len(r.candidates) - n)}
	for _, c := range r.candidates[:n] {
		m.Replica, m.Routed = append(m.Replica, string(c.Name)), append(m.Routed, c.Routed)
	}
	return &Question{Request: m, Subject: e.subject, JSON: e.json, Limit: e.limit, policy: e}
}

// hashName is the FNV-1a hash of a name in hexadecimal, "" for none.
func hashName(name string) string {
	if name == "" {
		return ""
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(name)) // never fails
	return fmt.Sprintf("%016x", h.Sum64())
}

// Ask puts a question to a policy in another process and waits for the answer, at most for the question's limit.
func Ask(ctx context.Context, conn *nats.Conn, q *Question) *Answer {
	began := time.Now()
	reply, err := bus.AskOutside[schemas.RouteRequest, schemas.RouteReply](ctx, conn,
		bus.Outside{Op: "route", Subject: q.Subject, JSON: q.JSON, Limit: q.Limit, ReplyBytesMax: externalReplyBytes}, q.Request)
	return &Answer{Reply: reply, Error: err, Trip: time.Since(began)}
}

// Answer takes what became of a question, and returns the replica that was chosen, "" for none. The error is why, if that is news.
func (r *Router) Answer(q *Question, a *Answer, nowNs int64) (schemas.Instance, *schemas.Error) {
	return q.policy.answer(q.Request, a, nowNs)
}

func (e *External) answer(q *schemas.RouteRequest, a *Answer, nowNs int64) (schemas.Instance, *schemas.Error) {
	e.asking--
	err := a.Error
	if err == nil {
		err = checkReply(q, a.Reply)
	}
	if err == nil {
		e.failures = 0
		e.state.Answered++
		e.state.Reason = ""
		e.state.TripNs, e.state.TripMax = e.state.TripNs+a.Trip.Nanoseconds(), max(e.state.TripMax, a.Trip.Nanoseconds())
		return schemas.Instance(q.Replica[a.Reply.Choice]), nil
	}
	switch err.Kind {
	case schemas.KindTimeout:
		e.state.Late++
	case schemas.KindUnavailable:
		e.state.Absent++
	default:
		e.state.Invalid++
	}
	news := e.failures == 0
	if e.failures++; err.Kind == schemas.KindUnavailable || e.failures >= externalFailuresMax {
		e.pausedUntil = nowNs + externalPauseNs
	}
	e.state.Reason = err.Detail
	if !news {
		return "", nil
	}
	return "", err.WithHint("%s chooses until it answers", e.fallback.Name())
}

// checkReply says what is wrong with an answer, or nil.
func checkReply(q *schemas.RouteRequest, r *schemas.RouteReply) *schemas.Error {
	bad := func(param, format string, args ...any) *schemas.Error {
		return schemas.Errorf(schemas.KindInvalid, "route reply", param+": "+format, args...).WithParam(param)
	}
	switch {
	case r == nil:
		return bad("choice", "missing")
	case r.Number != q.Number:
		return bad("number", "%d; expected %d, as in the question", r.Number, q.Number)
	case r.Choice < 0 || int(r.Choice) >= len(q.Replica):
		return bad("choice", "%d; expected 0 to %d", r.Choice, len(q.Replica)-1)
	}
	return nil
}

// State says how the policy does.
func (r *Router) State() schemas.RouteState {
	if e, outside := r.policy.(*External); outside {
		return e.state
	}
	return schemas.RouteState{Policy: r.policy.Name()}
}
