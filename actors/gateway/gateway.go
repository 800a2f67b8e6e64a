package gateway

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/micro"
	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/internal/toolcalls"
	"github.com/troupe-engine/troupe/schemas"
)

const (
	engineAskEvery     = 2 * time.Second        // once the engine has answered
	engineRetryEvery   = 100 * time.Millisecond // until then
	engineAskTimeMax   = 2 * time.Second
	engineSilencesMax  = 3               // questions without an answer before the gateway is not ready
	drainCancelTimeMax = 5 * time.Second // for cancelled requests to say so to their clients
)

// Gateway is the actor at the front: it takes requests over HTTP and NATS and streams the answers.
type Gateway struct {
	cfg  Config
	node *bus.Node
	log  zerolog.Logger

	actor    *bus.Actor
	api      micro.Service // the subjects that clients use
	requests *requests
	metrics  *metrics

	tokenizers *tokenizers
	home       *replica  // cfg.Scheduler, which a gateway without replicas works with
	replicas   *replicas // nil outside of a cluster

	engine    atomic.Pointer[schemas.EngineInfo] // nil until the engine has answered
	tools     atomic.Value                       // of toolcalls.Format: what the chat template speaks of
	silence   atomic.Pointer[schemas.Error]      // why it is not ready although it once was
	readers   chan struct{}                      // bounds bodies being parsed
	uploads   uploads                            // and those being read
	prefix    uint32                             // of request ids; its low 24 bits count
	counter   atomic.Uint32
	startedAt time.Time

	background sync.WaitGroup // everything that outlives a call
	stop       chan struct{}
	closeOnce  sync.Once
	closing    sync.RWMutex // held to start work for NATS
	closed     bool         // guarded by closing
}

// New prepares a gateway on a node. Nothing is reachable before Start.
func New(node *bus.Node, cfg Config) (*Gateway, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	var random [4]byte
	_, _ = rand.Read(random[:]) // never fails (crypto/rand)
	g := &Gateway{cfg: cfg, node: node, log: cfg.Log.With().Str("actor", "gateway."+string(cfg.Instance)).Logger(),
		requests: newRequests(&cfg),
		readers:  make(chan struct{}, 2*cfg.RequestsMax),
		prefix:   binary.LittleEndian.Uint32(random[:]) & 0xffffff, startedAt: time.Now(), stop: make(chan struct{})}
	g.uploads.left, g.uploads.max = cfg.ReadBytesMax, cfg.ConnectionsMax // HTTP/2 has more requests than connections
	if cfg.Cluster == nil {
		g.home = newReplica(node, cfg.Scheduler)
	} else {
		var err error
		if g.replicas, err = newReplicas(g, *cfg.Cluster); err != nil {
			return nil, err
		}
	}
	g.tokenizers = newTokenizers(g)
	g.metrics = newMetrics(g)
	g.actor = bus.NewActor(node, "gateway", cfg.Instance, "Takes requests over HTTP and NATS and streams the answers.")
	bus.Handle(g.actor, schemas.Deltas, bus.NewGroup(), g.deltas)
	looks := bus.NewPool(stateAsksMax)
	bus.Handle(g.actor, schemas.GatewayInfo, looks, g.state)
	bus.HandleTry(g.actor, looks, g.trials(), g.ailments)
	return g, nil
}

// stateAsksMax bounds concurrent looks at the gateway's state, and trials.
const stateAsksMax = 2

// Start makes the gateway reachable on the bus and begins to ask for the engine. It does not wait for it:
// until the engine answers, requests get KindUnavailable.
func (g *Gateway) Start() error {
	if err := g.actor.Start(); err != nil {
		return err
	}
	if err := g.startNATS(); err != nil {
		g.Close()
		return err
	}
	if g.replicas != nil {
		if err := g.replicas.start(); err != nil {
			g.Close()
			return err
		}
	}
	if err := g.tokenizers.start(); err != nil {
		g.Close()
		return err
	}
	g.background.Go(g.watchEngine)
	return nil
}

