package bench

import (
	"context"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe"
	"github.com/troupe-engine/troupe/internal/machine"
	"github.com/troupe-engine/troupe/schemas"
)

// ServeConfig is a load. Names and meanings are those of `vllm bench serve`.
type ServeConfig struct {
	Transport string // "http" or "nats"
	BaseURL   string // of the HTTP API of a running engine; "" (with NATSURL "") starts one in this process
	NATSURL   string // of a running engine, for Transport "nats"
	// NATSOptions are how the load shows who it is at NATSURL.
	NATSOptions []nats.Option
	Model       string // name in requests; default: what the engine serves
	Engine      troupe.Options

	Dataset          string // "random" or "trace"
	DatasetPath      string
	NumPrompts       int
	RequestRate      float64 // per second; +Inf sends at once, or as the trace says
	Burstiness       float64
	MaxConcurrency   int // 0: no limit
	RandomInputLen   int // tokens
	RandomOutputLen  int // tokens
	RandomRangeRatio float64
	VocabSize        int // for engines that do not say
	Temperature      float64
	IgnoreEOS        bool
	Ledger           bool // ask every request where its time went; only Troupe knows
	Seed             uint64
	Warmup           int // requests before the measured ones

	PercentileMetrics []string
	MetricPercentiles []float64
	Goodput           map[string]float64 // milliseconds that a good request may take, by metric

	Compare       []int // concurrencies to compare; empty: one run
	CompareRounds int

	Profile  func(profile []byte) error // gets the CPU profile of the process; may be nil
	Progress func(string)               // may be nil
	Log      zerolog.Logger             // of an engine in this process
}

// patientEngine lets a load wait as long as it takes.
func patientEngine() troupe.Options {
	o := troupe.DefaultOptions()
	o.WaitMax = 0
	return o
}

// DefaultServeConfig is a short load for the default model.
func DefaultServeConfig() ServeConfig {
	return ServeConfig{Transport: "http", Engine: patientEngine(), Dataset: "random", NumPrompts: 64, RequestRate: math.Inf(1), Burstiness: 1,
		RandomInputLen: 128, RandomOutputLen: 64, Warmup: 4, PercentileMetrics: slices.Clone(Metrics), MetricPercentiles: []float64{99},
		CompareRounds: 5, Log: zerolog.Nop()}
}

const (
	promptsMax      = 1 << 20
	tokensMax       = 1 << 20 // per request
	concurrencyMax  = 1 << 14
	startWaitMax    = 30 * time.Second
	vocabularyLeast = firstToken + 1
)

// Validate names the first field that makes no sense.
func (c *ServeConfig) Validate() error {
	bad := func(param string, value any, want string) error {
		return schemas.Errorf(schemas.KindInvalid, "bench serve", "%s is %v; expected %s", param, value, want).WithParam(param)
	}
	within := func(v, low, high int) bool { return v >= low && v <= high }
	switch {
	case c.Transport != "http" && c.Transport != "nats":
		return bad("transport", c.Transport, "http or nats")
	case c.Dataset != "random" && c.Dataset != "trace":
		return bad("dataset-name", c.Dataset, "random or trace")
	case c.Dataset == "trace" && c.DatasetPath == "":
		return bad("dataset-path", `""`, "the trace's CSV file")
	case !within(c.NumPrompts, 1, promptsMax):
		return bad("num-prompts", c.NumPrompts, "1 to 1048576")
	case !(c.RequestRate > 0):
		return bad("request-rate", c.RequestRate, "a positive number of requests per second, or inf")
	case !(c.Burstiness > 0 && c.Burstiness <= 1e6):
		return bad("burstiness", c.Burstiness, "a positive number; 1 is a Poisson process")
	case !within(c.MaxConcurrency, 0, concurrencyMax):
		return bad("max-concurrency", c.MaxConcurrency, "0 (no limit) to 16384")
	case !within(c.RandomInputLen, 1, tokensMax):
		return bad("random-input-len", c.RandomInputLen, "1 to 1048576 tokens")
	case !within(c.RandomOutputLen, 1, tokensMax):
		return bad("random-output-len", c.RandomOutputLen, "1 to 1048576 tokens")
	case !(c.RandomRangeRatio >= 0 && c.RandomRangeRatio < 1):
		return bad("random-range-ratio", c.RandomRangeRatio, "0 to less than 1")
	case c.VocabSize != 0 && c.VocabSize < vocabularyLeast:
		return bad("vocab-size", c.VocabSize, "0 (ask the engine) or at least 5")
	case !within(c.Warmup, 0, promptsMax):
		return bad("num-warmups", c.Warmup, "0 or more requests")
	case !within(c.CompareRounds, 1, 1000):
		return bad("compare-rounds", c.CompareRounds, "1 to 1000")
	}
	return c.validateLists(bad)
}

