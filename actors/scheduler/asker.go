package scheduler

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

const (
	// Bounds of an answer: a row's index takes at most rankReplyRowBytes, in JSON with some spaces.
	rankReplyBytes    = 4096
	rankReplyRowBytes = 16
	// warnPause is between two warnings that a policy in another process has failed.
	warnPause = 10 * time.Second
)

// Ask puts a question to a policy in another process and waits for the answer, at most for the question's limit. What
// it returns is unchecked but for its size and form: CheckOrder does that.
func Ask(ctx context.Context, conn *nats.Conn, q *Question) *schemas.RankOutcome {
	began := time.Now()
	reply, err := bus.AskOutside[schemas.RankRequest, schemas.RankReply](ctx, conn, bus.Outside{Op: "rank", Subject: q.Subject, JSON: q.JSON, Limit: q.Limit,
		ReplyBytesMax: rankReplyBytes + rankReplyRowBytes*len(q.Request.Seq)}, q.Request)
	o := &schemas.RankOutcome{Number: q.Request.Number, Reply: reply, TripNs: time.Since(began).Nanoseconds(), Shadow: q.Shadow}
	if err != nil {
		o.Reply, o.Error = nil, err
	}
	return o
}

// askPolicy has a question answered while the engine goes on; the answer comes as an event.
func (a *Actor) askPolicy(q *Question) {
	if a.asking.Err() != nil {
		return
	}
	a.stopped.Go(func() {
		o := Ask(a.asking, a.node.Conn(), q)
		if a.asking.Err() != nil {
			return // the scheduler stops
		}
		bus.Run(a.group, a.actor, func(ctx context.Context) {
			if o.Shadow {
				a.core.ShadowRanked(a.now(), o)
				return
			}
			a.step(ctx, Ranked{o})
		})
	})
}

// tell logs what became of policies in other processes and of the shadow.
func (a *Actor) tell(fx *Effects) {
	if fx.PolicyFell != nil {
		level := zerolog.DebugLevel // one that is late now and then is counted, not logged each time
		if now := time.Now(); now.Sub(a.warned) > warnPause {
			a.warned, level = now, zerolog.WarnLevel
		}
		a.log.WithLevel(level).Err(fx.PolicyFell).Str("warning", "policy_fallback").Str("policy", a.core.policy.Name()).Uint64("fell", a.core.Rank().Fell).Msg("the policy does not decide any more; its fallback does")
	}
	if fx.PolicyBack {
		a.log.Debug().Str("policy", a.core.policy.Name()).Msg("the policy decides again")
	}
	if x := fx.Disagreed; x != nil {
		a.log.Debug().Uint64("step", uint64(x.Step)).Interface("live_first", x.LiveFirst).Interface("shadow_first", x.ShadowFirst).
			Stringer("live_yield", x.LiveYield).Stringer("shadow_yield", x.ShadowYield).Int32("waiting", x.Waiting).Msg("the shadow policy disagrees")
	}
}

func (a *Actor) policy(ctx context.Context, req *schemas.PolicyRequest) (*schemas.PolicyReply, error) {
	if req.Costs != nil {
		if err := req.Costs.Validate(); err != nil {
			return nil, schemas.AsError(err, "policy").WithParam("costs")
		}
	}
	if req.Name != "" {
		p, err := PolicyByName(req.Name)
		if err != nil {
			return nil, err
		}
		a.step(ctx, PolicyChosen{p})
		a.log.Info().Str("policy", p.Name()).Msg("policy chosen")
	}
	if req.Costs != nil {
		a.step(ctx, CostsGiven{req.Costs})
		a.log.Info().Str("profile", req.Costs.Profile).Msg("policies go by other step costs")
	}
	reply := &schemas.PolicyReply{Active: a.core.policy.Name(), Policies: Policies(), Rank: a.core.Rank()}
	if c := a.core.cfg.Costs; c != nil {
		reply.Costs = c.Profile
	}
	return reply, nil
}

func (a *Actor) shadow(_ context.Context, req *schemas.ShadowRequest) (*schemas.ShadowReport, error) {
	switch {
	case req.Off && req.Policy != "":
		return nil, schemas.Errorf(schemas.KindInvalid, "shadow", "policy is %.40q and off is true; expected one of them", req.Policy).WithParam("off")
	case req.Off:
		last := a.core.ShadowReport()
		a.core.Shadow(a.now(), nil)
		return last, nil
	case req.Policy != "":
		p, err := PolicyByName(req.Policy)
		if err != nil {
			return nil, err
		}
		a.core.Shadow(a.now(), p)
		a.log.Info().Str("policy", p.Name()).Msg("a shadow policy watches")
	}
	return a.core.ShadowReport(), nil
}
