package compute

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe/actors/compute/model"
	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/internal/guide"
	"github.com/troupe-engine/troupe/schemas"
)

// QueuedMax bounds the steps waiting on a device: more than any sensible pipeline depth.
const QueuedMax = 8

// compilersMax bounds the guides that are compiled at once.
const compilersMax = 2

// Config names a computation manager and what it runs.
type Config struct {
	Replica   schemas.Instance
	ModelName string
	Observe   Observer // nil except for verification
	// Weights computes the digest of the checkpoint, once, when it is first asked for; nil: it is not known.
	Weights func(context.Context) (string, error)
	// Handover says how KV blocks go to other replicas or come from them; nil: they do not.
	Handover *Handover
	// Vocabulary is what guides are compiled against; it is asked for with the first. nil: there are no guides.
	Vocabulary func() (*guide.Vocabulary, error)
	// SubmitKernels lets others submit kernels in source.
	SubmitKernels bool
	// ResultsAhead: the scheduler is on another node, and keeps the order of results: they go out without waiting for the one before
	// to be acknowledged.
	ResultsAhead bool
	// Lost is told, once, when the device can no longer be used; the scheduler knows by then. nil: nobody is.
	Lost func(*schemas.Error)
}

// Actor is the computation manager's shell.
type Actor struct {
	cfg      Config
	actor    *bus.Actor
	done     *bus.Ref[schemas.StepResult, schemas.Ack]
	exec     *executor
	log      zerolog.Logger
	inTurn   func(func())                                   // runs something as a message is; not at all when the actor has stopped
	exchange *exchange                                      // nil: no KV is handed over
	results  *bus.Pipeline[schemas.StepResult, schemas.Ack] // nil: they go out one by one

	// Owned by the mailbox's turn.
	epoch schemas.Epoch
	step  schemas.StepID // last one queued
	plans uint64         // queued, ever

	ctx     context.Context // ends with the actor
	cancel  context.CancelFunc
	queued  atomic.Int32
	mu      sync.Mutex
	ledger  schemas.Ledger
	ran     schemas.StepID
	failed  *schemas.Error // why the last step did; nil if it did not
	weights weightsDigest
	stopped sync.WaitGroup
	lost    sync.Once // Lost was told
}

// New prepares the computation manager that runs m on dev. It owns both from Start to Stop.
func New(node *bus.Node, mb bus.Mailbox, cfg Config, dev gpu.Device, m *model.Model, log zerolog.Logger) *Actor {
	a := &Actor{cfg: cfg, done: bus.NewRef(node, schemas.StepDone, cfg.Replica),
		log: log.With().Str("actor", "compute."+string(cfg.Replica)).Logger(),
		exec: &executor{dev: dev, model: m, synchronous: dev.Info().Synchronous, guides: newGuides(cfg.Vocabulary), tables: newTables(m.Options()), observe: cfg.Observe,
			queue: make(chan *schemas.StepPlan, QueuedMax), jobs: make(chan job, jobsMax), launched: make(chan *launch, QueuedMax)}}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	subject := schemas.Execute.Subject(cfg.Replica)
	a.exec.suffers = func() time.Duration {
		delay, _ := node.Suffers(schemas.FaultSlowDevice, subject)
		return delay
	}
	a.exec.stopping = a.ctx.Done()
	a.exec.loses = func() bool {
		_, hit := node.Suffers(schemas.FaultLoseDevice, subject)
		return hit
	}
	a.actor = bus.NewActor(node, "compute", cfg.Replica, "Executes step plans with a model on a device.")
	a.actor.JournalsItself() // in its scheduler's
	bus.Handle(a.actor, schemas.Execute, mb, a.execute)
	bus.Handle(a.actor, schemas.Compile, bus.NewPool(compilersMax), a.compileGuide)
	bus.Handle(a.actor, schemas.ComputeInfo, mb, func(context.Context, *schemas.InfoRequest) (*schemas.ComputeState, error) {
		return a.state(), nil
	})
	a.serveKernels()
	bus.HandleTry(a.actor, mb, a.trials(), a.ailments)
	a.inTurn = func(f func()) { bus.Run(mb, a.actor, func(context.Context) { f() }) }
	if cfg.Handover != nil {
		a.exchange = newExchange(node, mb, a)
	}
	return a
}