func (c *ServeConfig) validateLists(bad func(string, any, string) error) error {
	for _, m := range c.PercentileMetrics {
		if !slices.Contains(Metrics, m) {
			return bad("percentile-metrics", m, "ttft, tpot, itl or e2el")
		}
	}
	for _, p := range c.MetricPercentiles {
		if !(p >= 0 && p <= 100) {
			return bad("metric-percentiles", p, "0 to 100")
		}
	}
	for m, ms := range c.Goodput {
		if m == "itl" || !slices.Contains(Metrics, m) {
			return bad("goodput", m, "ttft, tpot or e2el, as in ttft:100")
		}
		if !(ms > 0) {
			return bad("goodput", ms, "a positive number of milliseconds")
		}
	}
	for _, n := range c.Compare {
		if n < 1 || n > concurrencyMax {
			return bad("compare-concurrency", n, "1 to 16384")
		}
	}
	if len(c.Compare) == 1 {
		return bad("compare-concurrency", c.Compare[0], "at least two numbers of requests at once, as in 1,16")
	}
	return nil
}

// bench is a client and what it talks to.
type bench struct {
	cfg    ServeConfig
	client client
	served served
	engine *troupe.Engine // nil if it runs elsewhere
}

// openBench connects to the engine, or starts one in this process.
func openBench(ctx context.Context, cfg ServeConfig) (*bench, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	b := &bench{cfg: cfg}
	if err := b.open(ctx); err != nil {
		b.close()
		return nil, err
	}
	return b, nil
}

func (b *bench) open(ctx context.Context) (err error) {
	http, nats := b.cfg.BaseURL, b.cfg.NATSURL
	if http == "" && nats == "" {
		o := b.cfg.Engine
		o.HTTP, o.NATSListen = "127.0.0.1:0", "127.0.0.1:0"
		if b.engine, err = troupe.Open(ctx, o, b.cfg.Log, nil); err != nil {
			return err
		}
		http, nats = b.engine.HTTPURL(), b.engine.NATSURL()
	}
	if b.cfg.Transport == "nats" {
		if nats == "" {
			return schemas.Errorf(schemas.KindInvalid, "bench serve", "nats-url is missing").WithParam("nats-url").WithHint("give --nats-url with --transport nats")
		}
		client, err := newNATSClient(nats, b.cfg.NATSOptions)
		if err != nil {
			return err
		}
		b.client = client
	} else {
		if http == "" {
			return schemas.Errorf(schemas.KindInvalid, "bench serve", "base-url is missing").WithParam("base-url").WithHint("give --base-url, or --transport nats")
		}
		b.client = newHTTPClient(http)
	}
	return b.ask(ctx)
}

// ask learns what is served, as far as the configuration does not say.
func (b *bench) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startWaitMax)
	defer cancel()
	var info schemas.EngineInfo
	err := b.client.ask(ctx, "scheduler", "info", &info)
	found := served{model: info.Model, vocabulary: int(info.VocabSize), contextMax: int(info.ContextMax)}
	if err != nil && (b.cfg.Model == "" || b.cfg.VocabSize == 0) {
		return schemas.Errorf(schemas.KindUnavailable, "bench serve", "the engine does not say what it serves: %v", err).
			WithHint("if it is not Troupe, give --served-model-name and --vocab-size")
	}
	if b.cfg.Model != "" {
		found.model = b.cfg.Model
	}
	if b.cfg.VocabSize != 0 {
		found.vocabulary = b.cfg.VocabSize
	}
	if found.vocabulary < vocabularyLeast {
		return schemas.Errorf(schemas.KindInvalid, "bench serve", "a vocabulary of %d tokens is too small", found.vocabulary)
	}
	b.served = found
	return nil
}

func (b *bench) close() {
	if b.client != nil {
		b.client.close()
	}
	if b.engine != nil {
		_ = b.engine.Close() // the figures are complete
	}
}

