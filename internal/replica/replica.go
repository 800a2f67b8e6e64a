// Package replica assembles the actors that share a model on a device: scheduler, memory and compute, in
// one inline group (replica.go), or apart, compute on one node (compute.go) and the others on another (scheduler.go).
package replica

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe/actors/compute"
	"github.com/troupe-engine/troupe/actors/compute/model"
	"github.com/troupe-engine/troupe/actors/memory"
	"github.com/troupe-engine/troupe/actors/scheduler"
	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/internal/guide"
	"github.com/troupe-engine/troupe/schemas"
)

// Config sizes a replica. Zero fields take the defaults below.
type Config struct {
	Name           schemas.Instance // default "replica0"
	ModelName      string
	Files          fs.FS // the model: config.json, *.safetensors
	ContextMax     int   // tokens; default and upper bound: the model's
	SequencesMax   int   // running at once
	WaitingMax     int   // queued
	TokensStepMax  int   // token budget of a step
	BlockSize      int   // tokens per KV block
	KVBlocks       int   // default: from KVBytesMax, at most what SequencesMax full contexts need
	KVBytesMax     int64 // default: of what weights and work space leave free, kvShare if it is the device's own, otherwise a quarter and at most KVBytesDefault
	PipelineDepth  int
	Policy         string
	StepCosts      *schemas.StepCosts // what policies expect steps to take; nil: nothing
	Shadow         string             // a policy that only watches
	Quantize       string             // see model.Options
	KV             gpu.DType          // see model.Options
	KVAsStored     bool               // instead of KV: the checkpoint's own type, where the device has it
	PrefixCacheOff bool
	Eviction       string        // which cached blocks go first: one of memory.Evictions; default "lru"
	StepTimeMax    time.Duration // a step without a result for so long is recomputed
	Apart          bool          // the actors share no mailbox, as if each ran in a process of its own
	RoPEBF16       bool          // see model.Options
	RandomSeed     uint64        // draws the weights instead of reading them; 0 reads them
	Observe        compute.Observer
	// TokenBytes is what each token adds to a text, nil for special ones: guides need it. nil: there are no guides.
	TokenBytes    func() [][]byte
	Progress      func(done, total int64) // weight bytes loaded
	SubmitKernels bool                    // others may submit kernels in source
	// Lost is told, once, when the device can no longer be used; nil: nobody is.
	Lost func(*schemas.Error)
	// Handover says how KV blocks go to other replicas or come from them; nil: they do not.
	Handover *compute.Handover
	// Weights computes the digest of the checkpoint when somebody asks for it; nil: it is not known.
	Weights func(context.Context) (string, error)
}

// Defaults.
const (
	SequencesDefault  = 64
	WaitingDefault    = 1024
	TokensStepDefault = 512
	BlockSizeDefault  = 16
	DepthDefault      = 2
	DepthMax          = compute.QueuedMax / 2 // the device's queue also holds the steps of an epoch that was given up
	PolicyDefault     = "fcfs"
	KVBytesDefault    = 4 << 30
	kvShare           = 0.9             // of what is free on a device with memory of its own, but
	kvReserveBytes    = 1 << 30         // so much stays for what steps allocate: partial results, logits of whole prompts, recordings
	StepTimeDefault   = 5 * time.Minute // more than the longest prefill chunk of a large model on a slow CPU
	recoveriesMax     = 3
	recentlyDoneMax   = 8192
)

