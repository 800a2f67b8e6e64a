// Package troupe is an LLM inference engine whose parts are actors on a NATS message bus. This package
// assembles a single-node engine; the command troupe is a thin user of it.
//
// Read the folders in the order a request meets them: schemas, bus, actors/gateway, actors/tokenizer,
// actors/scheduler, actors/memory, actors/compute, gpu.
package troupe

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe/actors/gateway"
	"github.com/troupe-engine/troupe/actors/tokenizer"
	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/internal/cluster"
	"github.com/troupe-engine/troupe/internal/modelstore"
	"github.com/troupe-engine/troupe/internal/profile"
	"github.com/troupe-engine/troupe/internal/recording"
	"github.com/troupe-engine/troupe/internal/replica"
	"github.com/troupe-engine/troupe/internal/supervise"
	"github.com/troupe-engine/troupe/internal/toolcalls"
	"github.com/troupe-engine/troupe/schemas"
)

// NATSConfig is the embedded server's configuration unless Options.NATSConfig names a file.
//
//go:embed nats.conf
var NATSConfig string

const (
	replicaInstance   = schemas.Instance("replica0")
	tokenizerInstance = schemas.Instance("tokenizer0")
	gatewayInstance   = schemas.Instance("gateway0")
	readyTimeMax      = 10 * time.Second
	flushTimeMax      = 2 * time.Second // for answers that are written already to leave
)

// Engine is a running single-node engine: an embedded NATS server and one actor of every service.
type Engine struct {
	opts      Options
	log       zerolog.Logger
	model     *modelstore.Model
	node      *bus.Node
	replica   *replica.Replica
	compute   *replica.Compute // without a scheduler; nil unless that is a role
	tokenizer *tokenizer.Actor
	gateway   *gateway.Gateway
	member    *cluster.Member // nil outside of a cluster
	// schedulers serve the devices of other nodes; nil unless that is a role.
	schedulers *cluster.Schedulers
	// stopFollowing ends what followDecisions began; nil outside of a cluster.
	stopFollowing func()
	listener      net.Listener
	server        *http.Server
	failed        chan error                    // see Failed
	lost          chan *schemas.Error           // why the device can no longer be used
	failure       atomic.Pointer[schemas.Error] // the same, once that is dealt with
	background    sync.WaitGroup                // ends when closed is
	network       network
	isolated      isolated             // the replica's process, where it has one
	registry      *prometheus.Registry // of metrics
	laps          laps
	closing       sync.Once
	closed        chan struct{}
	closeError    error // what Close found
}

// network is how the engine's actors reach each other, and what they run on. Tests make it bad.
type network struct {
	remoteOnly     bool // every message travels over NATS, as between machines
	faults         *schemas.FaultPlan
	attemptTimeMax time.Duration
	stepTimeMax    time.Duration
	stallTimeMax   time.Duration
	kvWay          string           // of hand-overs, the best that is used; "" is any
	supervise      supervise.Config // limits of the replica's process
	replicaCommand func() *exec.Cmd // default: this program's
	chooseDevice   func(Options) (gpu.Device, string, error)
}

// Open loads the model and starts the engine; it returns when requests are served, or with the reason why
// they cannot be. Progress, which may be nil, hears of the weights' bytes.
func Open(ctx context.Context, opts Options, log zerolog.Logger, progress func(done, total int64)) (*Engine, error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	e := newEngine(opts, log)
	if err := e.open(ctx, progress); err != nil {
		e.Close()
		return nil, err
	}
	return e, nil
}

func newEngine(opts Options, log zerolog.Logger) *Engine {
	return &Engine{opts: opts, log: log, registry: prometheus.NewRegistry(), failed: make(chan error, 2), lost: make(chan *schemas.Error, 1), closed: make(chan struct{})}
}

func (e *Engine) open(ctx context.Context, progress func(done, total int64)) error {
	var err error
	e.laps.begin()
	if e.model, err = modelstore.Find(e.opts.Model); err != nil { // before others are told of the node
		return err
	}
	if err := e.startNode(); err != nil {
		return err
	}
	e.laps.end("bus")
	if e.opts.Model == "" && e.isolated.seed == "" { // a replica's process does as it is told
		if e.opts.Model = e.placedModel(ctx); e.opts.Model != "" {
			if e.model, err = modelstore.Find(e.opts.Model); err != nil {
				return err
			}
		}
	}
	for _, start := range []struct {
		name   string
		wanted bool
		start  func() error
	}{
		{"model", e.opts.Plays(RoleReplica) && !e.opts.Isolate, func() error { return e.openReplica(progress) }},
		{"model", e.opts.Plays(RoleCompute), func() error { return e.openCompute(progress) }},
		{"tokenizer", e.opts.needsTokenizer(), e.startTokenizer},
		{"gateway", e.opts.Plays(RoleGateway), e.startGateway},
		{"http", e.opts.Plays(RoleGateway), e.listen},
		{"cluster", true, e.join},
		{"replica", e.opts.Isolate, func() error { return e.superviseReplica(ctx, progress) }},
		{"streams", e.opts.Store != "", func() error { e.resumeStreams(ctx); return nil }},
	} {
		if !start.wanted {
			continue
		}
		if err := start.start(); err != nil {
			return err
		}
		e.laps.end(start.name)
	}
	e.background.Go(e.watchDevice)
	if e.opts.Plays(RoleGateway) && e.opts.Plays(RoleReplica) { // who else serves may come later
		if err := e.waitReady(ctx); err != nil {
			return err
		}
		e.laps.end("ready")
	}
	e.laps.log(e.log)
	return nil
}