// Start makes the actor reachable and starts driving the device.
func (a *Actor) Start() error {
	if err := a.openResults(); err != nil {
		return err
	}
	if err := a.actor.Start(); err != nil {
		a.closeResults()
		return err
	}
	a.stopped.Add(2)
	go func() {
		defer a.stopped.Done()
		a.exec.run()
	}()
	go func() {
		defer a.stopped.Done()
		a.report()
	}()
	if a.exchange == nil {
		return nil
	}
	err := a.exchange.start()
	if err != nil {
		a.Stop()
	}
	return err
}

// Stop waits for queued steps, whose results nobody gets any more, and stops driving the device.
func (a *Actor) Stop() {
	if a.exchange != nil {
		a.exchange.stop()
	}
	a.actor.Stop()
	a.cancel()
	close(a.exec.queue)
	a.stopped.Wait()
	a.closeResults()
	if a.exchange != nil && a.exchange.shares != nil {
		a.exchange.shares.free() // nobody else uses the device now
	}
}

// execute queues a plan. Plans of an epoch come in increasing steps; a repeat is acknowledged again, and one that comes before the
// plan that it follows is refused.
func (a *Actor) execute(_ context.Context, p *schemas.StepPlan) (*schemas.PlanReply, error) {
	if p.Epoch == a.epoch && p.After > a.step || p.Epoch > a.epoch && p.After > 0 {
		err := schemas.Errorf(schemas.KindOutOfOrder, "execute", "the plan of step %d, which it follows, has yet to come", p.After).WithParam("after")
		err.Step = p.Step
		return nil, err
	}
	if p.Epoch != a.epoch {
		if p.Epoch < a.epoch {
			return nil, epochOver(p, a.epoch)
		}
		a.epoch, a.step = p.Epoch, 0
		a.exec.newest.Store(uint64(p.Epoch))
	}
	if p.Step <= a.step {
		return &schemas.PlanReply{Queued: a.queued.Load()}, nil
	}
	select {
	case a.exec.queue <- p:
	default:
		err := schemas.Errorf(schemas.KindOverloaded, "execute", "%d steps are queued already", QueuedMax).
			WithHint("lower the scheduler's pipeline depth")
		err.Step = p.Step
		return nil, err
	}
	a.plans++
	a.step = p.Step
	return &schemas.PlanReply{Queued: a.queued.Add(1)}, nil
}

// report sends results to the scheduler while the device goes on.
func (a *Actor) report() {
	for l := range a.exec.launched {
		r := a.exec.finish(l)
		a.queued.Add(-1)
		a.mu.Lock()
		a.ledger.Add(r.Ledger)
		a.ran, a.failed = r.Step, r.Error
		a.mu.Unlock()
		switch {
		case a.results == nil:
			a.delivered(r, a.deliver(a.ctx, a.send, r))
		case !a.results.Put(r):
			a.delivered(r, schemas.Errorf(schemas.KindOverloaded, "deliver", "%d results wait for the scheduler already", bus.PipelineQueueMax))
		}
	}
}

func (a *Actor) state() *schemas.ComputeState {
	info, mem := a.exec.dev.Info(), a.exec.dev.Memory()
	a.mu.Lock()
	defer a.mu.Unlock()
	st := &schemas.ComputeState{Model: a.cfg.ModelName, Parameters: a.exec.model.Parameters(), Device: info.Name, Description: info.Description,
		Tensors: int64(mem.Tensors), Bytes: mem.Bytes, Epoch: a.epoch, Step: a.ran, Queued: a.queued.Load(),
		Ledger: a.ledger, Kernels: a.list("", true)}
	st.Weights, st.WeightsPending = a.weightsState()
	for _, pool := range a.exec.model.KVPools() {
		st.KV = append(st.KV, a.handle(info.Name, pool))
	}
	return st
}

// handle is how other actors see a tensor of this one: they can name it, not read it.
func (a *Actor) handle(device string, t gpu.Tensor) schemas.TensorHandle {
	h := schemas.TensorHandle{Node: a.actor.Node().ID(), Device: device, ID: uint64(t.ID), Generation: t.Generation,
		DType: t.DType.String(), ByteOffset: int64(t.ByteOffset()), Owner: a.actor.Instance()}
	for _, n := range t.Dims[:t.Rank] {
		h.Shape = append(h.Shape, int64(n))
	}
	return h
}
