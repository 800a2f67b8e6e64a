package bench

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"time"

	"github.com/troupe-engine/troupe/schemas"
)

// Metrics are the latencies of a request:
//
//	ttft  time to first token: from sending to the first event with a choice
//	tpot  time per output token after the first: (e2el - ttft) / (output tokens - 1), per request
//	itl   inter-token latency: between successive events, over all requests
//	e2el  end-to-end latency: from sending to the last event with a choice
var Metrics = []string{"ttft", "tpot", "itl", "e2el"}

// ServeReport is the outcome of a load. As JSON it has the keys of vLLM's result files.
type ServeReport struct {
	Machine        Machine
	Date           time.Time
	Backend        string
	ModelID        string
	NumPrompts     int
	RequestRate    float64 // +Inf: at once
	Burstiness     float64
	MaxConcurrency int // 0: no limit

	Duration          float64 // seconds
	Completed, Failed int
	InputTokens       int
	OutputTokens      int
	PeakConcurrent    int      // requests at once
	Goodput           *float64 // requests per second that met every limit; nil without limits
	Latencies         []Latency
	Errors            []string        // the first few different ones
	CPUSeconds        float64         // of this process, if the engine runs in it
	Ledger            *schemas.Ledger // where the time of the engine's steps went; nil if it does not say
	Requests          *LedgerMean     // where the time of completed requests went; nil if they were not asked
	ClientShare       *float64        // part of the process' CPU time that the load generator took; nil elsewhere
}

// Latency summarizes one of Metrics, in milliseconds.
type Latency struct {
	Metric                  string
	Mean, Median, Deviation float64
	Percentiles             []Percentile
}

// Percentile is the value below which P percent lie.
type Percentile struct{ P, Ms float64 }

// LedgerMean is the mean of requests' ledgers.
type LedgerMean struct {
	Requests int                   `json:"requests"`
	MeanUs   schemas.RequestLedger `json:"mean_us"`
}

// add returns the mean with one more ledger. Both may be nil: no requests, and one that was not asked.
func (m *LedgerMean) add(l *schemas.RequestLedger) *LedgerMean {
	if l == nil {
		return m
	}
	return m.with(&LedgerMean{1, *l})
}

// with returns the mean of the requests of both, which may be nil.
func (m *LedgerMean) with(o *LedgerMean) *LedgerMean {
	if m == nil || o == nil {
		return cmp.Or(m, o)
	}
	sum := &LedgerMean{Requests: m.Requests + o.Requests, MeanUs: m.MeanUs}
	mean, other := reflect.ValueOf(&sum.MeanUs).Elem(), reflect.ValueOf(&o.MeanUs).Elem()
	for i := range mean.NumField() {
		f := mean.Field(i)
		f.SetFloat(f.Float() + (other.Field(i).Float()-f.Float())*float64(o.Requests)/float64(sum.Requests))
	}
	return sum
}

const errorsKept = 5

// RequestThroughput is in requests per second.
func (r *ServeReport) RequestThroughput() float64 { return perSecond(r.Completed, r.Duration) }

// OutputThroughput is in tokens per second.
func (r *ServeReport) OutputThroughput() float64 { return perSecond(r.OutputTokens, r.Duration) }

// TotalThroughput counts input tokens, too.
func (r *ServeReport) TotalThroughput() float64 {
	return perSecond(r.InputTokens+r.OutputTokens, r.Duration)
}

func perSecond(count int, seconds float64) float64 {
	if seconds <= 0 {
		return 0
	}
	return float64(count) / seconds
}

