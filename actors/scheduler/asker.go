package scheduler

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

const (
	contentType = "Content-Type"
	jsonType    = "application/json"
	msgpackType = "application/msgpack"
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
	reply, err := ask(ctx, conn, q)
	o := &schemas.RankOutcome{Number: q.Request.Number, Reply: reply, TripNs: time.Since(began).Nanoseconds(), Shadow: q.Shadow}
	if err != nil {
		o.Reply, o.Error = nil, err
	}
	return o
}

func ask(ctx context.Context, conn *nats.Conn, q *Question) (*schemas.RankReply, *schemas.Error) {
	const op = "rank"
	m := nats.NewMsg(q.Subject)
	var err error
	if q.JSON {
		m.Header.Set(contentType, jsonType)
		m.Data, err = json.Marshal(q.Request)
	} else {
		m.Header.Set(contentType, msgpackType)
		m.Data, err = schemas.MarshalMap(q.Request)
	}
	if err != nil {
		return nil, schemas.Errorf(schemas.KindInternal, op, "encode the question: %v", err)
	}
	ctx, cancel := context.WithTimeout(ctx, q.Limit)
	defer cancel()
	reply, err := conn.RequestMsgWithContext(ctx, m)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return nil, schemas.Errorf(schemas.KindUnavailable, op, "nobody answers on %s", q.Subject)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
		return nil, schemas.Errorf(schemas.KindTimeout, op, "no answer on %s within %s", q.Subject, q.Limit)
	case err != nil:
		return nil, schemas.Errorf(schemas.KindUnavailable, op, "%s: %v", q.Subject, err)
	}
	return decodeRankReply(reply, len(q.Request.Seq))
}

// decodeRankReply reads an answer for n rows, or the error it is.
func decodeRankReply(m *nats.Msg, n int) (*schemas.RankReply, *schemas.Error) {
	if code := m.Header.Get(micro.ErrorCodeHeader); code != "" || m.Header.Get(micro.ErrorHeader) != "" {
		status, err := strconv.Atoi(code)
		if err != nil {
			status = 500
		}
		kind := schemas.KindOfStatus(status)
		if kind == schemas.KindTimeout || kind == schemas.KindUnavailable { // these are said of it, not by it
			kind = schemas.KindInternal
		}
		return nil, schemas.Errorf(kind, "rank", "the policy answers with error %.20s: %.200s", code, m.Header.Get(micro.ErrorHeader))
	}
	if limit := rankReplyBytes + rankReplyRowBytes*n; len(m.Data) > limit {
		return nil, schemas.Errorf(schemas.KindInvalid, "rank", "the answer is %d bytes; expected at most %d for %d rows", len(m.Data), limit, n)
	}
	r := &schemas.RankReply{}
	var err error
	if kind := m.Header.Get(contentType); strings.Contains(kind, "json") || kind == "" && bytes.HasPrefix(bytes.TrimSpace(m.Data), []byte("{")) {
		d := json.NewDecoder(bytes.NewReader(m.Data))
		d.DisallowUnknownFields()
		if err = d.Decode(r); err == nil {
			if _, end := d.Token(); end != io.EOF {
				err = errors.New("there is data after the message")
			}
		}
	} else {
		err = bus.Unmarshal(m.Data, r)
	}
	if err != nil {
		return nil, schemas.Errorf(schemas.KindInvalid, "rank", "the answer cannot be read: %.200v", err)
	}
	return r, nil
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