// watchEngine asks the engine what it serves, forever: a replica may be replaced while the gateway runs.
func (g *Gateway) watchEngine() {
	silences := 0
	for {
		ctx, cancel := context.WithTimeout(context.Background(), engineAskTimeMax)
		info, err := g.askEngine(ctx)
		g.askVocabulary(ctx)
		cancel()
		wait := engineAskEvery
		switch {
		case err == nil:
			if g.engine.Swap(info) == nil {
				g.log.Info().Str("model", info.Model).Str("device", info.Device).Int32("context_max", info.ContextMax).Msg("the engine is ready")
			}
			g.requests.setSlots(g.slots(info))
			g.silence.Store(nil)
			silences = 0
		default:
			if silences++; silences >= engineSilencesMax {
				g.silence.Store(schemas.AsError(err, "ask engine"))
			}
			wait = engineRetryEvery
		}
		select {
		case <-g.stop:
			return
		case <-time.After(wait):
		}
	}
}

// askVocabulary asks a tokenizer what its chat template speaks of.
func (g *Gateway) askVocabulary(ctx context.Context) {
	t, none := g.tokenizers.pick(nil)
	if none != nil {
		return
	}
	if state, err := t.vocab.Call(ctx, &schemas.InfoRequest{}); err == nil {
		g.tools.Store(toolcalls.Format(state.ToolFormat))
	}
}

// askEngine asks what is served, by the one replica or by any.
func (g *Gateway) askEngine(ctx context.Context) (*schemas.EngineInfo, error) {
	if g.replicas == nil {
		return g.home.ask.Call(ctx, &schemas.InfoRequest{})
	}
	info, err := g.replicas.engine()
	if err != nil {
		return nil, err
	}
	return info, nil
}

// slots counts the sequences that run at once, here or at all replicas.
func (g *Gateway) slots(engine *schemas.EngineInfo) int {
	n := 0
	for _, r := range g.Replicas() {
		n += int(r.SequencesMax)
	}
	return cmp.Or(n, int(engine.SequencesMax))
}

// ready returns what the engine serves, or why requests cannot be taken.
func (g *Gateway) ready() (*schemas.EngineInfo, *schemas.Error) {
	wait := func(format string, args ...any) *schemas.Error {
		e := schemas.Errorf(schemas.KindUnavailable, "admit", format, args...).WithHint("try again later")
		e.RetryAfterMs = retryAfterMs
		return e
	}
	if closed := g.requests.refusal(); closed != nil {
		return nil, closed
	}
	if g.replicas != nil { // which know at once who comes and goes
		engine, err := g.replicas.engine()
		if err != nil {
			if why := g.replicas.coming(); why != "" {
				return nil, wait("%s: %s", err.Detail, why)
			}
			return nil, wait("%s", err.Detail)
		}
		return engine, nil
	}
	engine := g.engine.Load()
	if engine == nil {
		return nil, wait("the engine %s has not answered yet", g.cfg.Scheduler)
	}
	if silence := g.silence.Load(); silence != nil {
		return nil, wait("the engine %s does not answer: %s", g.cfg.Scheduler, silence.Detail)
	}
	return engine, nil
}

// toolFormat is how the model writes calls.
func (g *Gateway) toolFormat() toolcalls.Format {
	if g.cfg.ToolFormat != "" {
		return g.cfg.ToolFormat
	}
	if f, _ := g.tools.Load().(toolcalls.Format); f != "" {
		return f
	}
	return toolcalls.Hermes
}

// modelName is what the served model is called, "" if that is not known yet.
func (g *Gateway) modelName() string {
	if g.cfg.ModelName != "" {
		return g.cfg.ModelName
	}
	if engine := g.engine.Load(); engine != nil {
		return engine.Model
	}
	return ""
}

// servedModel checks the model that a request names, and returns the name to answer with.
func (g *Gateway) servedModel(name string) (string, *schemas.Error) {
	served := g.modelName()
	if name == "" || name == served {
		return served, nil
	}
	if slices.Contains(g.cfg.Aliases, name) {
		return name, nil
	}
	return "", schemas.Errorf(schemas.KindNotFound, schemas.OpModel, "there is no model %q here", clip(name)).
		WithParam("model").WithHint("this server has %q", served)
}