// evaluate computes the metrics of a load's outcomes.
func (c *ServeConfig) evaluate(outcomes []*outcome, took time.Duration) *ServeReport {
	r := &ServeReport{Date: time.Now().UTC(), Backend: c.Transport, NumPrompts: len(outcomes), RequestRate: c.RequestRate, Burstiness: c.Burstiness,
		MaxConcurrency: c.MaxConcurrency, Duration: took.Seconds()}
	values := map[string][]float64{}
	good := 0
	for _, o := range outcomes {
		if o.err != nil {
			r.Failed++
			if text := o.err.Error(); len(r.Errors) < errorsKept && !slices.Contains(r.Errors, text) {
				r.Errors = append(r.Errors, text)
			}
			continue
		}
		r.Completed++
		r.InputTokens += o.input
		r.OutputTokens += o.output
		r.Requests = r.Requests.add(o.ledger)
		own := o.latencies()
		for m, v := range own {
			values[m] = append(values[m], v)
		}
		for i := 1; i < len(o.chunks); i++ {
			values["itl"] = append(values["itl"], ms(o.chunks[i]-o.chunks[i-1]))
		}
		if c.isGood(own) {
			good++
		}
	}
	for _, m := range Metrics {
		if slices.Contains(c.PercentileMetrics, m) {
			r.Latencies = append(r.Latencies, summarize(m, values[m], c.MetricPercentiles))
		}
	}
	if len(c.Goodput) > 0 {
		rate := perSecond(good, r.Duration)
		r.Goodput = &rate
	}
	r.PeakConcurrent = peak(outcomes)
	return r
}

// latencies are those of one completed request, in milliseconds. One token has no tpot.
func (o *outcome) latencies() map[string]float64 {
	l := map[string]float64{"ttft": ms(o.chunks[0]), "e2el": ms(o.latency())}
	if o.output > 1 {
		l["tpot"] = (l["e2el"] - l["ttft"]) / float64(o.output-1)
	}
	return l
}

func (c *ServeConfig) isGood(latencies map[string]float64) bool {
	for m, limit := range c.Goodput {
		if latencies[m] > limit {
			return false
		}
	}
	return true
}

func ms(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }

func summarize(metric string, values []float64, percentiles []float64) Latency {
	slices.Sort(values)
	l := Latency{Metric: metric, Mean: mean(values), Median: quantile(values, 0.5), Deviation: deviation(values)}
	for _, p := range percentiles {
		l.Percentiles = append(l.Percentiles, Percentile{p, quantile(values, p/100)})
	}
	return l
}

// peak is how many completed requests were under way at once at most.
func peak(outcomes []*outcome) int {
	type change struct {
		at   time.Duration
		step int
	}
	var changes []change
	for _, o := range outcomes {
		if o.err == nil {
			changes = append(changes, change{o.began, 1}, change{o.began + o.latency(), -1})
		}
	}
	slices.SortFunc(changes, func(a, b change) int {
		if a.at != b.at {
			return int(a.at - b.at)
		}
		return a.step - b.step
	})
	now, most := 0, 0
	for _, c := range changes {
		now += c.step
		most = max(most, now)
	}
	return most
}

// MarshalJSON writes the keys of vLLM's result files, and Troupe's own under "troupe".
func (r *ServeReport) MarshalJSON() ([]byte, error) {
	m := map[string]any{"date": r.Date.Format("20060102-150405"), "backend": r.Backend, "model_id": r.ModelID, "num_prompts": r.NumPrompts,
		"request_rate": r.RequestRate, "burstiness": r.Burstiness, "max_concurrency": r.MaxConcurrency, "duration": r.Duration,
		"completed": r.Completed, "failed": r.Failed, "total_input_tokens": r.InputTokens, "total_output_tokens": r.OutputTokens,
		"request_throughput": r.RequestThroughput(), "request_goodput": r.Goodput, "output_throughput": r.OutputThroughput(),
		"total_token_throughput": r.TotalThroughput(), "max_concurrent_requests": r.PeakConcurrent}
	if math.IsInf(r.RequestRate, 1) {
		m["request_rate"] = "inf"
	}
	if r.MaxConcurrency == 0 {
		m["max_concurrency"] = nil
	}
	for _, l := range r.Latencies {
		m["mean_"+l.Metric+"_ms"], m["median_"+l.Metric+"_ms"], m["std_"+l.Metric+"_ms"] = l.Mean, l.Median, l.Deviation
		for _, p := range l.Percentiles {
			m[fmt.Sprintf("p%s_%s_ms", percentWord(p.P), l.Metric)] = p.Ms
		}
	}
	m["troupe"] = map[string]any{"machine": r.Machine, "client_cpu_share": r.ClientShare, "cpu_seconds": r.CPUSeconds, "ledger": r.Ledger, "request_ledger": r.Requests, "errors": r.Errors}
	return json.Marshal(m)
}

// percentWord is 99 for 99.0 and 99.9 for 99.9.
func percentWord(p float64) string { return strconv.FormatFloat(p, 'f', -1, 64) }