func (c *Config) setDefaults() {
	setDefault(&c.Name, "replica0")
	setDefault(&c.SequencesMax, SequencesDefault)
	setDefault(&c.WaitingMax, WaitingDefault)
	setDefault(&c.TokensStepMax, max(TokensStepDefault, c.SequencesMax))
	setDefault(&c.BlockSize, BlockSizeDefault)
	setDefault(&c.PipelineDepth, DepthDefault)
	setDefault(&c.Policy, PolicyDefault)
	setDefault(&c.StepTimeMax, StepTimeDefault)
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Replica is a running scheduler, memory manager and computation manager. It owns the device.
type Replica struct {
	Model     *model.Model
	dev       gpu.Device
	scheduler *scheduler.Actor
	memory    *bus.Actor
	compute   *compute.Actor
	started   int

	newMemory  func() (*bus.Actor, error)
	newCompute func() *compute.Actor
}

// Open loads the model onto dev and starts the actors. On error it closes dev.
func Open(node *bus.Node, dev gpu.Device, cfg Config, log zerolog.Logger) (*Replica, error) {
	r := &Replica{dev: dev}
	if err := r.open(node, cfg, log); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

func (r *Replica) open(node *bus.Node, cfg Config, log zerolog.Logger) error {
	loaded, err := load(r.dev, &cfg, log)
	if err != nil {
		return err
	}
	r.Model = loaded.model
	return r.start(node, cfg, loaded, log)
}

// loaded is a model on a device.
type loaded struct {
	model      *model.Model
	spec       *model.Spec
	blockBytes int64 // of a KV block, over all layers
}

// load brings cfg's model onto dev, and puts into cfg what it leaves open.
func load(dev gpu.Device, cfg *Config, log zerolog.Logger) (*loaded, error) {
	cfg.setDefaults()
	spec, err := model.ReadSpec(cfg.Files)
	if err != nil {
		return nil, err
	}
	if cfg.ContextMax == 0 {
		cfg.ContextMax = spec.ContextMax
	}
	if cfg.ContextMax < 1 || cfg.ContextMax > spec.ContextMax {
		return nil, schemas.Errorf(schemas.KindInvalid, "replica", "context_max is %d; expected 1 to the model's %d", cfg.ContextMax, spec.ContextMax).WithParam("context_max")
	}
	if cfg.KVAsStored && slices.Contains(dev.Info().KV, spec.Stored) {
		cfg.KV = spec.Stored
	}
	blockBytes := spec.KVBytesPerBlock(cfg.BlockSize, cmp.Or(cfg.KV, dev.Info().Compute))
	options := model.Options{SequencesMax: cfg.SequencesMax, TokensPerStepMax: cfg.TokensStepMax,
		ContextMax: cfg.ContextMax, BlockSize: cfg.BlockSize, KVBlocks: cfg.KVBlocks, RoPEBF16: cfg.RoPEBF16, Quantize: cfg.Quantize, KV: cfg.KV}
	if cfg.RandomSeed != 0 {
		options.RandomSeed = &cfg.RandomSeed
	}
	if cfg.KVBlocks == 0 {
		options.SizeKV = func(free int64) (int, error) { return kvBlocks(dev, cfg, blockBytes, free) }
	}
	m, err := model.Load(dev, cfg.Files, options, cfg.Progress)
	if err != nil {
		return nil, err
	}
	cfg.KVBlocks = m.Options().KVBlocks
	if unused := m.UnusedTensors(); len(unused) > 0 {
		log.Warn().Strs("tensors", unused[:min(len(unused), 8)]).Int("count", len(unused)).Msg("the checkpoint has tensors that this architecture does not use")
	}
	for _, w := range m.Widened() {
		log.Warn().Int("matrices", w.Matrices).Str("stored", w.Why).Stringer("as", w.As).Int64("stored_bytes", w.StoredBytes).Int64("bytes", w.Bytes).
			Msg("matrices that the checkpoint stores quantized were widened, which costs memory and time: this device does not multiply them as they are")
	}
	return &loaded{m, spec, blockBytes}, nil
}

func (r *Replica) start(node *bus.Node, cfg Config, l *loaded, log zerolog.Logger) error {
	group := bus.NewGroup()
	forMemory, forCompute, plansAhead := group, group, 0
	if cfg.Apart {
		forMemory, forCompute, plansAhead = bus.NewGroup(), bus.NewGroup(), scheduler.PlansAheadMax
	}
	var err error
	r.newMemory = func() (*bus.Actor, error) { return cfg.newMemory(node, forMemory, l.blockBytes) }
	vocabulary := cfg.vocabulary(l.spec)
	r.newCompute = func() *compute.Actor {
		return cfg.newCompute(node, forCompute, cfg.Apart, vocabulary, r.dev, r.Model, log)
	}
	if r.memory, err = r.newMemory(); err != nil {
		return err
	}
	r.compute = r.newCompute()
	if r.scheduler, err = cfg.newScheduler(node, group, r.dev.Info().Name, plansAhead, int32(l.spec.VocabSize), l.spec.Generation.EOS, log); err != nil {
		return err
	}
	for _, start := range []func() error{r.memory.Start, r.compute.Start, r.scheduler.Start} {
		if err := start(); err != nil {
			return err
		}
		r.started++
	}
	return nil
}

func (c *Config) newMemory(node *bus.Node, mb bus.Mailbox, blockBytes int64) (*bus.Actor, error) {
	return memory.New(node, mb, c.Name, memory.Config{Blocks: int32(c.KVBlocks), BlockSize: int32(c.BlockSize),
		PrefixCacheOff: c.PrefixCacheOff, Eviction: c.Eviction, BytesPerBlock: blockBytes})
}

func (c *Config) newCompute(node *bus.Node, mb bus.Mailbox, resultsAhead bool, vocabulary func() (*guide.Vocabulary, error), dev gpu.Device, m *model.Model, log zerolog.Logger) *compute.Actor {
	return compute.New(node, mb, compute.Config{Replica: c.Name, ModelName: c.ModelName, Observe: c.Observe, Vocabulary: vocabulary, Weights: c.Weights,
		Handover: c.Handover, SubmitKernels: c.SubmitKernels, ResultsAhead: resultsAhead, Lost: c.Lost}, dev, m, log)
}

func (c *Config) newScheduler(node *bus.Node, group *bus.Group, device string, plansAhead int, vocabSize int32, endTokens schemas.I32, log zerolog.Logger) (*scheduler.Actor, error) {
	return scheduler.New(node, group, scheduler.Config{Model: c.ModelName, Replica: c.Name, Device: device, PlansAhead: plansAhead,
		VocabSize: vocabSize, ContextMax: int32(c.ContextMax), SequencesMax: int32(c.SequencesMax),
		WaitingMax: int32(c.WaitingMax), TokensStepMax: int32(c.TokensStepMax), BlockSize: int32(c.BlockSize),
		Blocks: int32(c.KVBlocks), PipelineDepth: int32(c.PipelineDepth), Policy: c.Policy, Costs: c.StepCosts, Shadow: c.Shadow, EndTokens: endTokens,
		PrefixCacheOff: c.PrefixCacheOff, RecoveriesMax: recoveriesMax, StepTimeMaxMs: c.StepTimeMax.Milliseconds(), RecentlyDoneMax: recentlyDoneMax}, log)
}

// vocabulary makes what guides are compiled against, once: every id of the model, whether the tokenizer has it or not.
func (c *Config) vocabulary(spec *model.Spec) func() (*guide.Vocabulary, error) {
	if c.TokenBytes == nil {
		return nil
	}
	return sync.OnceValues(func() (*guide.Vocabulary, error) {
		tokens := make([][]byte, spec.VocabSize)
		copy(tokens, c.TokenBytes())
		return guide.NewVocabulary(tokens, spec.Generation.EOS)
	})
}

// kvBlocks sizes the pool from the device's free memory beside weights and work space.
func kvBlocks(dev gpu.Device, cfg *Config, blockBytes, free int64) (int, error) {
	useful := int64(cfg.SequencesMax) * int64((cfg.ContextMax+cfg.BlockSize-1)/cfg.BlockSize)
	budget := cfg.KVBytesMax
	switch {
	case budget != 0:
	case dev.Info().OwnMemory:
		budget = max(0, min(int64(kvShare*float64(free)), free-kvReserveBytes))
	default:
		budget = min(free/4, KVBytesDefault)
	}
	n := min(useful, budget/blockBytes)
	if n < 1 {
		return 0, schemas.Errorf(schemas.KindNoMemory, "replica", "one KV block of %d tokens takes %d bytes; %d bytes are allowed and %d are free beside the weights",
			cfg.BlockSize, blockBytes, budget, free).WithParam("kv_bytes_max").WithHint("raise kv_bytes_max, or use a smaller model")
	}
	return int(n), nil
}

// Device is what the replica runs on.
func (r *Replica) Device() gpu.Device { return r.dev }

// Close stops the actors, in the order that leaves none waiting for another, and releases the model and
// the device. Drain the gateway first: sequences that still run are abandoned.
func (r *Replica) Close() error {
	if r.started > 2 {
		r.scheduler.Stop()
	}
	if r.started > 1 {
		r.compute.Stop()
	}
	if r.started > 0 {
		r.memory.Stop()
	}
	var err error
	if r.Model != nil {
		err = r.Model.Close()
	}
	if closeErr := r.dev.Close(); closeErr != nil {
		err = errors.Join(err, fmt.Errorf("replica: %w", closeErr))
	}
	return err
}
