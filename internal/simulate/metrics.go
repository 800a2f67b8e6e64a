package simulate

import (
	"math"
	"slices"

	"github.com/troupe-engine/troupe/schemas"
)

// metrics collects what happens while a simulation runs.
type metrics struct {
	tokens    int64     // of answers
	prompt    int64     // tokens of prompts whose first token has come
	cached    int64     // of these, taken from the prefix cache
	intervals histogram // between the tokens of a request, nanoseconds
	errors    []string
	failures  int // requests that were refused or failed
	series    series
}

const errorsKept = 5

func newMetrics() *metrics { return &metrics{series: newSeries()} }

func (m *metrics) refused(err *schemas.Error) {
	m.failures++
	if text := err.Error(); len(m.errors) < errorsKept && !slices.Contains(m.errors, text) {
		m.errors = append(m.errors, text)
	}
}

func (m *metrics) interval(ns int64) { m.intervals.add(float64(ns)) }

func (m *metrics) sample(w *world) {
	if w.now >= m.series.next {
		m.series.add(w)
	}
}

// Latency summarizes a latency in milliseconds.
type Latency struct {
	Mean   float64 `json:"mean"`
	Median float64 `json:"median"`
	P90    float64 `json:"p90"`
	P99    float64 `json:"p99"`
	Max    float64 `json:"max"`

	curve []float64 // curvePoints quantiles, evenly spaced from 0 to 1
}

// curvePoints is how many points a distribution is plotted with.
const curvePoints = 201

// summarize sorts values, which are milliseconds.
func summarize(values []float64) Latency {
	if len(values) == 0 {
		return Latency{}
	}
	slices.Sort(values)
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	l := Latency{Mean: sum / float64(len(values)), Median: quantile(values, 0.5), P90: quantile(values, 0.9), P99: quantile(values, 0.99), Max: values[len(values)-1],
		curve: make([]float64, curvePoints)}
	for i := range l.curve {
		l.curve[i] = quantile(values, float64(i)/(curvePoints-1))
	}
	return l
}

// quantile interpolates linearly, as numpy.percentile does.
func quantile(sorted []float64, q float64) float64 {
	at := q * float64(len(sorted)-1)
	low := int(at)
	high := min(low+1, len(sorted)-1)
	return sorted[low] + (at-float64(low))*(sorted[high]-sorted[low])
}

// histogram counts positive values in classes that are 1 % wide, so that millions of them take no space.
type histogram struct {
	counts []int64
	zeros  int64
	total  int64
	sum    float64
	max    float64
}

const classWidth = 0.01 // of the logarithm

func (h *histogram) add(v float64) {
	h.total++
	h.sum += v
	h.max = max(h.max, v)
	if v < 1 {
		h.zeros++
		return
	}
	class := int(math.Log(v) / classWidth)
	if class >= len(h.counts) {
		h.counts = append(h.counts, make([]int64, class+1-len(h.counts))...)
	}
	h.counts[class]++
}

// quantile is within half a per cent.
func (h *histogram) quantile(q float64) float64 {
	rank := int64(q * float64(h.total-1))
	if rank < h.zeros {
		return 0
	}
	seen := h.zeros
	for class, n := range h.counts {
		if seen += n; seen > rank {
			return min(math.Exp((float64(class)+0.5)*classWidth), h.max)
		}
	}
	return h.max
}

// latency is the summary in milliseconds of nanoseconds.
func (h *histogram) latency() Latency {
	if h.total == 0 {
		return Latency{}
	}
	return Latency{Mean: h.sum / float64(h.total) / 1e6, Median: h.quantile(0.5) / 1e6, P90: h.quantile(0.9) / 1e6, P99: h.quantile(0.99) / 1e6, Max: h.max / 1e6}
}