// RunServe puts an engine under load.
func RunServe(ctx context.Context, cfg ServeConfig) (*ServeReport, error) {
	b, err := openBench(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer b.close()
	machine := thisMachine()
	if err := b.warmUp(ctx); err != nil {
		return nil, err
	}
	requests, err := cfg.load(b.served, cfg.NumPrompts, cfg.Seed)
	if err != nil {
		return nil, err
	}
	if cfg.Progress != nil {
		cfg.Progress("sending the load")
	}
	var r *ServeReport
	profile := profiled(func() { r = b.measure(ctx, requests, cfg.MaxConcurrency) })
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	machine.LoadEnd = loadAverage()
	r.Machine, r.ModelID = machine, b.served.model
	return r, b.explain(r, profile)
}

// measure sends a load and evaluates what came of it.
func (b *bench) measure(ctx context.Context, requests []request, concurrency int) *ServeReport {
	before, cpu := b.ledger(ctx), machine.CPUTime()
	outcomes, took := b.drive(ctx, requests, concurrency)
	r := b.cfg.evaluate(outcomes, took)
	if b.engine != nil {
		r.CPUSeconds = (machine.CPUTime() - cpu).Seconds()
	}
	if after := b.ledger(ctx); before != nil && after != nil {
		r.Ledger = since(after, before)
	}
	return r
}

// ledger asks the scheduler where the time of its steps went; nil if it does not say.
func (b *bench) ledger(ctx context.Context) *schemas.Ledger {
	var s schemas.SchedulerState
	if b.client.ask(ctx, "scheduler", "state", &s) != nil {
		return nil // not Troupe
	}
	return &s.Ledger
}

func since(after, before *schemas.Ledger) *schemas.Ledger {
	return &schemas.Ledger{Schedule: after.Schedule - before.Schedule, Memory: after.Memory - before.Memory, Launch: after.Launch - before.Launch,
		Serialize: after.Serialize - before.Serialize, Bus: after.Bus - before.Bus,
		Upload: after.Upload - before.Upload, Device: after.Device - before.Device, Idle: after.Idle - before.Idle,
		Emit: after.Emit - before.Emit, Steps: after.Steps - before.Steps}
}

// explain adds what the CPU profile says, if the engine runs in this process.
func (b *bench) explain(r *ServeReport, profile []byte) error {
	if profile == nil || b.engine == nil {
		return nil
	}
	if b.cfg.Profile != nil {
		if err := b.cfg.Profile(profile); err != nil {
			return err
		}
	}
	share, err := profileShare(profile)
	if err != nil {
		return err
	}
	r.ClientShare = &share
	return nil
}

// warmUp sends a few requests that are not counted: connections, caches, pages.
func (b *bench) warmUp(ctx context.Context) error {
	if b.cfg.Warmup == 0 {
		return nil
	}
	cfg := b.cfg
	cfg.Dataset, cfg.RequestRate = "random", math.Inf(1)
	if limit := b.served.contextMax; limit > 0 { // the lengths of a trace are its own
		cfg.RandomInputLen, cfg.RandomOutputLen = min(cfg.RandomInputLen, max(1, limit/4)), min(cfg.RandomOutputLen, max(1, limit/4))
	}
	requests, err := cfg.load(b.served, cfg.Warmup, cfg.Seed+1<<32)
	if err != nil {
		return err
	}
	outcomes, _ := b.drive(ctx, requests, cfg.MaxConcurrency)
	for _, o := range outcomes {
		if o.err != nil {
			return schemas.Errorf(schemas.KindUnavailable, "bench serve", "a first request failed: %v", o.err)
		}
	}
	return ctx.Err()
}

// drive sends requests at their times, at most concurrency at once, and returns what came of them.
func (b *bench) drive(ctx context.Context, requests []request, concurrency int) ([]*outcome, time.Duration) {
	outcomes := make([]*outcome, len(requests))
	began := time.Now()
	asClient(ctx, func(ctx context.Context) {
		var all sync.WaitGroup
		if concurrency <= 0 || concurrency > len(requests) {
			concurrency = len(requests)
		}
		places := make(chan struct{}, concurrency)
		for i := range requests {
			o := &outcome{request: &requests[i], chunks: make([]time.Duration, 0, requests[i].output+2)}
			outcomes[i] = o
			if o.err = waitUntil(ctx, began.Add(o.request.at)); o.err != nil {
				continue
			}
			all.Go(func() {
				places <- struct{}{} // like vLLM's, a request's time starts when it may be sent
				defer func() { <-places }()
				o.began = time.Since(began)
				b.client.send(ctx, o)
			})
		}
		all.Wait()
	})
	return outcomes, time.Since(began)
}

func waitUntil(ctx context.Context, at time.Time) error {
	d := time.Until(at)
	if d <= 0 {
		return ctx.Err()
	}
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
