package cluster

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

const (
	// ReportEvery is the pace of reports. A gateway gives a replica up after several of them are missing.
	ReportEvery     = 200 * time.Millisecond
	nodeReportEvery = 5    // replica reports for each of the node
	changesMax      = 4096 // names of prefixes in one report; a receiver that needs more asks for them
	askTimeMax      = 2 * time.Second
	drainLookEvery  = 50 * time.Millisecond
)

// Config says what a member has to tell.
type Config struct {
	Replica  schemas.Instance // of this node; "" is none
	Model    string
	Numerics string         // see schemas.ReplicaReport
	Phase    string         // likewise
	HTTP     string         // base URL of this node's API, "" if there is none
	Requests func() int32   // of this node's gateway; nil if there is none
	Log      zerolog.Logger // of trouble with reporting
}

// Member is a node that reports to its cluster.
type Member struct {
	cfg         Config
	node        *bus.Node
	actor       *bus.Actor
	incarnation uint64
	startedMs   int64
	draining    atomic.Bool
	busy        atomic.Int32  // sequences of the replica, when it was last asked
	now         chan struct{} // report without waiting

	scheduler *bus.Ref[schemas.InfoRequest, schemas.SchedulerState]
	memory    *bus.Ref[schemas.PrefixRequest, schemas.PrefixReply]
	engine    *schemas.EngineInfo
	serial    uint64 // of the prefixes told last

	stop    chan struct{}
	once    sync.Once
	stopped sync.WaitGroup
}

// Join makes a node a member. Its actors must run already.
func Join(node *bus.Node, cfg Config) (*Member, error) {
	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails (crypto/rand)
	m := &Member{cfg: cfg, node: node, incarnation: binary.LittleEndian.Uint64(random[:]), startedMs: time.Now().UnixMilli(),
		now: make(chan struct{}, 1), stop: make(chan struct{})}
	if cfg.Replica != "" {
		m.scheduler, m.memory = bus.NewRef(node, schemas.SchedulerInfo, cfg.Replica), bus.NewRef(node, schemas.Prefixes, cfg.Replica)
		ctx, cancel := context.WithTimeout(context.Background(), askTimeMax)
		defer cancel()
		var err error
		if m.engine, err = bus.NewRef(node, schemas.Engine, cfg.Replica).Call(ctx, &schemas.InfoRequest{}); err != nil {
			return nil, err
		}
	}
	m.actor = bus.NewActor(node, "node", schemas.Instance(node.ID()), "Says who plays what on a node; drains it.")
	group := bus.NewGroup()
	bus.Handle(m.actor, schemas.NodeInfo, group, func(context.Context, *schemas.InfoRequest) (*schemas.NodeReport, error) {
		return m.Report(), nil
	})
	bus.Handle(m.actor, schemas.DrainNode, group, func(_ context.Context, r *schemas.DrainRequest) (*schemas.NodeReport, error) {
		m.SetDraining(!r.Resume)
		return m.Report(), nil
	})
	if err := m.actor.Start(); err != nil {
		return nil, err
	}
	m.stopped.Add(1)
	go m.run()
	return m, nil
}

// Report says who plays what on the node.
func (m *Member) Report() *schemas.NodeReport {
	busy := m.busy.Load()
	if m.cfg.Requests != nil {
		busy += m.cfg.Requests()
	}
	return &schemas.NodeReport{Node: m.node.ID(), Incarnation: m.incarnation, Version: bus.BuildVersion, StartedMs: m.startedMs,
		UnixNs: time.Now().UnixNano(), Actors: m.node.Actors(), Model: m.cfg.Model, HTTP: m.cfg.HTTP, Draining: m.draining.Load(), Busy: busy}
}

// SetDraining says whether the node's replica takes new requests. What runs goes on.
func (m *Member) SetDraining(draining bool) {
	if m.draining.Swap(draining) != draining {
		m.cfg.Log.Info().Bool("draining", draining).Msg("the node's replica was told whether to take requests")
	}
	select {
	case m.now <- struct{}{}:
	default:
	}
}

