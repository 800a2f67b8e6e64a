package replica

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe/actors/compute"
	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/schemas"
)

// ComputeConfig says what Config does not of a computation manager that stands alone.
type ComputeConfig struct {
	Numerics   string        // see schemas.ReplicaReport
	Phase      string        // likewise
	SilenceMax time.Duration // a scheduler that has not renewed its claim for so long loses it to the next one
}

// claimGrace is how long a claim may miss its scheduler's subscriptions: it has them when it has read the answer, and they travel.
const claimGrace = 400 * time.Millisecond

// schedulerNameMax bounds the name of a claim's owner, which is kept and logged.
const schedulerNameMax = 64 // bytes, as of nodes

// Compute is a model on a device whose steps a scheduler on another node plans. It owns the device. For each claim there is a
// new computation manager, under a name of its own: a scheduler that was given up has nobody to speak to.
type Compute struct {
	cfg    Config
	part   ComputeConfig
	node   *bus.Node
	dev    gpu.Device
	loaded *loaded
	actor  *bus.Actor // answers claims
	log    zerolog.Logger

	newCompute func(cfg *Config, resultsAhead bool) *compute.Actor
	mu         sync.Mutex            // whoever begins or ends a claim has it
	closed     bool                  // guarded by mu
	claim      atomic.Pointer[claim] // nil: none
	draining   atomic.Bool
}

// claim is the scheduler that the device works for.
type claim struct {
	number    uint64
	scheduler schemas.NodeID
	replica   schemas.Instance
	compute   *compute.Actor
	heard     atomic.Pointer[time.Time]
	busy      atomic.Int32
}

// renew notes that a claim's scheduler is there, and what it has to do.
func (held *claim) renew(busy int32) {
	now := time.Now()
	held.heard.Store(&now)
	held.busy.Store(max(busy, 0))
}

