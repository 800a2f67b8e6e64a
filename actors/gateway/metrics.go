package gateway

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	dto "github.com/prometheus/client_model/go"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

// Metric names start with ours; /metrics shows every family that vLLM has too a second time under vLLM's
// name. docs/metrics.md lists both.
const (
	prefixOurs    = "troupe_"
	prefixVLLM    = "vllm:"
	labelModel    = "model_name"           // as vLLM has it
	scrapeTimeMax = 500 * time.Millisecond // for scheduler and memory to answer a scrape
)

var (
	secondsBuckets = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600}
	tokenBuckets   = []float64{1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000}
)

// metrics are what the gateway counts itself. What scheduler and memory count is asked at each scrape.
type metrics struct {
	prompt, generation               *prometheus.CounterVec // by model, as all up to success
	firstToken, interToken, endToEnd *prometheus.HistogramVec
	promptTokens, outputTokens, n    *prometheus.HistogramVec
	success                          *prometheus.CounterVec // and by finished_reason
	refused                          *prometheus.CounterVec // by kind
	running                          prometheus.GaugeFunc
	connectionsRefused               prometheus.Counter
	process, runtime                 prometheus.Collector
	wait                             prometheus.GaugeFunc
	engine                           *engineCollector
	bus                              busCollector
}

func newMetrics(g *Gateway) *metrics {
	histogram := func(name, help string, buckets []float64) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: prefixOurs + name, Help: help, Buckets: buckets}, []string{labelModel})
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefixOurs + name, Help: help}, labels)
	}
	m := &metrics{
		prompt:       counter("prompt_tokens_total", "Prompt tokens of admitted requests.", labelModel),
		generation:   counter("generation_tokens_total", "Output tokens.", labelModel),
		firstToken:   histogram("time_to_first_token_seconds", "From a request's arrival to the first token of each of its choices.", secondsBuckets),
		interToken:   histogram("inter_token_latency_seconds", "Between two tokens of one choice.", secondsBuckets),
		endToEnd:     histogram("e2e_request_latency_seconds", "From a request's arrival to its end.", secondsBuckets),
		promptTokens: histogram("request_prompt_tokens", "Prompt tokens of a request.", tokenBuckets),
		outputTokens: histogram("request_generation_tokens", "Output tokens of a request.", tokenBuckets),
		n:            histogram("request_params_n", "Choices a request asks for.", tokenBuckets[:7]),
		success:      counter("request_success_total", "Choices that ended, by reason; abort is the client's doing or the server's shutdown.", labelModel, "finished_reason"),
		refused:      counter("gateway_errors_total", "Requests that got an error, by kind.", "kind"),
		running: prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: prefixOurs + "gateway_requests_running",
			Help: "Client requests in the gateway."}, func() float64 { return float64(g.requests.count()) }),
		connectionsRefused: counter("gateway_connections_refused_total", "TCP connections closed because there were too many: silent ones, to make room, or new ones.").WithLabelValues(),
		process:            collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		runtime:            collectors.NewGoCollector(collectors.WithGoCollectorMemStatsMetricsDisabled()),
		wait: prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: prefixOurs + "gateway_expected_wait_seconds",
			Help: "How long a request that comes now would wait for its turn, for the model where that is longest."}, func() float64 { return g.requests.waitsMax().Seconds() }),
		engine: newEngineCollector(g.node, g.cfg.Scheduler),
		bus: busCollector{g.node, prometheus.NewDesc(prefixOurs+"bus_refused_total",
			"What the node's bus refused, by reason: publish or subscribe beyond a role, credentials, certificate, oversized, malformed.", []string{"reason"}, nil)},
	}
	g.cfg.Registry.MustRegister(m.collectors()...)
	return m
}

func (m *metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.prompt, m.generation, m.firstToken, m.interToken, m.endToEnd, m.promptTokens, m.outputTokens,
		m.n, m.success, m.refused, m.running, m.connectionsRefused, m.process, m.runtime, m.wait, m.engine, m.bus}
}

func (m *metrics) unregister(r *prometheus.Registry) {
	for _, c := range m.collectors() {
		r.Unregister(c)
	}
}

// modelMetrics are those of one model.
type modelMetrics struct {
	prompt, generation                                              prometheus.Counter
	firstToken, interToken, endToEnd, promptTokens, outputTokens, n prometheus.Observer
	success                                                         *prometheus.CounterVec // by finished_reason
}

// modelLabel is a model's name in metrics, which refuse what is no text: a directory may be called anything.
func modelLabel(name string) string { return strings.ToValidUTF8(name, "�") }