// laps says where the time of a start goes.
type laps struct {
	first, last time.Time
	seconds     *zerolog.Event
}

func (l *laps) begin() {
	l.first = time.Now()
	l.last, l.seconds = l.first, zerolog.Dict()
}

// end ends the part of that name, which began where the one before ended.
func (l *laps) end(part string) {
	now := time.Now()
	l.seconds.Float64(part, inSeconds(now.Sub(l.last)))
	l.last = now
}

func (l *laps) log(log zerolog.Logger) {
	log.Info().Dict("seconds", l.seconds).Float64("total", inSeconds(l.last.Sub(l.first))).Msg("started")
}

// inSeconds is d in seconds, to the millisecond.
func inSeconds(d time.Duration) float64 { return d.Round(time.Millisecond).Seconds() }

// resumeStreams has schedulers make the checkpoints again that streams with limits need.
func (e *Engine) resumeStreams(ctx context.Context) {
	recording.ResumeStreams(ctx, e.node.Conn(), func(err error) { e.log.Warn().Err(err).Msg("a stream may lack checkpoints") })
}

func (e *Engine) openReplica(progress func(done, total int64)) error {
	dev, cfg, err := e.chooseReplica(progress)
	if err != nil {
		return err
	}
	e.replica, err = replica.Open(e.node, dev, cfg, e.log)
	return err
}

// chooseReplica opens the device, and says what is to run on it.
func (e *Engine) chooseReplica(progress func(done, total int64)) (gpu.Device, replica.Config, error) {
	choose := ChooseDevice
	if e.network.chooseDevice != nil {
		choose = e.network.chooseDevice
	}
	dev, why, err := choose(e.opts)
	if err != nil {
		return nil, replica.Config{}, err
	}
	e.log.Info().Str("device", dev.Info().Name).Str("description", dev.Info().Description).Str("why", why).Msg("device chosen")
	e.laps.end("device")
	cfg, err := e.replicaConfig(dev, progress)
	if err != nil {
		return nil, cfg, errors.Join(err, dev.Close())
	}
	return dev, cfg, nil
}

func (e *Engine) replicaConfig(dev gpu.Device, progress func(done, total int64)) (replica.Config, error) {
	o, info := e.opts, dev.Info()
	cfg, err := e.schedulerConfig(profile.Origin{Model: e.model.Name, Device: profile.DeviceText(info), SequencesMax: o.SequencesMax, TokensStepMax: o.TokensStepMax, BlockSize: o.BlockSize})
	if err != nil {
		return cfg, err
	}
	if o.EnableKernelSubmit {
		e.log.Warn().Msg("kernels may be submitted: whoever may use the bus, or /debug with an admin key, can run code on the device (enable_kernel_submit)")
	}
	cfg.Name, cfg.ModelName, cfg.Files = e.instance(replicaInstance), e.model.Name, e.model.Files
	cfg.ContextMax, cfg.SequencesMax, cfg.TokensStepMax, cfg.BlockSize, cfg.KVBlocks, cfg.KVBytesMax = o.ContextMax, o.SequencesMax, o.TokensStepMax, o.BlockSize, o.KVBlocks, o.KVBytesMax
	cfg.Quantize, cfg.KV, cfg.KVAsStored, cfg.RandomSeed = quants[o.Quant], kvTypes[o.KVDType], o.KVDType == "auto", uint64(o.RandomWeights)
	cfg.Apart, cfg.SubmitKernels, cfg.Progress, cfg.TokenBytes, cfg.Weights, cfg.Lost = e.network.remoteOnly, o.EnableKernelSubmit, progress, e.tokenBytes(), e.model.WeightsDigest, e.loseDevice
	cfg.Handover, err = e.handover(info)
	return cfg, err
}

