package profile

import (
	"sort"
)

// Version of the file format. A reader refuses other versions.
const Version = 1

// Profile is what the steps of one model on one device cost.
type Profile struct {
	Version int     `json:"version"`
	Name    string  `json:"name"`
	Origin  Origin  `json:"origin"`
	Terms   Terms   `json:"terms"`
	Serving Serving `json:"serving"`
	Fit     Fit     `json:"fit"`
	Points  []Point `json:"points,omitempty"` // what was measured
	// Pace is how fast the steps that were measured came one after the other; the terms are its mean.
	Pace []Stretch `json:"pace,omitempty"`
}

// Origin says where a profile comes from.
type Origin struct {
	Model     string `json:"model"`
	Device    string `json:"device"`
	Threads   int    `json:"threads,omitempty"`
	KV        string `json:"kv,omitempty"` // type of keys and values
	Date      string `json:"date"`
	Build     string `json:"build,omitempty"`
	Method    string `json:"method"`
	BlockSize int    `json:"block_size,omitempty"`
	// The largest batch of the engine: rows and tokens of a step.
	SequencesMax  int `json:"sequences_max,omitempty"`
	TokensStepMax int `json:"tokens_step_max,omitempty"`
}

// Terms are the cost model: the sum of all of them is the time of a step.
//
//	Tokens[T] + Sampled[S] + RowNs × rows + DecodeNs × decode context + PrefillNs × prefill pairs + ResumeNs after a pause
type Terms struct {
	Tokens    Curve   `json:"tokens"`  // nanoseconds by tokens in the step
	Sampled   Curve   `json:"sampled"` // nanoseconds by rows that sample
	RowNs     float64 `json:"row_ns"`
	DecodeNs  float64 `json:"decode_ns"`  // per position that a decode token attends to
	PrefillNs float64 `json:"prefill_ns"` // per pair of a prefill token and a position that it attends to
	ResumeNs  float64 `json:"resume_ns"`  // of a step after a pause of the device
}

// Serving is what an engine adds to the steps: between a client's request and the scheduler, and between a finished
// step and the client.
type Serving struct {
	RequestNs float64 `json:"request_ns"` // from the client to the scheduler
	PromptNs  float64 `json:"prompt_ns"`  // per prompt token of that
	ResultNs  float64 `json:"result_ns"`  // from the end of a step until the scheduler knows
	TokenNs   float64 `json:"token_ns"`   // from there to the client
}

// Curve is linear between knots and beyond the last two; 0 without knots.
type Curve struct {
	X []float64 `json:"x"` // ascending
	Y []float64 `json:"y"`
}

// At is the curve's value. Left of the first knot it is that knot's.
func (c *Curve) At(x float64) float64 {
	n := len(c.X)
	switch {
	case n == 0:
		return 0
	case n == 1 || x <= c.X[0]:
		return c.Y[0]
	}
	i := sort.SearchFloat64s(c.X, x)
	i = min(max(i, 1), n-1)
	x0, x1, y0, y1 := c.X[i-1], c.X[i], c.Y[i-1], c.Y[i]
	return y0 + (x-x0)*(y1-y0)/(x1-x0)
}

// Fit says how well the terms describe what was measured, as relative errors.
type Fit struct {
	Points  int     `json:"points"`
	Mean    float64 `json:"mean_error"` // of the absolute relative error
	Median  float64 `json:"median_error"`
	P90     float64 `json:"p90_error"`
	Max     float64 `json:"max_error"`
	HeldOut float64 `json:"held_out_error"` // mean over points that were left out of the fit, a fifth at a time
	Largest Shape   `json:"largest"`        // measured in each respect; beyond it is extrapolation
	// Spread is the mean deviation of single steps of one shape from their mean, and Repeat what of it remains in the means of
	// the points: no model comes closer to them. What Mean has beyond Repeat is the terms' own, Misfit.
	Spread float64 `json:"spread"`
	Repeat float64 `json:"repeat_error"`
	Misfit float64 `json:"misfit"`
}

// Point is one measurement.
type Point struct {
	Shape Shape   `json:"shape"`
	Ns    float64 `json:"ns"`    // mean without the slowest fiftieth
	Steps int     `json:"steps"` // of about this shape
	// Spread is the mean deviation of the steps from Ns, relative to it.
	Spread float64 `json:"spread,omitempty"`
}

// StepNs is what a step of shape s takes, from 0 to a day.
func (p *Profile) StepNs(s Shape) int64 {
	t := &p.Terms
	ns := t.Tokens.At(float64(s.Tokens)) + t.RowNs*float64(s.Rows) + t.DecodeNs*float64(s.DecodeContext) + t.PrefillNs*float64(s.PrefillPairs)
	if s.Sampled > 0 {
		ns += t.Sampled.At(float64(s.Sampled))
	}
	if s.Resumed {
		ns += t.ResumeNs
	}
	return int64(min(max(ns, 0), nsMax))
}

// Covers says whether nothing about s is larger than what was measured. A profile without measurements covers all.
func (p *Profile) Covers(s Shape) bool {
	l := &p.Fit.Largest
	return p.Fit.Points == 0 || s.Rows <= l.Rows && s.Tokens <= l.Tokens && s.Sampled <= l.Sampled &&
		s.DecodeContext <= l.DecodeContext && s.PrefillPairs <= l.PrefillPairs
}

// Instant is a device that takes no time: for questions about caches alone.
func Instant() *Profile {
	return &Profile{Version: Version, Name: "instant", Origin: Origin{Model: "none", Device: "none", Method: "steps take no time"}}
}