// of are the metrics of a model.
func (m *metrics) of(model string) *modelMetrics {
	o := &modelMetrics{prompt: m.prompt.WithLabelValues(model), generation: m.generation.WithLabelValues(model), firstToken: m.firstToken.WithLabelValues(model),
		interToken: m.interToken.WithLabelValues(model), endToEnd: m.endToEnd.WithLabelValues(model), promptTokens: m.promptTokens.WithLabelValues(model),
		outputTokens: m.outputTokens.WithLabelValues(model), n: m.n.WithLabelValues(model), success: m.success.MustCurryWith(prometheus.Labels{labelModel: model})}
	for _, reason := range []string{"stop", "length", "abort", "error"} {
		o.success.WithLabelValues(reason)
	}
	return o
}

// admitted counts a prompt that the scheduler has taken.
func (m *modelMetrics) admitted(r *schemas.SubmitRequest) {
	m.prompt.Add(float64(len(r.Tokens)))
	m.promptTokens.Observe(float64(len(r.Tokens)))
	m.n.Observe(float64(r.Choices))
}

// advanced counts tokens of a choice, which came together.
func (m *modelMetrics) advanced(tokens int32, first bool, since time.Duration) {
	m.generation.Add(float64(tokens))
	if first {
		m.firstToken.Observe(since.Seconds())
		return
	}
	for range min(tokens, interTokenSamplesMax) {
		m.interToken.Observe(since.Seconds() / float64(tokens))
	}
}

// interTokenSamplesMax bounds the work for one row, whose count comes from outside.
const interTokenSamplesMax = 64

// ended counts a request that was admitted.
func (m *modelMetrics) ended(f *flight, usage *schemas.Usage, err *schemas.Error, took time.Duration) {
	m.endToEnd.Observe(took.Seconds())
	m.outputTokens.Observe(float64(usage.CompletionTokens))
	reason := "error"
	if err != nil && (err.Kind == schemas.KindCanceled || err.Kind == schemas.KindUnavailable) {
		reason = "abort"
	}
	for i := range f.answer.choices {
		switch finish := f.answer.choices[i].finish; finish {
		case schemas.FinishStop, schemas.FinishLength:
			m.success.WithLabelValues(finish.String()).Inc()
		default:
			m.success.WithLabelValues(reason).Inc()
		}
	}
}

// busCollector counts what the node refused that others sent over its bus.
type busCollector struct {
	node    *bus.Node
	refused *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (c busCollector) Describe(ch chan<- *prometheus.Desc) { ch <- c.refused }

// Collect implements prometheus.Collector.
func (c busCollector) Collect(ch chan<- prometheus.Metric) {
	for reason, count := range c.node.Refusals() {
		ch <- prometheus.MustNewConstMetric(c.refused, prometheus.CounterValue, float64(count), reason)
	}
}

// engineCollector asks scheduler and memory for their counts when somebody scrapes.
type engineCollector struct {
	scheduler *bus.Ref[schemas.InfoRequest, schemas.SchedulerState]
	memory    *bus.Ref[schemas.InfoRequest, schemas.MemoryState]
	up        *prometheus.Desc
	steps     *prometheus.Desc // by part
	states    []engineMetric[schemas.SchedulerState]
	pools     []engineMetric[schemas.MemoryState]
}

type engineMetric[S any] struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	read func(*S) float64
}

func newEngineCollector(node *bus.Node, replica schemas.Instance) *engineCollector {
	desc := func(name, help string) *prometheus.Desc { return prometheus.NewDesc(prefixOurs+name, help, nil, nil) }
	const gauge, counter = prometheus.GaugeValue, prometheus.CounterValue
	type S = schemas.SchedulerState
	type M = schemas.MemoryState
	return &engineCollector{
		scheduler: bus.NewRef(node, schemas.SchedulerInfo, replica),
		memory:    bus.NewRef(node, schemas.MemoryInfo, replica),
		steps: prometheus.NewDesc(prefixOurs+"step_seconds_total", "Where the time of steps went, by part: upload, device and idle are the device's, the rest is the host's meanwhile.",
			[]string{"part"}, nil),
		up: desc("engine_up", "1 if scheduler and memory answered this scrape."),
		states: []engineMetric[S]{
			{desc("num_requests_running", "Sequences that run."), gauge, func(s *S) float64 { return float64(s.Running) }},
			{desc("num_requests_waiting", "Sequences that wait."), gauge, func(s *S) float64 { return float64(s.Waiting) }},
			{desc("num_preemptions_total", "Sequences that lost their KV blocks to others."), counter, func(s *S) float64 { return float64(s.Preemptions) }},
			{desc("scheduler_steps_total", "Steps that finished."), counter, func(s *S) float64 { return float64(s.Ledger.Steps) }},
			{desc("scheduler_step_errors_total", "Steps that the device failed."), counter, func(s *S) float64 { return float64(s.StepErrors) }},
			{desc("scheduler_overloads_total", "Requests refused because the queue was full."), counter, func(s *S) float64 { return float64(s.Overloads) }},
			{desc("scheduler_discarded_tokens_total", "Tokens computed after their sequence had ended."), counter, func(s *S) float64 { return float64(s.Discarded) }},
			{desc("device_seconds_total", "Time in the model and the sampler."), counter, func(s *S) float64 { return float64(s.Ledger.Device) / 1e9 }},
			{desc("device_idle_seconds_total", "Time the device waited for a plan."), counter, func(s *S) float64 { return float64(s.Ledger.Idle) / 1e9 }},
		},
		pools: []engineMetric[M]{
			{desc("kv_cache_usage_perc", "Share of the KV blocks that sequences use, 0 to 1."), gauge, func(m *M) float64 { return float64(m.Used) / float64(max(m.Total, 1)) }},
			{desc("kv_cache_blocks", "KV blocks in the pool."), gauge, func(m *M) float64 { return float64(m.Total) }},
			{desc("prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache."), counter, func(m *M) float64 { return float64(m.QueryTokens) }},
			{desc("prefix_cache_hits_total", "Prompt tokens found there."), counter, func(m *M) float64 { return float64(m.HitTokens) }},
			{desc("kv_evictions_total", "Cached KV blocks given up."), counter, func(m *M) float64 { return float64(m.Evictions) }},
		},
	}
}