// models lists the names under which the model is served.
func (g *Gateway) models() *schemas.ModelList {
	list := &schemas.ModelList{Object: "list", Data: []schemas.ModelCard{}}
	engine := g.engine.Load()
	if engine == nil {
		return list
	}
	root := ""
	for _, name := range append([]string{g.modelName()}, g.cfg.Aliases...) {
		list.Data = append(list.Data, schemas.ModelCard{ID: name, Object: "model", Created: g.startedAt.Unix(), OwnedBy: "troupe",
			Root: root, MaxModelLen: engine.ContextMax})
		root = g.modelName() // of the aliases that follow
	}
	return list
}

func (g *Gateway) newRequestID() schemas.RequestID {
	return schemas.NewRequestID(g.prefix, g.counter.Add(1))
}

// cancelByID ends a request of this gateway and reports whether there was one.
func (g *Gateway) cancelByID(id schemas.RequestID) bool {
	f := g.requests.find(id)
	if f == nil {
		f = g.requests.publicFlight(id)
	}
	if f == nil {
		return false
	}
	e := schemas.Errorf(schemas.KindCanceled, "cancel", "the request was cancelled")
	e.Request = f.id
	f.abort(e)
	return true
}

// Running counts the requests that run.
func (g *Gateway) Running() int32 { return int32(g.requests.count()) }

func (g *Gateway) state(context.Context, *schemas.InfoRequest) (*schemas.GatewayState, error) {
	s := g.requests.state(time.Now())
	s.Ready = true
	if _, err := g.ready(); err != nil {
		s.Ready, s.Reason = false, err.Detail
	}
	return s, nil
}

// Drain refuses new requests and lets the running ones finish. When ctx ends, those that are left are
// cancelled with a reason. It returns nil if all of them finished by themselves. The HTTP server is shut
// down afterwards, then Close.
func (g *Gateway) Drain(ctx context.Context) error {
	refusal := schemas.Errorf(schemas.KindUnavailable, "admit", "the server is shutting down").WithHint("try again at another server, or later")
	refusal.RetryAfterMs = retryAfterMs
	idle := g.requests.drain(refusal)
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
	}
	left := g.requests.all()
	for _, f := range left {
		f.abort(schemas.Errorf(schemas.KindUnavailable, "answer", "the server is shutting down; the answer is incomplete"))
	}
	select {
	case <-idle:
	case <-time.After(drainCancelTimeMax):
	}
	return schemas.Errorf(schemas.KindCanceled, "drain", "%d requests were cancelled: %v", len(left), ctx.Err())
}

// Fail refuses new requests and ends the running ones, all with err: what they need is gone for good.
func (g *Gateway) Fail(err *schemas.Error) {
	g.requests.drain(err)
	for _, f := range g.requests.all() {
		e := *err
		e.Request = f.id
		f.abort(&e)
	}
}

// Close makes the gateway unreachable and ends what is left. Drain first.
func (g *Gateway) Close() {
	g.closeOnce.Do(func() {
		idle := g.requests.drain(schemas.Errorf(schemas.KindUnavailable, "admit", "the server has shut down"))
		close(g.stop)
		for _, f := range g.requests.all() {
			f.abort(schemas.Errorf(schemas.KindUnavailable, "answer", "the server has shut down; the answer is incomplete"))
		}
		g.stopNATS()
		<-idle // the abort ends every flight, within abortWriteTimeMax
		g.background.Wait()
		g.actor.Stop()
		g.metrics.unregister(g.cfg.Registry)
	})
}

// report writes one line and the metrics of a flight that has ended.
func (g *Gateway) report(f *flight, err *schemas.Error) {
	usage := f.answer.counts()
	took := time.Since(f.began)
	if f.submitted.Load() > 0 { // otherwise it was refused, which is counted where it is answered
		g.metrics.ended(f, usage, err, took)
	}
	line := g.log.Info()
	if err != nil {
		if err.Kind.HTTPStatus() >= http.StatusInternalServerError {
			line = g.log.Warn()
		}
		line = line.Str("error", err.Error()).Str("kind", string(err.Kind))
	}
	if f.job.trace != "" {
		line = line.Str("trace_id", f.job.trace)
	}
	line.Stringer("request", f.id).Str("api", f.job.api.name).Bool("stream", f.job.stream).Int64("prompt_tokens", usage.PromptTokens).
		Int64("completion_tokens", usage.CompletionTokens).Dur("took_ms", took).Msg("request ended")
}
