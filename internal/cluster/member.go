package cluster

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"slices"
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
	nodeReportEvery = 5 * ReportEvery
	askTimeMax      = 2 * time.Second
	drainLookEvery  = 50 * time.Millisecond
)

// Config says what a member has to tell.
type Config struct {
	Roles    []string // of the node
	Model    string
	HTTP     string         // base URL of this node's API, "" if there is none
	Requests func() int32   // of this node's gateway; nil if there is none
	Device   Device         // whose scheduler is on another node; nil if there is none
	Log      zerolog.Logger // of trouble with reporting
}

// Device works for a scheduler on another node, which is told by it what is drained, and tells it how much there is to do.
type Device interface {
	SetDraining(draining bool)
	Busy() int32 // sequences
}

// Member is a node that reports to its cluster.
type Member struct {
	cfg         Config
	node        *bus.Node
	actor       *bus.Actor
	incarnation uint64
	startedMs   int64
	draining    atomic.Bool
	now         chan struct{} // report without waiting

	mu       sync.Mutex
	replicas []*Replica // that the node reports

	stop    chan struct{}
	once    sync.Once
	stopped sync.WaitGroup
}

// draw returns a number that nobody else draws, and that is not 0.
func draw() uint64 {
	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails (crypto/rand)
	return binary.LittleEndian.Uint64(random[:]) | 1
}

// Join makes a node a member. Its actors must run already.
func Join(node *bus.Node, cfg Config) (*Member, error) {
	m := &Member{cfg: cfg, node: node, incarnation: draw(), startedMs: time.Now().UnixMilli(), now: make(chan struct{}, 1), stop: make(chan struct{})}
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
	m.stopped.Go(m.run)
	return m, nil
}

// Report says who plays what on the node.
func (m *Member) Report() *schemas.NodeReport {
	return &schemas.NodeReport{Node: m.node.ID(), Incarnation: m.incarnation, Version: bus.BuildVersion, StartedMs: m.startedMs,
		UnixNs: time.Now().UnixNano(), Actors: m.node.Actors(), Model: m.cfg.Model, HTTP: m.cfg.HTTP, Draining: m.draining.Load(), Busy: m.busy(), Roles: m.cfg.Roles}
}

// busy counts sequences of the node's replicas, as far as it has heard of them, and requests of its gateway.
func (m *Member) busy() (n int32) {
	if m.cfg.Requests != nil {
		n += m.cfg.Requests()
	}
	if m.cfg.Device != nil {
		n += m.cfg.Device.Busy()
	}
	for _, r := range m.reported() {
		n += r.Busy()
	}
	return n
}

// reported are the replicas that the node reports.
func (m *Member) reported() []*Replica {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.replicas)
}

// SetDraining says whether the node's replicas take new requests. What runs goes on.
func (m *Member) SetDraining(draining bool) {
	if m.draining.Swap(draining) != draining {
		m.cfg.Log.Info().Bool("draining", draining).Msg("the node's replica was told whether to take requests")
	}
	if m.cfg.Device != nil {
		m.cfg.Device.SetDraining(draining)
	}
	wake(m.now)
	for _, r := range m.reported() {
		wake(r.now)
	}
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Drain takes no new requests and waits until the node's replicas, and its device, have none left, or ctx ends.
func (m *Member) Drain(ctx context.Context) error {
	m.SetDraining(true)
	quiet := 2 * ReportEvery // a gateway may have sent something before it heard
	if m.cfg.Device != nil {
		quiet *= 2 // the scheduler stands in between
	}
	if m.cfg.Device == nil && len(m.reported()) == 0 {
		return nil
	}
	for quietSince := time.Now(); ; {
		busy, err := m.left(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			return err
		case err != nil || busy > 0:
			quietSince = time.Now()
		case time.Since(quietSince) > quiet:
			return nil
		}
		select {
		case <-ctx.Done():
			return schemas.Errorf(schemas.KindCanceled, "drain", "%d sequences go on elsewhere, or end: %v", busy, ctx.Err())
		case <-time.After(drainLookEvery):
		}
	}
}

// left counts the sequences of replicas and device as they are now; with an error, as they were known to be.
func (m *Member) left(ctx context.Context) (busy int32, err error) {
	if m.cfg.Device != nil {
		busy = m.cfg.Device.Busy()
	}
	for _, r := range m.reported() {
		if state, failed := r.scheduler.Call(ctx, &schemas.InfoRequest{}); failed == nil {
			r.busy.Store(state.Running + state.Waiting)
		} else if !r.left.Load() {
			err = failed
		}
		busy += r.Busy()
	}
	return busy, err
}

// Leave tells the others that the node is going, and stops telling. What still runs on its replicas moves.
func (m *Member) Leave() {
	m.once.Do(func() {
		close(m.stop)
		m.stopped.Wait()
		for _, r := range m.reported() {
			r.Leave()
		}
		m.actor.Stop()
	})
}

func (m *Member) run() {
	tick := time.NewTicker(nodeReportEvery)
	defer tick.Stop()
	for {
		if err := bus.Publish(m.node, schemas.NodeReports, schemas.Instance(m.node.ID()), m.Report()); err != nil {
			m.cfg.Log.Warn().Err(err).Msg("the node's report could not be sent")
		}
		select {
		case <-tick.C:
		case <-m.now:
		case <-m.stop:
			return
		}
	}
}
