package gateway

import (
	"context"
	"slices"
	"time"

	"github.com/troupe-engine/troupe/internal/routing"
	"github.com/troupe-engine/troupe/schemas"
)

// What clients say about where their requests run, in a header of HTTP or NATS.
const (
	headerSession  = "Troupe-Session"  // requests with the same value prefer one replica
	headerFailover = "Troupe-Failover" // "none": do not go on elsewhere once tokens have come
	headerVersion  = "Troupe-Version"  // of the program: only replicas that run it
	sessionMax     = 256               // bytes of a session's name that count
)

// route takes what the client says about where its request runs.
func (j *job) route(header func(string) string) {
	j.session = clipped(header(headerSession), sessionMax)
	j.stays = header(headerFailover) == "none"
	j.version = header(headerVersion)
}

func clipped(s string, n int) string { return s[:min(len(s), n)] }

// place chooses a replica for a part and returns what it serves.
func (f *flight) place(p *part, tokens schemas.I32, salt uint64, numerics string) (*schemas.EngineInfo, *schemas.Error) {
	rs := f.g.replicas
	if rs == nil {
		f.g.requests.setReplica(p, f.g.home, nil)
		return f.job.serving.engine.Load(), nil
	}
	q := rs.request(f, p, tokens, salt)
	r, engine, ticket, err := rs.choose(q, numerics)
	if err != nil {
		return nil, err
	}
	f.g.requests.setReplica(p, r, ticket)
	p.unwatch = context.AfterFunc(r.gone, f.wakeLost)
	return engine, nil
}

// request is what the choice of a replica for a part depends on.
func (rs *replicas) request(f *flight, p *part, tokens schemas.I32, salt uint64) *routing.Request {
	q := &routing.Request{Model: f.job.serving.name, Version: f.job.version, Prompt: int32(len(tokens)), Session: f.job.session, Avoid: p.avoid}
	if q.BlockSize = rs.blockSize(q.Model); q.BlockSize > 0 {
		q.Keys = routing.BlockKeys(nil, tokens, q.BlockSize, salt)
	}
	return q
}

// choose asks the router, among the replicas with the same numerics unless that is "". It prefers replicas that are for the phase in
// which the request is: its prompt is to be computed, or it goes on.
func (rs *replicas) choose(q *routing.Request, numerics string) (*replica, *schemas.EngineInfo, *routing.Ticket, *schemas.Error) {
	phase := schemas.PhasePrefill
	if numerics != "" {
		phase = schemas.PhaseDecode
	}
	rs.mu.Lock()
	defer rs.mu.Unlock()
	ticket, err := rs.decide(func() *routing.Request {
		in := *q
		if numerics != "" {
			in.Avoid = rs.others(q.Avoid, func(r *replica) bool { return r.numerics == numerics })
		}
		if rs.phased > 0 {
			phased := in
			if phased.Phase = phase; rs.router.Takes(&phased) {
				return &phased
			}
		}
		return &in
	})
	if err != nil {
		if err.Kind == schemas.KindNotFound { // the gateway knows the model
			what := q.Model
			if q.Version != "" {
				what += " with version " + clip(q.Version)
			}
			err = schemas.Errorf(schemas.KindUnavailable, "route", "no replica of %s is there", what).WithHint("try again later; `troupe nodes` lists who is")
		}
		err.RetryAfterMs = retryAfterMs
		return nil, nil, nil, err
	}
	r := rs.known[ticket.Replica]
	return r, r.info, ticket, nil
}

// others are replicas to avoid: those that are already, and all that are not wanted. Guarded by mu.
func (rs *replicas) others(avoid []schemas.Instance, wanted func(r *replica) bool) []schemas.Instance {
	avoid = slices.Clip(avoid)
	for name, r := range rs.known {
		if !wanted(r) {
			avoid = append(avoid, name)
		}
	}
	return avoid
}

// decide routes what request makes. A policy in another process is asked before, without mu, which is held otherwise: what was known
// may have changed then, so the request is made anew.
func (rs *replicas) decide(request func() *routing.Request) (*routing.Ticket, *schemas.Error) {
	q := request()
	question := rs.router.Question(q, time.Now().UnixNano())
	if question == nil {
		return rs.router.Route(q)
	}
	rs.mu.Unlock()
	answer := routing.Ask(context.Background(), rs.g.node.Conn(), question) // whether the client waits or not: it is short
	rs.mu.Lock()
	chosen, failed := rs.router.Answer(question, answer, time.Now().UnixNano())
	if failed != nil && time.Since(rs.warned) > policyWarnEvery {
		rs.warned = time.Now()
		rs.g.log.Warn().Err(failed).Str("warning", "policy_fallback").Str("policy", rs.router.Policy()).Msg("the routing policy does not answer; its fallback chooses")
	}
	q = request()
	q.Chosen = chosen
	return rs.router.Route(q)
}

// policyWarnEvery is between two warnings that a policy in another process has failed.
const policyWarnEvery = 10 * time.Second

