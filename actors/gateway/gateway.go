package gateway

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/micro"
	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe/bus"
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

	models    *models
	silence   atomic.Pointer[schemas.Error] // why its engine is not ready although it once was
	readers   chan struct{}                 // bounds bodies being parsed
	uploads   uploads                       // and those being read
	prefix    uint32                        // of request ids; its low 24 bits count
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
	g.models = newModels(g)
	g.tokenizers = newTokenizers(g)
	g.metrics = newMetrics(g)
	if cfg.ModelName != "" {
		g.models.own.metrics() // to be seen from the start
	}
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
			if g.models.own.engine.Swap(info) == nil {
				g.log.Info().Str("model", info.Model).Str("device", info.Device).Int32("context_max", info.ContextMax).Msg("the engine is ready")
			}
			g.silence.Store(nil)
			silences = 0
		default:
			if silences++; silences >= engineSilencesMax {
				g.silence.Store(schemas.AsError(err, "ask engine"))
			}
			wait = engineRetryEvery
		}
		for _, m := range g.models.all() {
			if engine := m.engine.Load(); engine != nil {
				g.requests.setSlots(m, g.slots(m, engine))
			}
		}
		select {
		case <-g.stop:
			return
		case <-time.After(wait):
		}
	}
}

// askVocabulary asks the gateway's own tokenizer what its chat template speaks of.
func (g *Gateway) askVocabulary(ctx context.Context) {
	if t := g.tokenizers.own; t != nil {
		if said, err := t.vocab.Call(ctx, &schemas.InfoRequest{}); err == nil {
			g.models.own.speech.Store(said)
		}
	}
}

// askEngine asks what is served of the gateway's own model, by the one replica or by any.
func (g *Gateway) askEngine(ctx context.Context) (*schemas.EngineInfo, error) {
	if g.replicas == nil {
		return g.home.ask.Call(ctx, &schemas.InfoRequest{})
	}
	info, err := g.replicas.engine(g.models.own)
	if err != nil {
		return nil, err
	}
	return info, nil
}

// slots counts the sequences of a model that run at once, here or at all replicas.
func (g *Gateway) slots(m *model, engine *schemas.EngineInfo) int {
	n := 0
	for _, r := range g.Replicas() {
		if r.Model == m.name {
			n += int(r.SequencesMax)
		}
	}
	return cmp.Or(n, int(engine.SequencesMax))
}

func (g *Gateway) newRequestID() schemas.RequestID {
	return schemas.NewRequestID(g.prefix, g.counter.Add(1))
}

// cancelByID ends a request of this gateway and reports whether there was one that had not ended.
func (g *Gateway) cancelByID(id schemas.RequestID) bool {
	f := g.requests.find(id)
	if f == nil {
		f = g.requests.publicFlight(id)
	}
	if f == nil || f.ctx.Err() != nil {
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
	if err := g.ready(); err != nil {
		s.Ready, s.Reason = false, err.Detail
	}
	if rs := g.replicas; rs != nil {
		rs.mu.Lock()
		routes := rs.router.State()
		rs.mu.Unlock()
		s.Routing = &routes
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
		f.job.serving.metrics().ended(f, usage, err, took)
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
