package simulate

import (
	"context"
	"time"

	"github.com/troupe-engine/troupe/actors/scheduler"
	"github.com/troupe-engine/troupe/internal/routing"
	"github.com/troupe-engine/troupe/schemas"
)

// Asker puts a question to a policy in another process and waits for what becomes of it, at most for the question's limit;
// scheduler.Ask over a connection is one.
type Asker func(ctx context.Context, q *scheduler.Question) *schemas.RankOutcome

// RouteAsker does so with a routing policy; routing.Ask over a connection is one.
type RouteAsker func(ctx context.Context, q *routing.Question) *routing.Answer

// PolicyTimeDefault is what the examples' policies take to answer on a machine that also runs the model (docs/policies.md).
const PolicyTimeDefault = time.Millisecond

// patience is how long an answer may really take if it takes something else in virtual time.
const patience = 10 * time.Second

// RankReport says how a policy in another process did, over all replicas.
type RankReport struct {
	Asked    uint64 `json:"asked"`
	Answered uint64 `json:"answered"` // in time, with a valid order
	Late     uint64 `json:"late"`
	Invalid  uint64 `json:"invalid"`
	Ranked   uint64 `json:"ranked"`   // steps chosen in its order
	Unranked uint64 `json:"unranked"` // steps chosen in its fallback's
}

func (r *RankReport) add(s *schemas.RankState) {
	r.Asked, r.Answered, r.Late, r.Invalid = r.Asked+s.Asked, r.Answered+s.Answered, r.Late+s.Late, r.Invalid+s.Invalid
	r.Ranked, r.Unranked = r.Ranked+s.Ranked, r.Unranked+s.Unranked
}

// answer is what a policy in another process said, on its way to the scheduler.
type answer struct {
	outcome *schemas.RankOutcome
	at      int64
}

// ask puts a question to a policy in another process. Virtual time stands still until it has answered; then its TripNs pass.
// One that nobody answers ends the simulation: it would be one of the fallback.
func (w *world) ask(q *scheduler.Question) (*schemas.RankOutcome, error) {
	takes := w.cfg.PolicyTime
	if takes > q.Limit {
		return &schemas.RankOutcome{Number: q.Request.Number, TripNs: q.Limit.Nanoseconds(),
			Error: schemas.Errorf(schemas.KindTimeout, "rank", "answers take %s, and the limit is %s", takes, q.Limit)}, nil
	}
	asked := *q
	if takes > 0 {
		asked.Limit = patience
	}
	o := w.asker(&asked)
	if e := o.Error; e != nil && (e.Kind == schemas.KindUnavailable || e.Kind == schemas.KindTimeout && takes > 0) {
		return nil, schemas.Errorf(e.Kind, "simulate", "policy %.80q: %s", w.cfg.Policy, e.Detail).WithParam("policy").
			WithHint("start the process that answers there, on the server at --nats")
	}
	if takes > 0 {
		o.TripNs = takes.Nanoseconds()
	}
	return o, nil
}

// askRoute puts a question to a routing policy in another process. The time that answers take is in world.arrival.
func (w *world) askRoute(q *routing.Question) (*routing.Answer, error) {
	takes := w.cfg.PolicyTime
	if takes > q.Limit {
		return &routing.Answer{Error: schemas.Errorf(schemas.KindTimeout, "route", "answers take %s, and the limit is %s", takes, q.Limit)}, nil
	}
	asked := *q
	if takes > 0 {
		asked.Limit = patience
	}
	a := w.routeAsker(&asked)
	if e := a.Error; e != nil && (e.Kind == schemas.KindUnavailable || e.Kind == schemas.KindTimeout && takes > 0) {
		return nil, schemas.Errorf(e.Kind, "simulate", "routing policy %.80q: %s", w.cfg.Routing, e.Detail).WithParam("routing").
			WithHint("start the process that answers there, on the server at --nats")
	}
	if takes > 0 {
		a.Trip = takes
	}
	return a, nil
}
