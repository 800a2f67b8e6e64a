package gateway

import (
	"context"
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

// A request can also be what takes devices, or processes, down. One that was there strikesMax times in a row, without a
// token in between, ends with an error. After suspectStrikes such requests are computed again one by one, until a token
// comes of each, so that the others are there no more when the one to blame breaks it again.
const (
	strikesMax     = 3
	suspectStrikes = 2
)

// blames reports whether a sequence that failed may go on elsewhere, and keeps why if so. Guarded by requests.mu.
func (p *part) blames(err *schemas.Error) bool {
	switch {
	case p.output == nil || err == nil:
		return false
	case err.Kind == schemas.KindDeviceLost:
		if convicts(err) && p.strikes+1 >= strikesMax {
			return false
		}
	case p.faults >= faultMovesMax || !faultOfReplica(err.Kind):
		return false
	}
	p.broken = err
	p.flight.wakeLost()
	return true
}

// convicts reports whether an error is of a request that was in the very step that lost a device.
func convicts(err *schemas.Error) bool { return err.Kind == schemas.KindDeviceLost && err.Step != 0 }

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
	switch p.broken = nil; {
	case err == nil:
	case convicts(err):
		p.strikes++
	case err.Kind != schemas.KindDeviceLost:
		p.faults++
	}
	return err
}

// strike counts that a part's process died under it, unless that is counted already, and returns why it is not to go on
// if that was so too often. Where nobody starts processes again, they may die of whatever.
func (f *flight) strike(p *part, counted bool, why *schemas.Error) *schemas.Error {
	if f.g.replicas == nil || f.g.replicas.cfg.Coming == nil || f.ctx.Err() != nil {
		return nil
	}
	q := f.g.requests
	q.mu.Lock()
	defer q.mu.Unlock()
	if !counted {
		p.strikes++
	}
	if p.strikes < strikesMax {
		return nil
	}
	e := *why
	e.Request = f.id
	return e.WithHint(convictedHint, p.strikes)
}

const convictedHint = "that was so %d times in a row while this request ran, and no token came of it: it may be what breaks it"

// apart waits until no other suspect is computed, if a part is one.
func (f *flight) apart(p *part) *schemas.Error {
	rs, q := f.g.replicas, f.g.requests
	if rs == nil {
		return nil
	}
	q.mu.Lock()
	waits := p.strikes >= suspectStrikes && !p.alone
	q.mu.Unlock()
	if !waits {
		return nil
	}
	for waits {
		select {
		case rs.suspects <- struct{}{}:
			waits = false
		case <-f.silent:
			if err := f.sink.idle(); err != nil {
				return f.reason(err, "submit")
			}
		case <-f.ctx.Done():
			return f.reason(context.Cause(f.ctx), "submit")
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	p.alone = true
	return nil
}

func (q *requests) acquit(p *part) {
	q.mu.Lock()
	defer q.mu.Unlock()
	p.acquit()
}

// acquit lets the next suspect be computed, if a part was one. Guarded by requests.mu.
func (p *part) acquit() {
	if p.alone {
		p.alone = false
		<-p.flight.g.replicas.suspects
	}
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
		if other != r && other.report.Model == r.report.Model && other.info != nil && !other.report.Draining && !now.Before(other.pausedUntil) {
			return true
		}
	}
	return false
}