// schedulerConfig is what schedulers and memory managers are told, whatever they serve.
func (e *Engine) schedulerConfig(device profile.Origin) (replica.Config, error) {
	o := e.opts
	costs, err := e.stepCosts(device)
	return replica.Config{WaitingMax: o.WaitingMax, PipelineDepth: o.PipelineDepth, Policy: o.Policy, StepCosts: costs, Shadow: o.Shadow,
		PrefixCacheOff: !o.PrefixCache, Eviction: o.Eviction, StepTimeMax: e.network.stepTimeMax}, err
}

func (e *Engine) startTokenizer() error {
	t, err := tokenizer.New(e.node, tokenizer.Config{Instance: e.instance(tokenizerInstance), ModelName: e.model.Name, Files: e.model.Files, Sampling: e.samplingDefaults()}, e.log)
	if err != nil {
		return err
	}
	if err := t.Start(); err != nil {
		return err
	}
	e.tokenizer = t
	return nil
}

func (e *Engine) startNode() error {
	config, err := e.opts.ReadNATSConfig()
	if err != nil {
		return err
	}
	leaf := e.opts.Leaf
	if e.opts.Isolate {
		leaf = "127.0.0.1:0"
		if e.isolated.public, e.isolated.seed, err = bus.NewKey(); err != nil {
			return err
		}
	}
	e.node, err = bus.Start(bus.Options{StoreDir: e.opts.Store, LeafKey: e.isolated.public, ID: schemas.NodeID(e.opts.Node), Config: config, Listen: e.opts.NATSListen, LeafListen: leaf, Leafs: splitList(e.opts.Attach), Security: e.security(), Log: e.log,
		RemoteOnly: e.network.remoteOnly, Faults: e.network.faults, AttemptTimeMax: e.network.attemptTimeMax})
	if err != nil || !e.opts.EnableFaults {
		return err
	}
	e.log.Warn().Msg("faults are enabled: whoever may use /debug or the bus can make requests fail (enable_faults)")
	return e.node.ServeFaults()
}

func (e *Engine) startGateway() error {
	o := &e.opts
	keys, err := gateway.ParseAPIKeys(o.APIKeys)
	if err != nil {
		return err
	}
	admins, err := gateway.ParseAPIKeys(o.AdminKeys)
	if err != nil {
		return schemas.Errorf(schemas.KindInvalid, "configuration", "admin_keys: %v", err).WithParam("admin_keys")
	}
	tokenizer := e.instance(tokenizerInstance)
	if o.Tokenizers == TokenizersShared {
		tokenizer = ""
	}
	g, err := gateway.New(e.node, gateway.Config{Instance: e.instance(gatewayInstance), Scheduler: e.instance(replicaInstance), Tokenizer: tokenizer, Cluster: e.clusterConfig(),
		ModelName: e.model.Name, Defaults: e.samplingDefaults(), RequestsMax: o.RequestsMax, OutputTokensDefault: int32(o.OutputTokensDefault),
		OutputTokensMax: int32(o.OutputTokensMax), PromptTokensMax: int32(o.PromptTokensMax), BodyBytesMax: o.BodyBytesMax,
		ConnectionsMax: o.ConnectionsMax, APIKeys: keys, AdminKeys: admins, KeylessPaths: splitList(o.KeylessPaths), KeyRequestsMax: o.KeyRequestsMax, WaitMax: o.WaitMax,
		CORSOrigins: splitList(o.CORSOrigins), ToolFormat: toolFormat(o.ToolFormat), StallTimeMax: e.network.stallTimeMax, Health: e.health, Registry: e.registry, Log: e.log})
	if err != nil {
		return err
	}
	if err := g.Start(); err != nil {
		return err
	}
	e.gateway = g
	return nil
}

// toolFormat is "" for auto.
func toolFormat(option string) toolcalls.Format {
	if option == "auto" {
		return ""
	}
	return toolcalls.Format(option)
}

// splitList reads a list that is separated by commas. It is never nil.
func splitList(list string) []string {
	parts := []string{}
	for _, part := range strings.Split(list, ",") {
		if part = strings.TrimSpace(part); part != "" {
			parts = append(parts, part)
		}
	}
	return parts
}

// samplingDefaults are the model's own, from generation_config.json, where it has them.
func (e *Engine) samplingDefaults() schemas.SamplingParams {
	p := schemas.SamplingParams{Temperature: 1, TopP: 1}
	spec, err := e.generation()
	if err != nil { // the model's files are fine, or nothing would serve them
		return p
	}
	g := spec.Generation
	if g.Temperature != nil {
		p.Temperature = *g.Temperature
	}
	if g.TopP != nil {
		p.TopP = *g.TopP
	}
	if g.TopK != nil {
		p.TopK = *g.TopK
	}
	if g.MinP != nil {
		p.MinP = *g.MinP
	}
	if g.RepetitionPenalty != nil && *g.RepetitionPenalty != 1 {
		p.Rules = &schemas.SamplingRules{RepetitionPenalty: *g.RepetitionPenalty}
	}
	if p.Validate() != nil { // a model's odd defaults are not the client's mistake
		return schemas.SamplingParams{Temperature: 1, TopP: 1}
	}
	return p
}