// OpenCompute loads the model onto dev and waits for schedulers. cfg says nothing of these. On error it closes dev.
func OpenCompute(node *bus.Node, dev gpu.Device, cfg Config, part ComputeConfig, log zerolog.Logger) (*Compute, error) {
	c := &Compute{part: part, node: node, dev: dev, log: log}
	if len(node.ID()) > schemas.ClaimNodeMax {
		return nil, errors.Join(schemas.Errorf(schemas.KindInvalid, "start compute", "node is %q; expected at most %d characters where its compute stands alone", string(node.ID()), schemas.ClaimNodeMax).WithParam("node"), dev.Close())
	}
	var err error
	if c.loaded, err = load(dev, &cfg, log); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	if tell := cfg.Lost; tell != nil { // each claim's computation manager would tell
		var once sync.Once
		cfg.Lost = func(why *schemas.Error) {
			c.draining.Store(true)
			once.Do(func() { tell(why) })
		}
	}
	c.cfg = cfg
	vocabulary := cfg.vocabulary(c.loaded.spec)
	c.newCompute = func(cfg *Config, resultsAhead bool) *compute.Actor {
		return cfg.newCompute(node, bus.NewGroup(), resultsAhead, vocabulary, dev, c.loaded.model, log)
	}
	c.actor = bus.NewActor(node, "device", schemas.Instance(node.ID()), "Executes the steps of one scheduler on another node.")
	bus.Handle(c.actor, schemas.ClaimDevice, bus.NewGroup(), c.claimed)
	if err := c.actor.Start(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// claimed takes a claim, keeps it or ends it.
func (c *Compute) claimed(_ context.Context, r *schemas.ClaimRequest) (*schemas.ClaimReply, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	held := c.claim.Load()
	switch own := held != nil && held.number == r.Claim; {
	case len(r.Scheduler) > schedulerNameMax:
		return nil, schemas.Errorf(schemas.KindInvalid, "claim", "scheduler is %.64q…; expected at most %d characters", string(r.Scheduler), schedulerNameMax).WithParam("scheduler")
	case r.Claim == 0:
		return nil, schemas.Errorf(schemas.KindInvalid, "claim", "claim is 0; expected a number drawn for it").WithParam("claim")
	case own && r.Release:
		c.release("it leaves")
		return c.reply(held), nil
	case own:
		held.renew(r.Busy)
		return c.reply(held), nil
	case r.Renew || r.Release:
		return nil, schemas.Errorf(schemas.KindNotFound, "claim", "claim %x of %.64q is not in force, or not any more", r.Claim, string(r.Scheduler)).WithParam("claim")
	case c.closed || c.draining.Load():
		return nil, schemas.Errorf(schemas.KindUnavailable, "claim", "the node is draining or stopping")
	case held != nil && c.present(held):
		return nil, schemas.Errorf(schemas.KindUnavailable, "claim", "the device has a scheduler, %.64q", string(held.scheduler))
	}
	if held != nil {
		c.release("it is silent or gone, and another one has come")
	}
	return c.begin(r)
}

// present reports whether a claim's scheduler is there.
func (c *Compute) present(held *claim) bool {
	silent := time.Since(*held.heard.Load())
	return silent <= c.part.SilenceMax && (silent <= claimGrace || c.node.Served(schemas.StepDone.Subject(held.replica)))
}

// begin starts a computation manager for a new claim.
func (c *Compute) begin(r *schemas.ClaimRequest) (*schemas.ClaimReply, error) {
	cfg := c.cfg
	cfg.Name = r.Replica(c.actor.Instance())
	now := &claim{number: r.Claim, scheduler: r.Scheduler, replica: cfg.Name, compute: c.newCompute(&cfg, r.InOrder)}
	if err := now.compute.Start(); err != nil {
		return nil, err
	}
	now.renew(r.Busy)
	c.claim.Store(now)
	c.log.Info().Str("scheduler", string(r.Scheduler)).Str("replica", string(now.replica)).Msg("a scheduler has claimed the device")
	return c.reply(now), nil
}

// release ends the claim in force. What its scheduler has queued is done, for nobody.
func (c *Compute) release(why string) {
	held := c.claim.Swap(nil)
	held.compute.Stop()
	c.log.Info().Str("scheduler", string(held.scheduler)).Str("replica", string(held.replica)).Str("reason", why).Msg("a scheduler's claim has ended")
}

func (c *Compute) reply(held *claim) *schemas.ClaimReply {
	o, info := c.loaded.model.Options(), c.dev.Info()
	return &schemas.ClaimReply{Replica: held.replica, Node: c.node.ID(), Model: c.cfg.ModelName, Numerics: c.part.Numerics, Phase: c.part.Phase, Device: info.Name, Description: info.Description,
		VocabSize: int32(c.loaded.spec.VocabSize), ContextMax: int32(o.ContextMax), SequencesMax: int32(o.SequencesMax), TokensStepMax: int32(o.TokensPerStepMax),
		BlockSize: int32(o.BlockSize), Blocks: int32(o.KVBlocks), BlockBytes: c.loaded.blockBytes, EndTokens: c.loaded.spec.Generation.EOS, Draining: c.draining.Load(), InOrder: true}
}

// Busy counts the sequences that the scheduler has for the device, as it said last.
func (c *Compute) Busy() int32 {
	held := c.claim.Load()
	if held == nil || !c.present(held) {
		return 0
	}
	return held.busy.Load()
}

// SetDraining says whether the device is to get new requests. What runs goes on.
func (c *Compute) SetDraining(draining bool) { c.draining.Store(draining) }

// Device is what it runs on.
func (c *Compute) Device() gpu.Device { return c.dev }

// Close ends the claim, and releases the model and the device.
func (c *Compute) Close() error {
	if c.actor != nil {
		c.actor.Stop()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.claim.Load() != nil {
		c.release("the node stops")
	}
	var err error
	if c.loaded != nil {
		err = c.loaded.model.Close()
	}
	if closeErr := c.dev.Close(); closeErr != nil {
		err = errors.Join(err, fmt.Errorf("replica: %w", closeErr))
	}
	return err
}
