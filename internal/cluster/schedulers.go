package cluster

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

const (
	devicesMax     = 256             // known at once
	deviceForget   = 5 * time.Second // after its node's last report, unless it is served
	reopenPause    = 5 * time.Second // after a scheduler that could not be started
	absentLooksMax = 2               // times in a row that nobody answers, until a device is given up: a connection may be made anew
)

// SchedulersConfig says which devices are to be served, and how.
type SchedulersConfig struct {
	Model      string        // whose devices
	SilenceMax time.Duration // without an answer, a device is given up
	// Open starts the scheduler and the memory manager of a device; close stops them.
	Open func(device *schemas.ClaimReply) (close func(), err error)
	Log  zerolog.Logger
}

// Schedulers serve the devices of other nodes that have no scheduler: each gets one of this node, with a memory manager, and
// is reported as a replica. Several nodes may do this: a device takes the first that comes, and the next when that is gone.
type Schedulers struct {
	cfg    SchedulersConfig
	member *Member
	sub    *bus.Subscription
	log    zerolog.Logger

	mu     sync.Mutex
	heard  map[schemas.Instance]time.Time // devices that are looked after, and when their nodes have reported last
	closed bool

	ctx     context.Context // ends when they are to stop
	cancel  context.CancelFunc
	stopped sync.WaitGroup
}