// Drain takes no new requests and waits until the replica has none left, or ctx ends.
func (m *Member) Drain(ctx context.Context) error {
	m.SetDraining(true)
	if m.cfg.Replica == "" {
		return nil
	}
	// A gateway may have sent something before it heard.
	busy := m.busy.Load()
	for quietSince := time.Now(); ; {
		state, err := m.scheduler.Call(ctx, &schemas.InfoRequest{})
		if err == nil {
			busy = state.Running + state.Waiting
		}
		switch {
		case err != nil && ctx.Err() == nil:
			return err
		case err != nil || busy > 0:
			quietSince = time.Now()
		case time.Since(quietSince) > 2*ReportEvery:
			return nil
		}
		select {
		case <-ctx.Done():
			return schemas.Errorf(schemas.KindCanceled, "drain", "%d sequences go on elsewhere, or end: %v", busy, ctx.Err())
		case <-time.After(drainLookEvery):
		}
	}
}

// Leave tells the others that the node is going, and stops telling. What still runs on its replica moves.
func (m *Member) Leave() {
	m.once.Do(func() {
		close(m.stop)
		m.stopped.Wait()
		m.actor.Stop()
	})
}

func (m *Member) run() {
	defer m.stopped.Done()
	tick := time.NewTicker(ReportEvery)
	defer tick.Stop()
	for n := 0; ; n++ {
		m.tellReplica(false)
		if n%nodeReportEvery == 0 {
			m.publishNode()
		}
		select {
		case <-tick.C:
		case <-m.now:
			n = -1 // the node's, too
		case <-m.stop:
			m.tellReplica(true)
			return
		}
	}
}

func (m *Member) publishNode() {
	if err := bus.Publish(m.node, schemas.NodeReports, schemas.Instance(m.node.ID()), m.Report()); err != nil {
		m.cfg.Log.Warn().Err(err).Msg("the node's report could not be sent")
	}
}

// tellReplica reports on the replica. One whose scheduler or memory does not answer is not reported, and so
// given up by those that listen.
func (m *Member) tellReplica(leaving bool) {
	if m.cfg.Replica == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), askTimeMax)
	defer cancel()
	state, err := m.scheduler.Call(ctx, &schemas.InfoRequest{})
	var changes *schemas.PrefixReply
	if err == nil {
		changes, err = m.memory.Call(ctx, &schemas.PrefixRequest{Since: m.serial})
	}
	if err != nil {
		if !leaving {
			m.cfg.Log.Warn().Err(err).Msg("the replica does not answer; it is not reported")
		}
		return
	}
	m.busy.Store(state.Running + state.Waiting)
	r := &schemas.ReplicaReport{Replica: m.cfg.Replica, Node: m.node.ID(), Incarnation: m.incarnation, Version: bus.BuildVersion,
		Model: m.cfg.Model, Numerics: m.cfg.Numerics, BlockSize: m.engine.BlockSize, Blocks: m.engine.Blocks, ContextMax: m.engine.ContextMax,
		SequencesMax: m.engine.SequencesMax, Draining: m.draining.Load(), Leaving: leaving, Waiting: state.Waiting, Running: state.Running,
		QueuedTokens: state.QueuedTokens, FreeBlocks: changes.Available, Progress: state.Tokens + state.Prefilled,
		Since: m.serial, Serial: changes.Serial, Added: changes.Added, Removed: changes.Removed, Phase: m.cfg.Phase}
	if changes.All || len(r.Added)+len(r.Removed) > changesMax {
		r.Since, r.Added, r.Removed = 0, nil, nil // who needs them asks
	}
	m.serial = changes.Serial
	if err := bus.Publish(m.node, schemas.ReplicaReports, m.cfg.Replica, r); err != nil {
		m.cfg.Log.Warn().Err(err).Msg("the replica's report could not be sent")
	}
}