// Describe sends every description.
func (c *engineCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.up
	ch <- c.steps
	for _, m := range c.states {
		ch <- m.desc
	}
	for _, m := range c.pools {
		ch <- m.desc
	}
}

// Collect asks and sends. What does not answer is left out.
func (c *engineCollector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeMax)
	defer cancel()
	state, err := c.scheduler.Call(ctx, &schemas.InfoRequest{})
	if err == nil {
		for _, m := range c.states {
			ch <- prometheus.MustNewConstMetric(m.desc, m.kind, m.read(state))
		}
		for _, p := range state.Ledger.Parts() {
			ch <- prometheus.MustNewConstMetric(c.steps, prometheus.CounterValue, float64(p.Ns)/1e9, p.Name)
		}
	}
	pool, poolErr := c.memory.Call(ctx, &schemas.InfoRequest{})
	if poolErr == nil {
		for _, m := range c.pools {
			ch <- prometheus.MustNewConstMetric(m.desc, m.kind, m.read(pool))
		}
	}
	up := 0.0
	if err == nil && poolErr == nil {
		up = 1
	}
	ch <- prometheus.MustNewConstMetric(c.up, prometheus.GaugeValue, up)
}

// shared are the families that vLLM has under the same name after its prefix.
var shared = map[string]bool{"num_requests_running": true, "num_requests_waiting": true, "num_preemptions_total": true,
	"kv_cache_usage_perc": true, "prefix_cache_queries_total": true, "prefix_cache_hits_total": true,
	"prompt_tokens_total": true, "generation_tokens_total": true, "time_to_first_token_seconds": true,
	"inter_token_latency_seconds": true, "e2e_request_latency_seconds": true, "request_prompt_tokens": true,
	"request_generation_tokens": true, "request_params_n": true, "request_success_total": true}

// mirrored gathers a registry and adds the families that vLLM has too under vLLM's names, each sample with
// a model's name as vLLM labels it: its own, or the gateway's.
type mirrored struct {
	prometheus.Gatherer
	model func() string
}

// Gather implements prometheus.Gatherer.
func (m mirrored) Gather() ([]*dto.MetricFamily, error) {
	families, err := m.Gatherer.Gather()
	label, model := labelModel, m.model()
	out := families
	for _, f := range families {
		name, ours := strings.CutPrefix(f.GetName(), prefixOurs)
		if !ours || !shared[name] {
			continue
		}
		name = prefixVLLM + name
		copied := &dto.MetricFamily{Name: &name, Help: f.Help, Type: f.Type, Unit: f.Unit}
		for _, s := range f.Metric {
			labels := slices.Clone(s.Label)
			if !slices.ContainsFunc(labels, func(l *dto.LabelPair) bool { return l.GetName() == label }) {
				labels = append(labels, &dto.LabelPair{Name: &label, Value: &model})
			}
			slices.SortFunc(labels, func(a, b *dto.LabelPair) int { return strings.Compare(a.GetName(), b.GetName()) })
			copied.Metric = append(copied.Metric, &dto.Metric{Label: labels,
				Gauge: s.Gauge, Counter: s.Counter, Histogram: s.Histogram, Summary: s.Summary, Untyped: s.Untyped})
		}
		out = append(out, copied)
	}
	return out, err
}
