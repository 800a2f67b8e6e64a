package replay

import (
	"context"
	"errors"
	"io/fs"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe/actors/compute"
	"github.com/troupe-engine/troupe/actors/compute/model"
	"github.com/troupe-engine/troupe/actors/tokenizer"
	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/internal/guide"
	"github.com/troupe-engine/troupe/schemas"
)

const (
	computeInstance = schemas.Instance("replay")
	resultTimeMax   = 5 * time.Minute
)

// ComputeActor is the engine's own computation manager on a bus of its own, as a Compute.
type ComputeActor struct {
	node    *bus.Node
	dev     gpu.Device
	model   *model.Model
	actor   *compute.Actor
	execute *bus.Ref[schemas.StepPlan, schemas.PlanReply]

	mu      sync.Mutex
	results map[schemas.StepID]*schemas.StepResult
	came    chan struct{}
}

// OpenCompute loads a model onto dev, sized as a checkpoint says. It owns dev.
func OpenCompute(dev gpu.Device, name string, files fs.FS, p *schemas.SchedulerCheckpoint, kv gpu.DType, quantize string, log zerolog.Logger) (*ComputeActor, error) {
	c := &ComputeActor{dev: dev, results: map[schemas.StepID]*schemas.StepResult{}, came: make(chan struct{}, 1)}
	if err := c.open(name, files, p, kv, quantize, log); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *ComputeActor) open(name string, files fs.FS, p *schemas.SchedulerCheckpoint, kv gpu.DType, quantize string, log zerolog.Logger) error {
	var err error
	if c.node, err = bus.Start(bus.Options{Listen: "none", Log: log}); err != nil {
		return err
	}
	i := &p.Info
	if c.model, err = model.Load(c.dev, files, model.Options{SequencesMax: int(i.SequencesMax), TokensPerStepMax: int(i.TokensStepMax),
		ContextMax: int(p.ContextMax), BlockSize: int(i.BlockSize), KVBlocks: int(i.Blocks), KV: kv, Quantize: quantize}, nil); err != nil {
		return err
	}
	spec := c.model.Spec()
	vocabulary := sync.OnceValues(func() (*guide.Vocabulary, error) {
		text, err := tokenizer.LoadText(files)
		if err != nil {
			return nil, err
		}
		tokens := make([][]byte, spec.VocabSize)
		copy(tokens, text.TokenBytes())
		return guide.NewVocabulary(tokens, spec.Generation.EOS)
	})
	c.actor = compute.New(c.node, bus.NewGroup(), compute.Config{Replica: computeInstance, ModelName: name, Vocabulary: vocabulary}, c.dev, c.model, log)
	if err := c.actor.Start(); err != nil {
		c.actor = nil
		return err
	}
	receiver := bus.NewActor(c.node, "scheduler", computeInstance, "Takes results for a replay.")
	bus.Handle(receiver, schemas.StepDone, bus.NewGroup(), func(_ context.Context, r *schemas.StepResult) (*schemas.Ack, error) {
		c.mu.Lock()
		c.results[r.Step] = r
		c.mu.Unlock()
		select {
		case c.came <- struct{}{}:
		default:
		}
		return &schemas.Ack{}, nil
	})
	c.execute = bus.NewRef(c.node, schemas.Execute, computeInstance)
	return receiver.Start()
}

// Parameters counts those of the model.
func (c *ComputeActor) Parameters() int64 { return c.model.Parameters() }

// Execute queues a plan.
func (c *ComputeActor) Execute(p *schemas.StepPlan) error {
	_, err := c.execute.Call(context.Background(), p)
	return err
}

// Result waits for a step's result.
func (c *ComputeActor) Result(epoch schemas.Epoch, step schemas.StepID) (*schemas.StepResult, error) {
	timeout := time.After(resultTimeMax)
	for {
		c.mu.Lock()
		r := c.results[step]
		if r != nil {
			delete(c.results, step)
		}
		c.mu.Unlock()
		if r != nil && r.Epoch == epoch {
			return r, nil
		}
		select {
		case <-c.came:
		case <-timeout:
			return nil, schemas.Errorf(schemas.KindTimeout, "replay", "no result within %s", resultTimeMax)
		}
	}
}

// Close stops the actor and releases the model and the device.
func (c *ComputeActor) Close() error {
	if c.actor != nil {
		c.actor.Stop()
	}
	if c.node != nil {
		c.node.Close()
	}
	var errs []error
	if c.model != nil {
		errs = append(errs, c.model.Close())
	}
	return errors.Join(append(errs, c.dev.Close())...)
}
