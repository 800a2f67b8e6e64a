package gateway

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/internal/routing"
	"github.com/troupe-engine/troupe/schemas"
)

// Cluster says how a gateway works with several replicas. A zero field becomes its default.
type Cluster struct {
	Routing     string        // policy, see package routing. Default "prefix"
	Seed        uint64        // of policies that draw lots
	SilenceMax  time.Duration // without a report, a replica is given up. Default 1.5 s
	ProgressMax time.Duration // with requests and without a new token, likewise. Default 2 min
	MoveWaitMax time.Duration // for a replica that can take over a request. Default 10 s
	// Coming says, where somebody starts replicas again, what is done about a missing one, "" if that is given up: new
	// requests wait for it meanwhile, and a request that processes die of is found out. nil: nobody does.
	Coming func() string
}

func (c Cluster) withDefaults() Cluster {
	orDefault(&c.Routing, routing.PolicyDefault)
	orDefault(&c.SilenceMax, 1500*time.Millisecond)
	orDefault(&c.ProgressMax, 2*time.Minute)
	orDefault(&c.MoveWaitMax, 10*time.Second)
	return c
}

const (
	replicasLookEvery = 100 * time.Millisecond // whether they are there
	replicaAskTimeMax = 2 * time.Second
	heldMax           = 4 * schemas.PrefixKeysMax // names of prefixes taken from one replica before all are asked for anew
)

// replica is where requests are submitted: the only one of a gateway that works alone, or one run of one in a
// cluster. What came back after it was given up is another.
type replica struct {
	name    schemas.Instance
	submit  *bus.Ref[schemas.SubmitRequest, schemas.SubmitReply]
	cancel  *bus.Ref[schemas.CancelRequest, schemas.CancelReply]
	compile *bus.Ref[schemas.CompileRequest, schemas.CompileReply]
	fetch   *bus.Ref[schemas.KVFetchRequest, schemas.KVFetchReply]
	gone    context.Context // ends when it is given up, with the reason; nil if it never is

	// Of a cluster. Guarded by replicas.mu, but for model, numerics, phase and incarnation, which do not change.
	model       *model
	numerics    string // see schemas.ReplicaReport
	phase       string // likewise
	incarnation uint64
	giveUp      context.CancelCauseFunc
	ask         *bus.Ref[schemas.InfoRequest, schemas.EngineInfo]
	prefixes    *bus.Ref[schemas.PrefixRequest, schemas.PrefixReply]
	report      *schemas.ReplicaReport
	info        *schemas.EngineInfo // nil until it has answered: it gets no request before
	heard       time.Time           // of the last report
	progressed  time.Time           // of the last one that said so, or that had nothing to do
	serial      uint64              // of its prefixes, as far as they are known
	held        int                 // names of prefixes told since all were, those that went included
	asking      bool                // for info or prefixes
	faults      int                 // requests that failed there …
	faultsSince time.Time           // … since then
	pausedUntil time.Time           // it gets no new requests before
}

func newReplica(node *bus.Node, name schemas.Instance) *replica {
	return &replica{name: name, submit: bus.NewRef(node, schemas.Submit, name), cancel: bus.NewRef(node, schemas.CancelSeqs, name),
		compile: bus.NewRef(node, schemas.Compile, name), fetch: bus.NewRef(node, schemas.FetchKV, name), ask: bus.NewRef(node, schemas.Engine, name), prefixes: bus.NewRef(node, schemas.Prefixes, name)}
}

// lost is why the replica was given up, or nil.
func (r *replica) lost() error {
	if r.gone == nil || r.gone.Err() == nil {
		return nil
	}
	return context.Cause(r.gone)
}

// while is ctx until the replica is given up: nobody waits for the answer of one that is dead.
func (r *replica) while(ctx context.Context) (context.Context, context.CancelFunc) {
	return until(ctx, r.gone)
}