// blockSize is the one to name prompts' blocks by; 0 if there is nothing to choose between.
func (rs *replicas) blockSize(model string) int32 {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	size, choice := int32(0), 0
	for _, r := range rs.known {
		if r.report.Model == model {
			size = max(size, r.report.BlockSize)
			choice++
		}
	}
	if choice < 2 {
		return 0
	}
	return size
}

// setReplica says where a part runs.
func (q *requests) setReplica(p *part, r *replica, t *routing.Ticket) {
	q.mu.Lock()
	defer q.mu.Unlock()
	p.replica, p.ticket = r, t
}

// placement is where a part runs, and what it takes to go on elsewhere.
type placement struct {
	replica *replica        // nil until it is placed; guarded by requests.mu for others than the flight
	ticket  *routing.Ticket // nil without a router
	avoid   []schemas.Instance
	unwatch func() bool
	output  [][]int32      // per choice; nil without a router; guarded by requests.mu
	broken  *schemas.Error // a sequence failed where the part is, and may go on elsewhere; guarded by requests.mu
	faults  int            // how often that was so
	passage *passage       // to a replica for decode; nil: there is none under way
	tries   int            // of such passages
	strikes int            // losses of a device or process in a row that it was there for, without a token since; guarded by requests.mu
	alone   bool           // it holds the suspects' turn; guarded by requests.mu
	session
}

// follow notes a token that has come, the first of a choice or a later one. Guarded by requests.mu.
func (p *part) follow(choice int, gained int32, token int32) {
	if p.output == nil {
		return
	}
	if p.tokens[choice] == 0 {
		p.flight.g.replicas.started(p.ticket)
		if p.replica.phase == schemas.PhasePrefill {
			p.flight.wakeLost()
		}
	}
	p.strikes = 0
	p.acquit()
	if gained == 1 && token >= 0 {
		p.output[choice] = append(p.output[choice], token)
	}
}

// unfinished lists the sequences that have not ended. Guarded by requests.mu.
func (p *part) unfinished() (seqs schemas.U64) {
	for i, ended := range p.ended {
		if !ended {
			seqs = append(seqs, uint64(p.id.Seq(i)))
		}
	}
	return seqs
}

// started tells the router that a request's first token has come.
func (rs *replicas) started(t *routing.Ticket) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.router.Started(t)
}

// leave tells the router that a part runs there no more.
func (rs *replicas) leave(p *part) {
	if p.unwatch != nil {
		p.unwatch()
	}
	rs.g.requests.acquit(p)
	if p.ticket != nil {
		rs.release(p.ticket)
	}
	if p.passage != nil {
		rs.release(p.passage.ticket)
		p.passage = nil
	}
}

// submit hands a part to its replica or, if that cannot take it, to another.
func (f *flight) submit(i int) *schemas.Error {
	for {
		p := f.parts[i]
		if err := f.apart(p); err != nil {
			return err
		}
		ctx, cancel := p.replica.while(f.ctx)
		sent := p.replica.lost() == nil
		err := f.submitTo(ctx, p, f.requests[i])
		cancel()
		if err == nil {
			return nil
		}
		e := f.reason(err, "submit")
		if lost := p.replica.lost(); lost != nil && sent {
			if convicted := f.strike(p, false, schemas.AsError(lost, "submit")); convicted != nil {
				return convicted
			}
		}
		if !f.movable(p, e) {
			return e
		}
		if err := f.move(i, e); err != nil {
			return err
		}
	}
}

// movable reports whether an error of a part's replica may be no other's.
func (f *flight) movable(p *part, e *schemas.Error) bool {
	if f.g.replicas == nil || f.ctx.Err() != nil {
		return false
	}
	return p.replica.lost() != nil || e.Kind == schemas.KindUnavailable || e.Kind == schemas.KindDeviceLost || e.Kind == schemas.KindTimeout || e.Kind == schemas.KindOverloaded
}

// rescue moves the parts whose replica or tokenizer was given up, or whose replica has failed them.
func (f *flight) rescue() *schemas.Error {
	for i, p := range f.parts[:len(f.requests)] {
		if f.g.requests.over(p) {
			continue
		}
		why := f.g.requests.takeFault(p)
		if lost := p.replica.lost(); lost != nil {
			counted := why != nil && convicts(why)
			why = schemas.AsError(lost, "run")
			if convicted := f.strike(p, counted, why); convicted != nil {
				return convicted
			}
		} else if lost := p.tokenizer.lost(); lost != nil {
			why = schemas.AsError(lost, "detokenize")
		} else if why != nil {
			f.g.replicas.blame(p.replica, why, time.Now())
		}
		if why == nil {
			if err := f.passOn(i); err != nil {
				return err
			}
			continue
		}
		if err := f.move(i, why); err != nil {
			return err
		}
		if i < int(f.submitted.Load()) {
			if err := f.submit(i); err != nil {
				return err
			}
		}
	}
	if f.ctx.Err() != nil { // the cancellation may have overtaken a submission
		f.release()
	}
	return nil
}