func (e *Engine) listen() error {
	if e.opts.HTTP == "none" {
		return nil
	}
	listener, err := net.Listen("tcp", e.opts.HTTP)
	if err != nil {
		return schemas.Errorf(schemas.KindInvalid, "listen", "http: %v", err).WithParam("http").
			WithHint("choose another address with --http host:port, or port 0 for any free one")
	}
	e.listener = e.gateway.Listener(listener)
	e.server = e.gateway.HTTPServer()
	go func() {
		if err := e.server.Serve(e.listener); !errors.Is(err, http.ErrServerClosed) {
			e.failed <- fmt.Errorf("the HTTP server ended: %w", err)
		}
	}()
	return nil
}

func (e *Engine) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeMax)
	defer cancel()
	ask := bus.NewRef(e.node, schemas.GatewayInfo, e.instance(gatewayInstance))
	reason := "it does not answer"
	for {
		if state, err := ask.Call(ctx, &schemas.InfoRequest{}); err == nil {
			if state.Ready {
				return nil
			}
			reason = state.Reason
		}
		select {
		case <-ctx.Done():
			return schemas.Errorf(schemas.KindUnavailable, "start", "the gateway is not ready: %s", reason)
		case <-time.After(time.Millisecond):
		}
	}
}

// Node is the engine's process on the bus.
func (e *Engine) Node() *bus.Node { return e.node }

// Model is what the engine serves.
func (e *Engine) Model() *modelstore.Model { return e.model }

// Plays reports whether the engine has a role.
func (e *Engine) Plays(role string) bool { return e.opts.Plays(role) }

// Device is what the engine runs on; nil if it has no replica or compute in this process.
func (e *Engine) Device() gpu.Device {
	switch {
	case e.replica != nil:
		return e.replica.Device()
	case e.compute != nil:
		return e.compute.Device()
	}
	return nil
}

// HTTPURL is the base of the HTTP API; "" if it is not served.
func (e *Engine) HTTPURL() string {
	if e.listener == nil {
		return ""
	}
	return "http://" + e.listener.Addr().String()
}

// NATSURL is where NATS clients connect; "" if they cannot.
func (e *Engine) NATSURL() string { return e.node.URL() }

// Info describes what the engine serves, and its limits.
func (e *Engine) Info(ctx context.Context) (*schemas.EngineInfo, error) {
	return bus.NewRef(e.node, schemas.Engine, e.instance(replicaInstance)).Call(ctx, &schemas.InfoRequest{})
}

// Drain refuses new requests and waits until the running ones have finished or ctx ends; the rest is
// cancelled with a reason.
func (e *Engine) Drain(ctx context.Context) error {
	var err error
	if e.member != nil {
		e.member.SetDraining(true) // other gateways send no more
	}
	if e.gateway != nil {
		err = e.gateway.Drain(ctx)
	}
	err = errors.Join(err, e.leaveCluster(ctx))
	if e.server != nil {
		// The last answers may still be on their way to their sockets.
		flush, cancel := context.WithTimeout(context.Background(), flushTimeMax)
		defer cancel()
		_ = e.server.Shutdown(flush) // an error means that a client keeps its connection busy; Close ends it
	}
	return err
}

// Close stops everything at once. Drain first. Closing again changes nothing.
func (e *Engine) Close() error {
	e.closing.Do(func() { e.closeError = e.close() })
	return e.closeError
}

func (e *Engine) close() error {
	var errs []error
	close(e.closed)
	e.background.Wait()
	if e.stopFollowing != nil {
		e.stopFollowing()
	}
	if e.schedulers != nil {
		e.schedulers.Close()
	}
	if e.member != nil {
		e.member.Leave()
	}
	if e.gateway != nil {
		e.gateway.Close()
	}
	if e.server != nil {
		errs = append(errs, e.server.Close())
	}
	if p := e.isolated.process.Load(); p != nil {
		p.Stop() // the gateway has drained
	}
	if e.replica != nil {
		errs = append(errs, e.closeDevice(e.replica))
	}
	if e.compute != nil {
		errs = append(errs, e.closeDevice(e.compute))
	}
	if e.tokenizer != nil {
		e.tokenizer.Stop()
	}
	if e.node != nil {
		e.node.Close()
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("troupe: %w", err)
	}
	return nil
}