// until is ctx, or its end, as soon as gone ends; gone may be nil.
func until(ctx, gone context.Context) (context.Context, context.CancelFunc) {
	if gone == nil {
		return ctx, func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(gone, cancel)
	return ctx, func() { stop(); cancel() }
}

// replicas is what a gateway in a cluster knows of the replicas that can run its requests, from their reports.
type replicas struct {
	g   *Gateway
	cfg Cluster
	sub *bus.Subscription

	metrics *replicasCollector

	mu     sync.Mutex
	router *routing.Router
	known  map[schemas.Instance]*replica
	came   chan struct{}               // closed when one can take requests again, and replaced
	odd    map[schemas.Instance]int    // reports that were refused, by sender
	stuck  map[schemas.Instance]uint64 // progress of those that were given up for having made none
	moved  uint64                      // requests that went on elsewhere
	handed struct {                    // from prefill to decode
		requests, failed, blocks, bytes uint64
		ways                            map[string]uint64 // hand-overs of which something came, by the way it came
	}
	phased int // known replicas that are for one phase alone
	closed bool
	losses uint64    // replicas that were given up
	warned time.Time // that a routing policy in another process has failed

	suspects chan struct{} // holds the turn of the one that is computed
}

// oddSendersMax bounds the senders of bad reports that are remembered, to complain about each once.
const oddSendersMax = 64

func newReplicas(g *Gateway, cfg Cluster) (*replicas, error) {
	cfg = cfg.withDefaults()
	router, err := routing.New(routing.Options{Policy: cfg.Routing, Seed: cfg.Seed})
	if err != nil {
		return nil, err
	}
	return &replicas{g: g, cfg: cfg, router: router, known: map[schemas.Instance]*replica{}, came: make(chan struct{}), suspects: make(chan struct{}, 1), odd: map[schemas.Instance]int{},
		stuck: map[schemas.Instance]uint64{}}, nil
}

// start listens to reports and looks after the replicas until the gateway stops.
func (rs *replicas) start() (err error) {
	rs.metrics = newReplicasCollector(rs)
	if err := rs.g.cfg.Registry.Register(rs.metrics); err != nil {
		return schemas.AsError(err, "register metrics")
	}
	if rs.sub, err = bus.Subscribe(rs.g.node, schemas.ReplicaReports, "", func(from schemas.Instance, m *schemas.ReplicaReport) {
		if err := rs.hear(from, m, time.Now()); err != nil {
			rs.complain(from, err)
		}
	}); err != nil {
		return err
	}
	rs.g.lookAfter(rs.look, rs.close)
	return nil
}

// lookAfter calls look every now and then until the gateway stops, and then end.
func (g *Gateway) lookAfter(look func(now time.Time), end func()) {
	g.background.Go(func() {
		ticker := time.NewTicker(replicasLookEvery)
		defer ticker.Stop()
		for {
			select {
			case <-g.stop:
				end()
				return
			case now := <-ticker.C:
				look(now)
			}
		}
	})
}

// close ends what is asked of replicas, and that more is.
func (rs *replicas) close() {
	rs.sub.Close()
	rs.g.cfg.Registry.Unregister(rs.metrics)
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.closed = true
	for _, r := range rs.known {
		r.giveUp(context.Canceled)
	}
}

func (rs *replicas) complain(from schemas.Instance, err *schemas.Error) {
	rs.mu.Lock()
	_, before := rs.odd[from]
	if before || len(rs.odd) < oddSendersMax {
		rs.odd[from]++
	}
	rs.mu.Unlock()
	if !before {
		rs.g.log.Warn().Err(err).Str("replica", string(from)).Msg("a replica's reports are refused")
	}
}

// hear takes a report.
func (rs *replicas) hear(from schemas.Instance, m *schemas.ReplicaReport, now time.Time) *schemas.Error {
	if err := checkReport(from, m); err != nil {
		return err
	}
	served := rs.g.models.of(m.Model)
	if served == nil {
		return schemas.Errorf(schemas.KindOverloaded, "hear report", "%d models are known already", modelsMax)
	}
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rs.closed {
		return nil
	}
	r := rs.known[from]
	if r != nil && (r.incarnation != m.Incarnation || r.model != served || r.numerics != m.Numerics || r.phase != m.Phase || m.Leaving) {
		reason := "it was restarted"
		if m.Leaving {
			reason = "it is leaving"
		}
		rs.drop(r, reason)
		r = nil
	}
	if m.Leaving {
		return nil
	}
	if at, stuck := rs.stuck[from]; stuck {
		if m.Progress == at && m.Running+m.Waiting > 0 {
			return nil
		}
		delete(rs.stuck, from)
	}
	if r == nil {
		if len(rs.known) >= routing.ReplicasMax {
			return schemas.Errorf(schemas.KindOverloaded, "hear report", "%d replicas are known already", len(rs.known))
		}
		r = newReplica(rs.g.node, from)
		r.model, r.incarnation, r.numerics, r.phase, r.progressed = served, m.Incarnation, m.Numerics, m.Phase, now
		if r.phase != "" {
			rs.phased++
		}
		r.gone, r.giveUp = context.WithCancelCause(context.Background())
		rs.known[from] = r
	}
	if r.report == nil || m.Progress != r.report.Progress || m.Running+m.Waiting == 0 {
		r.progressed = now
	}
	r.report, r.heard = m, now
	if r.info == nil {
		rs.inquire(r)
		return nil
	}
	rs.note(r)
	return nil
}

// checkReport refuses what cannot be true.
func checkReport(from schemas.Instance, m *schemas.ReplicaReport) *schemas.Error {
	bad := func(param string, value any, want string) *schemas.Error {
		return schemas.Errorf(schemas.KindInvalid, "hear report", "%s is %v; expected %s", param, value, want).WithParam(param)
	}
	switch {
	case m.Replica != from:
		return bad("replica", m.Replica, "the sender, "+string(from))
	case !isModelName(m.Model):
		return bad("model", fmt.Sprintf("%q", clip(m.Model)), fmt.Sprintf("1 to %d bytes of UTF-8", modelNameMax))
	case m.BlockSize < 1:
		return bad("block_size", m.BlockSize, "at least 1")
	case m.Phase != "" && m.Phase != schemas.PhasePrefill && m.Phase != schemas.PhaseDecode:
		return bad("phase", clip(m.Phase), "prefill, decode or nothing")
	case m.SequencesMax < 1:
		return bad("sequences_max", m.SequencesMax, "at least 1")
	case m.Waiting < 0 || m.Running < 0 || m.QueuedTokens < 0 || m.FreeBlocks < 0 || m.Blocks < 0:
		return bad("load", []int64{int64(m.Waiting), int64(m.Running), m.QueuedTokens, int64(m.FreeBlocks), int64(m.Blocks)}, "0 or more")
	case !bus.Compatible(m.Version, bus.BuildVersion):
		return bad("version", m.Version, "one like ours, "+bus.BuildVersion+", or of the minor version before or after")
	}
	return nil
}

// inquire asks a new replica what it serves. Until it answers it gets no request.
func (rs *replicas) inquire(r *replica) {
	rs.askAside(r, func(ctx context.Context) {
		info, err := r.ask.Call(ctx, &schemas.InfoRequest{})
		rs.mu.Lock()
		defer rs.mu.Unlock()
		if err != nil || rs.known[r.name] != r {
			return // its next report asks again
		}
		r.info, r.asking = info, false // its prefixes may be asked for
		r.model.engine.Store(info)
		rs.note(r)
		close(rs.came)
		rs.came = make(chan struct{})
		rs.g.log.Info().Str("replica", string(r.name)).Str("node", string(r.report.Node)).Str("model", r.model.name).Str("device", info.Device).Msg("a replica has come")
	})
}

// askAside runs a question to r on a goroutine of its own, one at a time.
func (rs *replicas) askAside(r *replica, ask func(ctx context.Context)) {
	if r.asking {
		return
	}
	r.asking = true
	rs.g.background.Go(func() {
		ctx, cancel := context.WithTimeout(r.gone, replicaAskTimeMax)
		defer cancel()
		ask(ctx)
		rs.mu.Lock()
		r.asking = false
		rs.mu.Unlock()
	})
}

// note tells the router what the latest report says.
func (rs *replicas) note(r *replica) {
	m := r.report
	if err := rs.router.Set(routing.Replica{Name: r.name, Model: m.Model, Version: m.Version, BlockSize: m.BlockSize, Blocks: m.Blocks,
		SequencesMax: m.SequencesMax, Phase: m.Phase, Draining: m.Draining || rs.paused(r, time.Now()), Load: routing.Load{Waiting: m.Waiting, Running: m.Running,
			QueuedTokens: m.QueuedTokens, FreeBlocks: m.FreeBlocks}}); err != nil {
		rs.g.log.Warn().Err(err).Str("replica", string(r.name)).Msg("a replica is not used")
		return
	}
	switch {
	case m.Since == 0 && m.Serial == r.serial:
	case m.Since == 0:
		rs.fetch(r, 0)
	case m.Since > r.serial:
		rs.fetch(r, r.serial) // reports were lost
	case m.Serial > r.serial:
		if r.held += len(m.Added); r.held > heldMax {
			rs.router.Reset(r.name, nil)
			r.held = 0
			rs.fetch(r, 0)
			return
		}
		// What changed since a state that is older than ours leads to the same state.
		rs.router.Update(r.name, m.Added, m.Removed)
		r.serial = m.Serial
	}
}

// fetch asks a replica's memory for its prefixes.
func (rs *replicas) fetch(r *replica, since uint64) {
	rs.askAside(r, func(ctx context.Context) {
		reply, err := r.prefixes.Call(ctx, &schemas.PrefixRequest{Since: since})
		rs.mu.Lock()
		defer rs.mu.Unlock()
		if err != nil || rs.known[r.name] != r {
			return // its next report asks again
		}
		if len(reply.Added) > schemas.PrefixKeysMax {
			reply.Added = reply.Added[:schemas.PrefixKeysMax]
		}
		if reply.All {
			rs.router.Reset(r.name, reply.Added)
			r.held = len(reply.Added)
		} else {
			rs.router.Update(r.name, reply.Added, reply.Removed)
		}
		r.serial = reply.Serial
	})
}

// look gives up the replicas that are silent, cut off or stuck.
func (rs *replicas) look(now time.Time) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for _, r := range rs.known {
		switch {
		case now.Sub(r.heard) > rs.cfg.SilenceMax:
			rs.drop(r, "it has been silent for "+now.Sub(r.heard).Round(10*time.Millisecond).String())
		case now.Sub(r.heard) > replicasLookEvery && !rs.g.node.Served(schemas.Submit.Subject(r.name)):
			rs.drop(r, "its connection is closed")
		case now.Sub(r.progressed) > rs.cfg.ProgressMax:
			rs.drop(r, "it has requests, but no token came of it for "+rs.cfg.ProgressMax.String())
			if len(rs.stuck) >= oddSendersMax {
				clear(rs.stuck)
			}
			rs.stuck[r.name] = r.report.Progress
		}
	}
}

