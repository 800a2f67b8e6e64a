package gateway

import (
	"time"

	"github.com/troupe-engine/troupe/schemas"
)

// A replica that is being started again is worth waiting for: requests that ran there, and new ones, do, each for at most
// Cluster.MoveWaitMax.

// coming says what is done about a missing replica, "" if nothing is.
func (rs *replicas) coming() string {
	if rs.cfg.Coming == nil {
		return ""
	}
	return rs.cfg.Coming()
}

// admissible says why a request for a model cannot be taken, or nil: it runs at once, or waits for a replica.
func (g *Gateway) admissible(m *model) *schemas.Error {
	_, err := g.available(m)
	if err == nil || g.replicas == nil || g.requests.refusal() != nil || m.engine.Load() == nil || g.replicas.coming() == "" {
		return err
	}
	return nil
}

// placeFirst chooses a replica for a new part, and waits for one that is being started.
func (f *flight) placeFirst(p *part, tokens schemas.I32, salt uint64) (*schemas.EngineInfo, *schemas.Error) {
	rs := f.g.replicas
	engine, err := f.place(p, tokens, salt, "")
	if err == nil || rs == nil {
		return engine, err
	}
	patience, look := time.NewTimer(rs.cfg.MoveWaitMax), time.NewTicker(replicasLookEvery)
	defer patience.Stop()
	defer look.Stop()
	for err != nil && rs.coming() != "" {
		select {
		case <-look.C:
			engine, err = f.place(p, tokens, salt, "")
		case <-patience.C:
			return nil, err.WithHint("no replica came within %s (restart_wait_max)", rs.cfg.MoveWaitMax)
		case <-f.ctx.Done():
			return nil, f.reason(f.ctx.Err(), "route")
		}
	}
	return engine, err
}

// placeAgain waits for a replica that can take over a part.
func (f *flight) placeAgain(p *part, r *schemas.SubmitRequest, old *replica, numerics string, why *schemas.Error) *schemas.Error {
	rs := f.g.replicas
	patience, look := time.NewTimer(rs.cfg.MoveWaitMax), time.NewTicker(replicasLookEvery)
	defer patience.Stop()
	defer look.Stop()
	for {
		came := rs.arrivals()
		if rs.returned(old) {
			p.avoid = nil
		}
		if _, err := f.place(p, r.Tokens, r.CacheSalt, numerics); err == nil {
			return nil
		}
		if why.Kind == schemas.KindOverloaded || p.faults > 0 && old.lost() == nil {
			return why // the one that is there is busy, or the only one
		}
		if rs.cfg.Coming != nil && rs.coming() == "" {
			return why.WithHint("nobody waits for the next one: /health says why")
		}
		select {
		case <-came:
			p.avoid = nil
		case <-look.C:
		case <-f.silent:
			if err := f.sink.idle(); err != nil {
				return f.reason(err, "route")
			}
		case <-patience.C:
			return why.WithHint("no other replica that computes the same tokens came within %s", rs.cfg.MoveWaitMax)
		case <-f.ctx.Done():
			return f.reason(f.ctx.Err(), "route")
		}
	}
}

// arrivals is closed when the next replica can take requests.
func (rs *replicas) arrivals() <-chan struct{} {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	return rs.came
}

// returned reports whether a replica that was given up is there again, as another run of it.
func (rs *replicas) returned(old *replica) bool {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	now := rs.known[old.name]
	return now != nil && now != old && now.info != nil
}
