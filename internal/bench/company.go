package bench

import (
	"context"
	"sync"

	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe/actors/memory"
	"github.com/troupe-engine/troupe/actors/scheduler"
	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

const (
	replicaName = schemas.Instance("bench")
	sinkName    = schemas.Instance("sink")
)

// company is the scheduler and the memory manager as an engine runs them, with a simulated compute actor
// and a sink for a tokenizer.
type company struct {
	node      *bus.Node
	scheduler *scheduler.Actor
	memory    *bus.Actor
	compute   *bus.Actor
	sink      *bus.Actor
	device    *device
	running   sync.WaitGroup
	started   []func() // what ends the started ones, in order of starting
}

// openCompany starts the actors: in one inline group, or, if remote, each alone and all messages over NATS.
func openCompany(l *stepLoad, remote bool) (*company, error) {
	node, err := bus.Start(bus.Options{Listen: "127.0.0.1:0", RemoteOnly: remote, Log: zerolog.Nop()})
	if err != nil {
		return nil, err
	}
	c := &company{node: node, device: l.device}
	if err := c.start(l, remote); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (c *company) start(l *stepLoad, remote bool) (err error) {
	forScheduler := bus.NewGroup()
	forMemory, forCompute := forScheduler, forScheduler
	if remote { // who waits for an answer over NATS holds its group meanwhile
		forMemory, forCompute = bus.NewGroup(), bus.NewGroup()
	}
	if c.memory, err = memory.New(c.node, forMemory, replicaName, l.memoryConfig()); err != nil {
		return err
	}
	c.newCompute(forCompute)
	c.sink = bus.NewActor(c.node, "tokenizer", sinkName, "Checks tokens.")
	bus.Handle(c.sink, schemas.Tokens, bus.NewGroup(), l.sink.tokens)
	if c.scheduler, err = scheduler.New(c.node, forScheduler, l.schedulerConfig(), zerolog.Nop()); err != nil {
		return err
	}
	for _, a := range []interface {
		Start() error
		Stop()
	}{c.sink, c.memory, c.compute, c.scheduler} {
		if err := a.Start(); err != nil {
			return err
		}
		c.started = append(c.started, a.Stop)
	}
	c.running.Add(2)
	go func() {
		defer c.running.Done()
		c.device.run()
	}()
	go func() {
		defer c.running.Done()
		c.report()
	}()
	return nil
}

// newCompute makes the actor in front of the device: like actors/compute, it acknowledges a plan when it is
// queued and reports results from another goroutine.
func (c *company) newCompute(mailbox bus.Mailbox) {
	last, queued := schemas.StepID(0), int32(0)
	c.compute = bus.NewActor(c.node, "compute", replicaName, "Pretends to execute step plans.")
	c.compute.JournalsItself() // as the engine's: in its scheduler's journal
	bus.Handle(c.compute, schemas.Execute, mailbox, func(_ context.Context, p *schemas.StepPlan) (*schemas.PlanReply, error) {
		if p.Step > last { // otherwise a repeat
			select {
			case c.device.queue <- p:
				last = p.Step
				queued++
			default:
				return nil, schemas.Errorf(schemas.KindOverloaded, "execute", "%d steps are queued already", deviceQueue)
			}
		}
		return &schemas.PlanReply{Queued: queued}, nil
	})
}

func (c *company) report() {
	done := bus.NewRef(c.node, schemas.StepDone, replicaName)
	for r := range c.device.results {
		// Without the scheduler nothing more comes; the load's timeout then says so.
		_, _ = done.Call(context.Background(), r)
	}
}

// submit hands the load to the scheduler.
func (c *company) submit(ctx context.Context, l *stepLoad) error {
	ref := bus.NewRef(c.node, schemas.Submit, replicaName)
	for _, request := range l.requests() {
		if _, err := ref.Call(ctx, request); err != nil {
			return err
		}
	}
	return nil
}

// ledger is the scheduler's own.
func (c *company) ledger(ctx context.Context) (schemas.Ledger, error) {
	state, err := bus.NewRef(c.node, schemas.SchedulerInfo, replicaName).Call(ctx, &schemas.InfoRequest{})
	if err != nil {
		return schemas.Ledger{}, err
	}
	return state.Ledger, nil
}

func (c *company) close() {
	for i := len(c.started) - 1; i >= 0; i-- {
		c.started[i]()
	}
	close(c.device.queue)
	c.running.Wait()
	c.node.Close()
}