// over reports whether all choices of a part have ended.
func (q *requests) over(p *part) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return !slices.Contains(p.ended, false)
}

// move gives a part a new place, with a new id among the actors: what its old replica may still say, even after
// days of being frozen, belongs to an id that nobody knows. It goes on after the tokens whose text has
// come. The part is not submitted yet.
func (f *flight) move(i int, why *schemas.Error) *schemas.Error {
	g, p := f.g, f.parts[i]
	old, speaker, was := p.replica, p.tokenizer, p.id
	resume, whole := g.requests.rename(p, g.newRequestID())
	g.replicas.leave(p)
	g.background.Go(func() { g.abandon(old, speaker, was, len(p.tokens)) })
	numerics := ""
	if resume != nil {
		switch {
		case f.job.stays:
			return why.WithHint("the client asked not to go on elsewhere (%s: none)", headerFailover)
		case !whole:
			return why.WithHint("some of its tokens did not come one by one, so that no other replica can go on")
		}
		numerics = old.numerics
	}
	if old.lost() != nil || speaker.lost() == nil {
		p.avoid = append(p.avoid, old.name)
	}
	if err := f.placeAgain(p, f.requests[i], old, numerics, why); err != nil {
		return err
	}
	if err := f.prepare(i, resume); err != nil {
		return err
	}
	g.replicas.mu.Lock()
	g.replicas.moved++
	g.replicas.mu.Unlock()
	g.log.Info().Stringer("request", f.id).Str("from", string(old.name)).Str("to", string(p.replica.name)).Str("reason", why.Detail).Msg("a request goes on elsewhere")
	return nil
}

// prepare makes what a part is submitted as at its new place, and opens a session for its text.
func (f *flight) prepare(i int, resume *schemas.Resumed) *schemas.Error {
	p, r := f.parts[i], *f.requests[i]
	r.Request, r.Resume = p.id, resume
	f.requests[i] = &r
	spec := f.job.detok
	spec.Gateway, spec.Resume = f.g.cfg.Instance, resume
	if _, err := f.encodePart(p, &schemas.EncodeRequest{Request: p.id, Tokens: r.Tokens, Detok: &spec}); err != nil {
		return f.reason(err, "encode")
	}
	r.Tokenizer = p.tokenizer.name
	return f.compile(p, &r)
}

// rename gives a part another id and returns what is known of its answers under the old one, nil if that is
// nothing; whole is false if tokens are missing in it.
func (q *requests) rename(p *part, id schemas.RequestID) (resume *schemas.Resumed, whole bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.readdress(p, id)
	return p.resumed()
}

// readdress gives a part another id. Guarded by mu.
func (q *requests) readdress(p *part, id schemas.RequestID) {
	delete(q.parts, p.id)
	p.id = id
	if _, flying := q.flights[p.flight]; flying {
		q.parts[id] = p
	}
}

// resumed is what is known of a part's answers; see rename. Guarded by requests.mu.
func (p *part) resumed() (resume *schemas.Resumed, whole bool) {
	whole = true
	r := &schemas.Resumed{}
	for c, ended := range p.ended {
		if ended {
			r.Counts = append(r.Counts, -1)
			continue
		}
		whole = whole && int(p.tokens[c]) == len(p.output[c])
		r.Counts, r.Tokens = append(r.Counts, int32(len(p.output[c]))), append(r.Tokens, p.output[c]...)
	}
	if len(r.Tokens) == 0 && !slices.Contains(p.ended, true) {
		return nil, whole
	}
	return r, whole
}

// abandon ends what may still run of a request on a replica that was given up, as far as it can be reached.
func (g *Gateway) abandon(r *replica, t *tokenizer, id schemas.RequestID, choices int) {
	ctx, cancel := context.WithTimeout(context.Background(), cancelTimeMax)
	defer cancel()
	var seqs schemas.U64
	for c := range choices {
		seqs = append(seqs, uint64(id.Seq(c)))
	}
	over := &schemas.CancelRequest{Seq: seqs, Finish: schemas.FinishCancel}
	if t.lost() == nil {
		if _, err := t.closeSessions.Call(ctx, over); err != nil {
			g.log.Warn().Err(err).Stringer("request", id).Msg("detokenization sessions could not be closed")
		}
	}
	if r.lost() == nil {
		// One that is lost hears from the tokenizer that nobody listens.
		_, _ = r.cancel.Call(ctx, over)
	}
}

// held lists the sequences of a flight's first parts that have not ended, by where they are.
func (q *requests) held(f *flight, parts int) map[*replica]schemas.U64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	held := map[*replica]schemas.U64{}
	for _, p := range f.parts[:parts] {
		if p.replica != nil {
			held[p.replica] = append(held[p.replica], p.unfinished()...)
		}
	}
	return held
}

// publicFlight finds a flight by the id that its client knows, which moving does not change.
func (q *requests) publicFlight(id schemas.RequestID) *flight {
	q.mu.Lock()
	defer q.mu.Unlock()
	for f := range q.flights {
		if f.id == id {
			return f
		}
	}
	return nil
}
