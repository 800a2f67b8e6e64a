package jinja

import (
	"errors"
	"strings"
	"time"
)

// Template is a parsed template. It is immutable and safe for concurrent renders.
type Template struct {
	src  string
	body []stmt
}

// Parse reads a template of at most 1 MiB. The error is an *[Error] of kind [SyntaxError].
func Parse(source string) (*Template, error) {
	src := normalizeSource(source)
	body, err := parse(src)
	if err != nil {
		return nil, err
	}
	return &Template{src, body}, nil
}

// Limits bound one render. A zero field takes its default.
type Limits struct {
	// StepsMax bounds the work: evaluated nodes, plus one step per 16 bytes of
	// values made and per 64 bytes of text scanned. Default 10 million, about a
	// second.
	StepsMax int
	// OutputBytesMax bounds the output and every string on the way. Default 32 MiB.
	OutputBytesMax int
	// DepthMax bounds the nesting of evaluation, of macro calls above all, and of
	// values. Default 2000.
	DepthMax int
}

// DefaultLimits are the limits of a render without [WithLimits].
var DefaultLimits = Limits{StepsMax: 10_000_000, OutputBytesMax: 32 << 20, DepthMax: 2000}

// Dialect selects conventions in which Jinja implementations differ.
type Dialect uint8

const (
	// Transformers renders as Python does under Hugging Face transformers, which is
	// what models were trained on.
	Transformers Dialect = iota
	// TransformersJS renders as huggingface.js does: true, false and null in lower
	// case, containers as JSON, lists where Python has generators, + joins a string
	// with any scalar, a bool never equals a number.
	TransformersJS
)

// Option adjusts one render.
type Option func(*evaluator)

// WithLimits replaces the default limits.
func WithLimits(l Limits) Option {
	return func(e *evaluator) {
		if l.StepsMax > 0 {
			e.limits.StepsMax = l.StepsMax
		}
		if l.OutputBytesMax > 0 {
			e.limits.OutputBytesMax = l.OutputBytesMax
		}
		if l.DepthMax > 0 {
			e.limits.DepthMax = l.DepthMax
		}
	}
}

// WithNow sets the clock of strftime_now, which formats its time in the time's own
// location. The default is [time.Now].
func WithNow(now func() time.Time) Option {
	return func(e *evaluator) { e.now = now }
}

// WithDialect selects a dialect; the default is [Transformers].
func WithDialect(d Dialect) Option {
	return func(e *evaluator) { e.js = d == TransformersJS }
}

// Render evaluates the template with the variables of ctx.
//
// Values may be nil, bool, int, int64, float64, string, *big.Int, *[Dict],
// map[string]any, []any, and slices of string, *Dict or map[string]any. A Go map
// iterates in the order of its keys; use Dict or [FromJSON] where the order of a
// document matters, as it does for tools. ctx is not modified.
//
// The error is an *[Error]; its kind tells a template's refusal ([RaisedError])
// from a defect.
func (t *Template) Render(ctx map[string]any, opts ...Option) (string, error) {
	e := &evaluator{src: t.src, limits: DefaultLimits, now: time.Now, out: &strings.Builder{}}
	for _, opt := range opts {
		opt(e)
	}
	e.ctx = make(map[string]any, len(ctx))
	for name, v := range ctx {
		c, _, err := canonical(v, e.limits.DepthMax)
		if err != nil {
			return "", errorf(ContextError, "%s", within(err, name))
		}
		e.ctx[name] = c
	}
	if _, err := e.exec(t.body, &scope{}); err != nil {
		var located *Error
		if !errors.As(err, &located) {
			located = errorf(RuntimeError, "%s", err)
		}
		return "", located
	}
	return e.out.String(), nil
}
