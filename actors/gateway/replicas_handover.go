package gateway

import (
	"context"
	"slices"
	"time"

	kv "github.com/troupe-engine/troupe/internal/handover"
	"github.com/troupe-engine/troupe/internal/routing"
	"github.com/troupe-engine/troupe/schemas"
)

// Where replicas are for a phase of requests, prompts go to those for prefill. When the first token of an answer has come from
// there, a replica for decode takes the prompt's KV over, and then the answer moves to it as it would from a replica that
// was lost: under a new id, from the prompt and the tokens that have come. Until it has moved it goes on where it is, so that its
// client does not wait for the hand-over. What was not handed over is computed again.
const (
	handoverTimeMax   = 5 * time.Second
	handoverTriesMax  = 2 // of one part, when the receiver is lost
	handoverTokensMin = 8 // answers of fewer tokens end where they began
)

// passage is a part on its way from one phase to the next. It is the flight's own.
type passage struct {
	to     *replica
	ticket *routing.Ticket
	done   chan struct{} // closed when the KV has come, or will not
}

// passes reports whether a part is to go on at a replica for decode.
func (q *requests) passes(f *flight, p *part, r *schemas.SubmitRequest) bool {
	if f.job.stays || f.job.embed != nil || r.MaxTokens < handoverTokensMin || p.tries >= handoverTriesMax {
		return false
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return p.replica != nil && p.replica.phase == schemas.PhasePrefill && slices.Max(p.tokens) > 0 && slices.Contains(p.ended, false)
}

// passOn begins to hand a part over, or, if that has been done, moves it.
func (f *flight) passOn(i int) *schemas.Error {
	p := f.parts[i]
	if p.passage == nil {
		if f.g.requests.passes(f, p, f.requests[i]) {
			f.g.replicas.handOver(f, p, f.requests[i])
		}
		return nil
	}
	select {
	case <-p.passage.done:
		return f.pass(i)
	default:
		return nil
	}
}

// handOver has a replica for decode take over what the part's replica has computed of a prompt.
func (rs *replicas) handOver(f *flight, p *part, r *schemas.SubmitRequest) {
	p.tries++
	to, ticket := rs.receiver(rs.request(f, p, r.Tokens, r.CacheSalt), p.replica)
	if to == nil {
		return // it stays where it is
	}
	from, pass := p.replica, &passage{to, ticket, make(chan struct{})}
	p.passage = pass
	rs.g.background.Go(func() {
		defer f.wakeLost()
		defer close(pass.done)
		ctx, cancel := to.while(f.ctx)
		defer cancel()
		ctx, stop := context.WithTimeout(ctx, handoverTimeMax)
		defer stop()
		reply, err := to.fetch.Call(ctx, &schemas.KVFetchRequest{From: from.name, Tokens: r.Tokens, Salt: r.CacheSalt})
		if err != nil && f.ctx.Err() == nil {
			rs.g.log.Warn().Err(err).Stringer("request", f.id).Str("from", string(from.name)).Str("to", string(to.name)).Msg("KV was not handed over; it is computed again")
		}
		rs.mu.Lock()
		defer rs.mu.Unlock()
		switch {
		case err == nil:
			rs.cameBy(reply)
			rs.handed.blocks, rs.handed.bytes = rs.handed.blocks+uint64(reply.Blocks), rs.handed.bytes+uint64(reply.Bytes)
		case f.ctx.Err() == nil:
			rs.handed.failed++
		}
	})
}

// cameBy counts a hand-over by its way, if that is one that there is.
func (rs *replicas) cameBy(reply *schemas.KVFetchReply) {
	if reply.Blocks == 0 || !slices.Contains(kv.Ways, reply.Way) {
		return
	}
	if rs.handed.ways == nil {
		rs.handed.ways = map[string]uint64{}
	}
	rs.handed.ways[reply.Way]++
}

// receiver chooses a replica for decode that computes the same tokens as from; nil if there is none.
func (rs *replicas) receiver(q *routing.Request, from *replica) (*replica, *routing.Ticket) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	ticket, err := rs.decide(func() *routing.Request {
		in := *q
		in.Avoid = rs.others(q.Avoid, func(r *replica) bool { return r.phase == schemas.PhaseDecode && r.numerics == from.numerics })
		return &in
	})
	if err != nil {
		return nil, nil
	}
	return rs.known[ticket.Replica], ticket
}

// pass moves a part to the replica that has its KV now.
func (f *flight) pass(i int) *schemas.Error {
	g, p := f.g, f.parts[i]
	pass := p.passage
	p.passage = nil
	old, speaker, was := p.replica, p.tokenizer, p.id
	var resume *schemas.Resumed
	if pass.to.lost() == nil {
		resume = g.requests.passed(p, g.newRequestID())
	}
	if resume == nil {
		g.replicas.release(pass.ticket)
		if pass.to.lost() != nil {
			return f.passOn(i) // to another
		}
		return nil
	}
	g.replicas.leave(p)
	g.background.Go(func() { g.abandon(old, speaker, was, len(p.tokens)) })
	g.requests.setReplica(p, pass.to, pass.ticket)
	p.unwatch = context.AfterFunc(pass.to.gone, f.wakeLost)
	if err := f.prepare(i, resume); err != nil {
		return err
	}
	g.replicas.mu.Lock()
	g.replicas.handed.requests++
	g.replicas.mu.Unlock()
	return f.submit(i)
}

// passed gives a part a new id, to go on elsewhere, and returns what is known of its answers. It does nothing and returns nil if
// they have ended, or if tokens are missing in what is known.
func (q *requests) passed(p *part, id schemas.RequestID) *schemas.Resumed {
	q.mu.Lock()
	defer q.mu.Unlock()
	resume, whole := p.resumed()
	if !whole || resume == nil || !slices.Contains(p.ended, false) || p.broken != nil {
		return nil
	}
	q.readdress(p, id)
	return resume
}

// release tells the router that what a ticket was for does not run there.
func (rs *replicas) release(t *routing.Ticket) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.router.Done(t)
}

// HandedOverBy counts the hand-overs that came by a way.
func (g *Gateway) HandedOverBy(way string) uint64 {
	if g.replicas == nil {
		return 0
	}
	g.replicas.mu.Lock()
	defer g.replicas.mu.Unlock()
	return g.replicas.handed.ways[way]
}

// HandedOver counts the requests that went on at a replica for decode, those whose KV could not be handed over, and the KV blocks
// that were.
func (g *Gateway) HandedOver() (requests, failed, blocks uint64) {
	rs := g.replicas
	if rs == nil {
		return 0, 0, 0
	}
	rs.mu.Lock()
	defer rs.mu.Unlock()
	return rs.handed.requests, rs.handed.failed, rs.handed.blocks
}
