package gateway

import (
	"time"

	"github.com/troupe-engine/troupe/schemas"
)

// A replica can be there, report and still fail whatever it computes: its device is broken, or its memory. A request
// that fails so goes on elsewhere, once: it may also be the request that breaks steps. A replica that fails several gets
// no new ones for a while.
const (
	faultMovesMax   = 1                // of one request
	faultsMax       = 3                // of one replica, within faultsWithin
	faultsWithin    = 10 * time.Second //
	faultsPauseTime = 10 * time.Second // without new requests
)

// blames reports whether a sequence that failed may go on elsewhere, and keeps why if so. Guarded by requests.mu.
func (p *part) blames(err *schemas.Error) bool {
	if p.output == nil || err == nil || p.faults >= faultMovesMax || !faultOfReplica(err.Kind) {
		return false
	}
	p.broken = err
	p.flight.wakeLost()
	return true
}

// faultOfReplica reports whether another replica may do better.
func faultOfReplica(k schemas.Kind) bool {
	switch k {
	case schemas.KindInternal, schemas.KindUnavailable, schemas.KindTimeout, schemas.KindNoMemory:
		return true
	}
	return false
}

// takeFault returns why a part failed where it is, nil if it did not, and forgets it.
func (q *requests) takeFault(p *part) *schemas.Error {
	q.mu.Lock()
	defer q.mu.Unlock()
	err := p.broken
	if err != nil {
		p.broken = nil
		p.faults++
	}
	return err
}

// blame notes that a request failed at a replica.
func (rs *replicas) blame(r *replica, why *schemas.Error, now time.Time) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if now.Sub(r.faultsSince) > faultsWithin {
		r.faults, r.faultsSince = 0, now
	}
	if r.faults++; r.faults < faultsMax || now.Before(r.pausedUntil) || rs.known[r.name] != r {
		return
	}
	r.pausedUntil = now.Add(faultsPauseTime)
	rs.note(r)
	rs.g.log.Warn().Err(why).Str("replica", string(r.name)).Dur("pause_ms", faultsPauseTime).Msg("a replica fails what it is given; it gets nothing new for a while")
}

// paused reports whether a replica shall get no new requests, because it failed some, and another can take them.
func (rs *replicas) paused(r *replica, now time.Time) bool {
	if !now.Before(r.pausedUntil) {
		return false
	}
	for _, other := range rs.known {
		if other != r && other.info != nil && !other.report.Draining && !now.Before(other.pausedUntil) {
			return true
		}
	}
	return false
}