// drop gives a replica up. What runs there moves.
func (rs *replicas) drop(r *replica, reason string) {
	delete(rs.known, r.name)
	if r.phase != "" {
		rs.phased--
	}
	rs.router.Remove(r.name)
	rs.losses++
	rs.g.log.Warn().Str("replica", string(r.name)).Str("reason", reason).Msg("a replica is given up")
	r.giveUp(schemas.Errorf(schemas.KindUnavailable, "run", "the replica %s was given up: %s", r.name, reason))
}

// engine describes what the cluster serves of a model, as one of its replicas does, or says why that is nothing.
func (rs *replicas) engine(m *model) (*schemas.EngineInfo, *schemas.Error) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	var found *replica
	for _, r := range rs.known {
		if r.model == m && r.info != nil && (found == nil || r.name == rs.g.cfg.Scheduler || r.name < found.name && found.name != rs.g.cfg.Scheduler) {
			found = r // this node's own, or else the first
		}
	}
	if found == nil {
		return nil, schemas.Errorf(schemas.KindUnavailable, "ask replicas", "no replica of %s is there", m.name).
			WithHint("`troupe nodes` lists who is")
	}
	return found.info, nil
}

// SetRouting chooses the policy by which the gateway chooses between replicas, from now on.
func (g *Gateway) SetRouting(policy string) *schemas.Error {
	rs := g.replicas
	if rs == nil {
		return schemas.Errorf(schemas.KindUnsupported, "route", "there is one replica: nothing to choose between")
	}
	p, err := routing.NewPolicy(policy, rs.cfg.Seed)
	if err != nil {
		return schemas.AsError(err, "route")
	}
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rs.router.Policy() != p.Name() {
		g.log.Info().Str("policy", p.Name()).Msg("replicas are chosen by another policy")
		rs.router.SetPolicy(p)
	}
	return nil
}

// Routing names the policy by which the gateway chooses between replicas, "" if it does not.
func (g *Gateway) Routing() string {
	rs := g.replicas
	if rs == nil {
		return ""
	}
	rs.mu.Lock()
	defer rs.mu.Unlock()
	return rs.router.Policy()
}

// Replicas lists the latest reports of the replicas that requests can go to, in no order; none outside of a cluster.
func (g *Gateway) Replicas() (list []*schemas.ReplicaReport) {
	rs := g.replicas
	if rs == nil {
		return nil
	}
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for _, r := range rs.known {
		if r.info != nil {
			list = append(list, r.report)
		}
	}
	return list
}

// HeldPrefixes counts the blocks of prefix that a replica is known to hold.
func (g *Gateway) HeldPrefixes(name schemas.Instance) int {
	rs := g.replicas
	if rs == nil {
		return 0
	}
	rs.mu.Lock()
	defer rs.mu.Unlock()
	return rs.router.Held(name)
}

// Moved counts the requests that went on at another replica.
func (g *Gateway) Moved() uint64 {
	rs := g.replicas
	if rs == nil {
		return 0
	}
	rs.mu.Lock()
	defer rs.mu.Unlock()
	return rs.moved
}
