package cluster

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

// changesMax bounds the names of prefixes in one report; a receiver that needs more asks for them.
const changesMax = 4096

// ReplicaConfig says what there is to tell of a replica beside what its scheduler and memory say. The fields are those of
// schemas.ReplicaReport; an Incarnation of 0 is the node's.
type ReplicaConfig struct {
	Replica         schemas.Instance
	Model, Numerics string
	Phase           string
	Compute         schemas.NodeID
	Incarnation     uint64
}

// Replica is one that a member reports: its scheduler and memory are on the member's node.
type Replica struct {
	m         *Member
	cfg       ReplicaConfig
	scheduler *bus.Ref[schemas.InfoRequest, schemas.SchedulerState]
	memory    *bus.Ref[schemas.PrefixRequest, schemas.PrefixReply]
	engine    *schemas.EngineInfo

	busy     atomic.Int32  // sequences, when it was last asked
	draining atomic.Bool   // its device is, on another node
	left     atomic.Bool   // it is reported no more
	now      chan struct{} // report without waiting
	serial   uint64        // of the prefixes told last

	ctx     context.Context // ends when it leaves
	cancel  context.CancelFunc
	once    sync.Once
	stopped sync.WaitGroup
}

// Add reports a replica, whose scheduler and memory run already, until it leaves or the member does.
func (m *Member) Add(cfg ReplicaConfig) (*Replica, error) {
	if cfg.Incarnation == 0 {
		cfg.Incarnation = m.incarnation
	}
	r := &Replica{m: m, cfg: cfg, scheduler: bus.NewRef(m.node, schemas.SchedulerInfo, cfg.Replica), memory: bus.NewRef(m.node, schemas.Prefixes, cfg.Replica),
		now: make(chan struct{}, 1)}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	ctx, cancel := context.WithTimeout(context.Background(), askTimeMax)
	defer cancel()
	var err error
	if r.engine, err = bus.NewRef(m.node, schemas.Engine, cfg.Replica).Call(ctx, &schemas.InfoRequest{}); err != nil {
		r.cancel()
		return nil, err
	}
	m.mu.Lock()
	m.replicas = append(m.replicas, r)
	m.mu.Unlock()
	r.stopped.Go(r.run)
	return r, nil
}

// Busy counts the replica's sequences, as it said when it was last asked.
func (r *Replica) Busy() int32 {
	if r.left.Load() {
		return 0
	}
	return r.busy.Load()
}

// SetDraining says whether the replica's device, on another node, is to get new requests.
func (r *Replica) SetDraining(draining bool) {
	if r.draining.Swap(draining) != draining {
		wake(r.now)
	}
}

// Leave tells the others, at once, that the replica is going. What still runs there moves.
func (r *Replica) Leave() {
	r.once.Do(func() {
		r.left.Store(true)
		r.cancel()
		r.stopped.Wait() // a report that came later would take it back
		r.m.mu.Lock()
		r.m.replicas = slices.DeleteFunc(r.m.replicas, func(other *Replica) bool { return other == r })
		r.m.mu.Unlock()
		last := r.report()
		last.Leaving = true
		r.publish(last)
	})
}

// report is what does not change.
func (r *Replica) report() *schemas.ReplicaReport {
	return &schemas.ReplicaReport{Replica: r.cfg.Replica, Node: r.m.node.ID(), Incarnation: r.cfg.Incarnation, Version: bus.BuildVersion, Model: r.cfg.Model, Numerics: r.cfg.Numerics,
		BlockSize: r.engine.BlockSize, Blocks: r.engine.Blocks, ContextMax: r.engine.ContextMax, SequencesMax: r.engine.SequencesMax, Phase: r.cfg.Phase, Compute: r.cfg.Compute}
}

func (r *Replica) publish(report *schemas.ReplicaReport) {
	if err := bus.Publish(r.m.node, schemas.ReplicaReports, r.cfg.Replica, report); err != nil {
		r.m.cfg.Log.Warn().Err(err).Msg("the replica's report could not be sent")
	}
}

func (r *Replica) run() {
	tick := time.NewTicker(ReportEvery)
	defer tick.Stop()
	for {
		r.tell()
		select {
		case <-tick.C:
		case <-r.now:
		case <-r.ctx.Done():
			return
		}
	}
}

// tell reports on the replica. One whose scheduler or memory does not answer is not reported, and so given up by those
// that listen.
func (r *Replica) tell() {
	ctx, cancel := context.WithTimeout(r.ctx, askTimeMax)
	defer cancel()
	state, err := r.scheduler.Call(ctx, &schemas.InfoRequest{})
	var changes *schemas.PrefixReply
	if err == nil {
		changes, err = r.memory.Call(ctx, &schemas.PrefixRequest{Since: r.serial})
	}
	if err != nil {
		if !r.left.Load() {
			r.m.cfg.Log.Warn().Err(err).Str("replica", string(r.cfg.Replica)).Msg("the replica does not answer; it is not reported")
		}
		return
	}
	r.busy.Store(state.Running + state.Waiting)
	report := r.report()
	report.Draining = r.m.draining.Load() || r.draining.Load()
	report.Waiting, report.Running, report.QueuedTokens, report.FreeBlocks = state.Waiting, state.Running, state.QueuedTokens, changes.Available
	report.Progress = state.Tokens + state.Prefilled
	report.Since, report.Serial, report.Added, report.Removed = r.serial, changes.Serial, changes.Added, changes.Removed
	if changes.All || len(report.Added)+len(report.Removed) > changesMax {
		report.Since, report.Added, report.Removed = 0, nil, nil // who needs them asks
	}
	r.serial = changes.Serial
	r.publish(report)
}
