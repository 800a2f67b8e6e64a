package batch

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// Progress is how far a run is.
type Progress struct {
	Lines, Done, Failed int64   // of the whole input, earlier runs included
	LinesPerSec         float64 // lately
	TokensPerSec        float64 // of output, lately
	Waiting             int64   // requests that wait for a busy or absent engine
	Left                time.Duration
	Known               bool // whether Left is
}

// Summary is what a run did and what the output holds.
type Summary struct {
	Lines        int64         `json:"lines"`        // of the input
	Done         int64         `json:"done"`         // answered, well or not
	Failed       int64         `json:"failed"`       // of them, in the whole output
	Resumed      int64         `json:"resumed"`      // of them, done by earlier runs
	Retried      int64         `json:"retried"`      // failed before, asked again
	Failures     []Failure     `json:"failures"`     // of this run, the most frequent first
	FirstFailed  []string      `json:"first_failed"` // messages of this run's first failures
	Usage        Usage         `json:"usage"`        // of this run
	Seconds      float64       `json:"seconds"`
	LinesPerSec  float64       `json:"lines_per_second"`
	TokensPerSec float64       `json:"output_tokens_per_second"`
	took         time.Duration // Seconds, unrounded
}

// Failure counts what failed for one reason: an error's code, or a status as "HTTP 400".
type Failure struct {
	Reason string `json:"reason"`
	Count  int64  `json:"count"`
}

// Usage counts tokens.
type Usage struct {
	Prompt     int64 `json:"prompt_tokens"`
	Completion int64 `json:"completion_tokens"`
}

const (
	firstFailedMax = 5                // messages
	reasonsMax     = 64               // kinds of failures; more are counted together
	otherReasons   = "other"          // as this
	recentTime     = 20 * time.Second // what "lately" is
)

// sample is the state at a time.
type sample struct {
	at     time.Time
	done   int64
	tokens int64
}

// reporter counts. Only the writing goroutine uses it.
type reporter struct {
	plan     *plan
	began    time.Time
	done     int64 // by this run
	failed   int64
	usage    Usage
	reasons  map[string]int64
	messages []string
	samples  []sample // of the last recentTime
}

func newReporter(p *plan) *reporter {
	return &reporter{plan: p, began: time.Now(), reasons: map[string]int64{}}
}

// start begins to measure.
func (r *reporter) start() {
	r.began = time.Now()
	r.samples = []sample{{at: r.began}}
}

func (r *reporter) add(o *outcome) {
	r.done++
	r.usage.Prompt += o.usage.PromptTokens
	r.usage.Completion += o.usage.CompletionTokens
	if o.reason == "" {
		return
	}
	r.failed++
	reason := o.reason
	if _, counted := r.reasons[reason]; !counted && len(r.reasons) >= reasonsMax {
		reason = otherReasons
	}
	r.reasons[reason]++
	if len(r.messages) < firstFailedMax {
		r.messages = append(r.messages, o.message)
	}
}

func (r *reporter) progress(now time.Time, waiting int64) Progress {
	for len(r.samples) > 1 && now.Sub(r.samples[1].at) >= recentTime {
		r.samples = r.samples[1:]
	}
	from := r.samples[0]
	r.samples = append(r.samples, sample{now, r.done, r.usage.Completion})
	p := Progress{Lines: r.plan.lines, Done: r.plan.done + r.done, Failed: r.plan.failed + r.failed, Waiting: waiting}
	if spent := now.Sub(from.at).Seconds(); spent > 0 {
		p.LinesPerSec = float64(r.done-from.done) / spent
		p.TokensPerSec = float64(r.usage.Completion-from.tokens) / spent
	}
	if p.Known = p.LinesPerSec > 0; p.Known {
		p.Left = time.Duration(float64(p.Lines-p.Done) / p.LinesPerSec * float64(time.Second))
	}
	return p
}

func (r *reporter) summary() *Summary {
	s := &Summary{Lines: r.plan.lines, Done: r.plan.done + r.done, Failed: r.plan.failed + r.failed, Resumed: r.plan.done,
		Retried: r.plan.again, Failures: []Failure{}, FirstFailed: append([]string{}, r.messages...), Usage: r.usage, took: time.Since(r.began)}
	for _, reason := range slices.Sorted(maps.Keys(r.reasons)) {
		s.Failures = append(s.Failures, Failure{reason, r.reasons[reason]})
	}
	slices.SortStableFunc(s.Failures, func(a, b Failure) int { return cmp.Compare(b.Count, a.Count) })
	if s.Seconds = float64(s.took.Milliseconds()) / 1000; s.took > 0 {
		s.LinesPerSec = float64(r.done) / s.took.Seconds()
		s.TokensPerSec = float64(r.usage.Completion) / s.took.Seconds()
	}
	return s
}