// Serve looks for devices, and serves them until Close.
func Serve(m *Member, cfg SchedulersConfig) (*Schedulers, error) {
	s := &Schedulers{cfg: cfg, member: m, log: cfg.Log, heard: map[schemas.Instance]time.Time{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	var err error
	if s.sub, err = bus.Subscribe(m.node, schemas.NodeReports, "", func(_ schemas.Instance, r *schemas.NodeReport) { s.hear(r, time.Now()) }); err != nil {
		s.cancel()
		return nil, err
	}
	return s, nil
}

// Close gives all devices back. What still runs on them moves.
func (s *Schedulers) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.sub.Close()
	s.cancel()
	s.stopped.Wait()
}

// hear takes a node's report, and looks after its device.
func (s *Schedulers) hear(r *schemas.NodeReport, now time.Time) {
	if r.Model != s.cfg.Model || !bus.Compatible(r.Version, bus.BuildVersion) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range r.Actors {
		if a.Service != schemas.ClaimDevice.Service || s.closed {
			continue
		}
		if _, known := s.heard[a.Instance]; !known {
			if len(s.heard) >= devicesMax {
				continue
			}
			s.stopped.Go(func() { s.look(a.Instance) })
		}
		s.heard[a.Instance] = now
	}
}

// look claims a device whenever it has no scheduler, for as long as its node is there.
func (s *Schedulers) look(device schemas.Instance) {
	ask, claim := bus.NewRef(s.member.node, schemas.ClaimDevice, device), draw()
	for {
		pause := ReportEvery
		if !s.member.draining.Load() {
			request := &schemas.ClaimRequest{Scheduler: s.member.node.ID(), Claim: claim, InOrder: true}
			if reply, err := ask.Call(s.ctx, request); err == nil {
				pause, claim = s.serve(device, ask, request, reply), draw()
			}
		}
		select {
		case <-s.ctx.Done():
			return
		case <-time.After(pause):
		}
		s.mu.Lock()
		gone := time.Since(s.heard[device]) > deviceForget
		if gone {
			delete(s.heard, device)
		}
		s.mu.Unlock()
		if gone {
			return
		}
	}
}

// deviceRef asks a device.
type deviceRef = bus.Ref[schemas.ClaimRequest, schemas.ClaimReply]

// serve is a device's scheduler until one of both ends, and says when to try again.
func (s *Schedulers) serve(device schemas.Instance, ask *deviceRef, request *schemas.ClaimRequest, reply *schemas.ClaimReply) (pause time.Duration) {
	log, claim := s.log.With().Str("device", string(device)).Str("replica", string(request.Replica(device))).Logger(), request.Claim
	var replica *Replica
	var stop func()
	err := s.check(device, request, reply)
	if err == nil {
		renewed := s.renew(ask, claim)
		replica, stop, err = s.open(claim, reply)
		renewed()
	}
	if err != nil {
		log.Warn().Err(err).Msg("a device cannot be served")
		s.release(ask, claim)
		return reopenPause
	}
	log.Info().Str("description", reply.Description).Msg("a device is served")
	reason := s.keep(device, ask, claim, replica)
	replica.Leave()
	if s.ctx.Err() != nil {
		s.release(ask, claim)
		stop()
		return 0
	}
	log.Warn().Str("reason", reason).Msg("a device is given up")
	s.stopped.Go(stop) // it may wait for an answer of the device
	return 0
}

// check refuses what a device may not decide: who it is, and which subjects are its scheduler's.
func (s *Schedulers) check(device schemas.Instance, request *schemas.ClaimRequest, reply *schemas.ClaimReply) error {
	for _, f := range []struct{ name, value, want string }{{"replica", string(reply.Replica), string(request.Replica(device))}, {"node", string(reply.Node), string(device)},
		{"model", reply.Model, s.cfg.Model}} {
		if f.value != f.want {
			return schemas.Errorf(schemas.KindInvalid, "claim", "%s is %.80q; expected %.80q", f.name, f.value, f.want).WithParam(f.name)
		}
	}
	if err := reply.Validate(); err != nil { // a nil *schemas.Error must not become a non-nil error
		return err
	}
	return nil
}

// open starts what serves a device, and reports it.
func (s *Schedulers) open(claim uint64, device *schemas.ClaimReply) (r *Replica, stop func(), err error) {
	if stop, err = s.cfg.Open(device); err != nil {
		return nil, nil, err
	}
	r, err = s.member.Add(ReplicaConfig{Replica: device.Replica, Model: device.Model, Numerics: device.Numerics, Phase: device.Phase, Compute: device.Node, Incarnation: claim})
	if err != nil {
		stop()
	}
	return r, stop, err
}

// renew keeps a claim alive until the returned function is called: starting a scheduler may take longer than a claim lasts. That
// it was lost meanwhile is noticed after.
func (s *Schedulers) renew(ask *deviceRef, claim uint64) (end func()) {
	ctx, cancel := context.WithCancel(s.ctx)
	var running sync.WaitGroup
	running.Go(func() {
		tick := time.NewTicker(ReportEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			_, _ = ask.Call(ctx, &schemas.ClaimRequest{Scheduler: s.member.node.ID(), Claim: claim, Renew: true})
		}
	})
	return func() {
		cancel()
		running.Wait()
	}
}

// keep renews a claim until that is in vain, and says why. A device that nobody serves, or that does not answer, is gone.
func (s *Schedulers) keep(device schemas.Instance, ask *deviceRef, claim uint64, r *Replica) (reason string) {
	tick := time.NewTicker(ReportEvery)
	defer tick.Stop()
	subject, absent := schemas.ClaimDevice.Subject(device), 0
	for heard := time.Now(); ; {
		select {
		case <-s.ctx.Done():
			return "this node leaves"
		case <-tick.C:
		}
		reply, err := ask.Call(s.ctx, &schemas.ClaimRequest{Scheduler: s.member.node.ID(), Claim: claim, Renew: true, Busy: r.Busy()})
		switch {
		case err == nil:
			heard, absent = time.Now(), 0
			r.SetDraining(reply.Draining)
		case schemas.AsError(err, "claim").Kind == schemas.KindNotFound:
			return err.Error()
		case !s.member.node.Served(subject):
			if absent++; absent >= absentLooksMax {
				return "its connection is closed"
			}
		}
		if silent := time.Since(heard); silent > s.cfg.SilenceMax {
			return fmt.Sprintf("it has been silent for %s", silent.Round(10*time.Millisecond))
		}
	}
}

// release gives a device back, so that another node's scheduler can have it at once.
func (s *Schedulers) release(ask *deviceRef, claim uint64) {
	ctx, cancel := context.WithTimeout(context.Background(), askTimeMax)
	defer cancel()
	if _, err := ask.Call(ctx, &schemas.ClaimRequest{Scheduler: s.member.node.ID(), Claim: claim, Release: true}); err != nil {
		s.log.Debug().Err(err).Msg("a claim could not be released: it ends by itself")
	}
}
