package jinja

import (
	"fmt"
	"strings"
	"time"
)

const (
	bytesMadePerStep    = 16
	bytesScannedPerStep = 64
)

// evaluator is the state of one render.
type evaluator struct {
	src    string
	ctx    map[string]any
	limits Limits
	now    func() time.Time
	js     bool
	steps  int
	depth  int
	out    *strings.Builder
}

// scope holds the names bound by a block; those of enclosing blocks are behind parent.
type scope struct {
	vars   Dict
	parent *scope
}

// flow says how a list of statements ended.
type flow uint8

const (
	flowNext flow = iota
	flowBreak
	flowContinue
)

// charge takes n steps from the budget.
func (e *evaluator) charge(n int) error {
	if e.steps += n; e.steps > e.limits.StepsMax || n < 0 {
		return errorf(LimitError, "render exceeds its limit of %d steps", e.limits.StepsMax)
	}
	return nil
}

// made charges for a new string of n bytes, before it is allocated.
func (e *evaluator) made(n int) error {
	if n > e.limits.OutputBytesMax || n < 0 {
		return errorf(LimitError, "string exceeds the limit of %d bytes", e.limits.OutputBytesMax)
	}
	return e.charge(n / bytesMadePerStep)
}

func (e *evaluator) scanned(n int) error { return e.charge(n / bytesScannedPerStep) }

// descend enters a level of nesting; the caller must leave it with e.depth--.
func (e *evaluator) descend() error {
	if e.depth++; e.depth > e.limits.DepthMax {
		return errorf(LimitError, "evaluation is nested more than %d levels deep", e.limits.DepthMax)
	}
	return nil
}

func (e *evaluator) write(s string) error {
	if e.out.Len()+len(s) > e.limits.OutputBytesMax {
		return errorf(LimitError, "output exceeds the limit of %d bytes", e.limits.OutputBytesMax)
	}
	if err := e.charge(len(s) / bytesMadePerStep); err != nil {
		return err
	}
	e.out.WriteString(s)
	return nil
}

func (e *evaluator) lookup(name string, s *scope) any {
	for ; s != nil; s = s.parent {
		if i := s.vars.findString(name); i >= 0 {
			return s.vars.vals[i]
		}
	}
	if v, ok := e.ctx[name]; ok {
		return v
	}
	if f, ok := globals[name]; ok {
		return f
	}
	return undefined{"'" + name + "' is undefined"}
}

// exec runs statements. Their output goes to e.out.
func (e *evaluator) exec(body []stmt, s *scope) (flow, error) {
	if err := e.descend(); err != nil {
		return flowNext, err
	}
	defer func() { e.depth-- }()
	for _, st := range body {
		if err := e.charge(1); err != nil {
			return flowNext, locate(e.src, err, st.at())
		}
		f, err := e.execOne(st, s)
		if err != nil {
			return flowNext, locate(e.src, err, st.at())
		}
		if f != flowNext {
			return f, nil
		}
	}
	return flowNext, nil
}

func (e *evaluator) execOne(st stmt, s *scope) (flow, error) {
	switch st := st.(type) {
	case *textStmt:
		return flowNext, e.write(st.text)
	case *outputStmt:
		v, err := e.eval(st.x, s)
		if err != nil {
			return flowNext, err
		}
		text, err := e.str(v)
		if err != nil {
			return flowNext, err
		}
		return flowNext, e.write(text)
	case *ifStmt:
		for _, b := range st.branches {
			v, err := e.eval(b.cond, s)
			if err != nil {
				return flowNext, err
			}
			if truthy(v) {
				return e.exec(b.body, s)
			}
		}
		return e.exec(st.other, s)
	case *forStmt:
		return e.execFor(st, s)
	case *setStmt:
		v, err := e.eval(st.x, s)
		if err != nil {
			return flowNext, err
		}
		return flowNext, e.assign(st.target, v, s)
	case *setBlockStmt:
		text, err := e.captureFiltered(st.body, st.filters, s)
		if err != nil {
			return flowNext, err
		}
		return flowNext, e.assign(st.target, text, s)
	case *filterStmt:
		v, err := e.captureFiltered(st.body, st.filters, s)
		if err != nil {
			return flowNext, err
		}
		text, err := e.str(v)
		if err != nil {
			return flowNext, err
		}
		return flowNext, e.write(text)
	case *withStmt:
		return e.execWith(st, s)
	case *macroStmt:
		s.vars.Set(st.def.name, &macro{st.def, s})
	case *callStmt:
		return flowNext, e.execCall(st, s)
	case *scopeStmt:
		return e.exec(st.body, &scope{parent: s})
	case *breakStmt:
		return flowBreak, nil
	case *continueStmt:
		return flowContinue, nil
	default:
		panic(fmt.Sprintf("jinja: statement %T has no evaluation", st))
	}
	return flowNext, nil
}

// capture runs body in its own scope and returns what it writes.
func (e *evaluator) capture(body []stmt, s *scope) (string, error) {
	outer := e.out
	e.out = &strings.Builder{}
	_, err := e.exec(body, s)
	text := e.out.String()
	e.out = outer
	return text, err
}

func (e *evaluator) captureFiltered(body []stmt, filters []*filterExpr, s *scope) (any, error) {
	inner := &scope{parent: s}
	text, err := e.capture(body, inner)
	if err != nil {
		return nil, err
	}
	var v any = text
	for _, f := range filters {
		if v, err = e.applyFilter(f, v, s); err != nil {
			return nil, locate(e.src, err, f.pos)
		}
	}
	return v, nil
}

func (e *evaluator) execWith(st *withStmt, s *scope) (flow, error) {
	inner := &scope{parent: s}
	for i, x := range st.values {
		v, err := e.eval(x, s)
		if err != nil {
			return flowNext, err
		}
		if err := e.assign(st.targets[i], v, inner); err != nil {
			return flowNext, err
		}
	}
	return e.exec(st.body, inner)
}

func (e *evaluator) assign(t target, v any, s *scope) error {
	switch {
	case t.items != nil:
		items, err := e.seq(v)
		if err != nil {
			return locate(e.src, err, t.pos)
		}
		if len(items) != len(t.items) {
			return locate(e.src, fmt.Errorf("cannot unpack %d values into %d names", len(items), len(t.items)), t.pos)
		}
		for i, item := range items {
			if err := e.assign(t.items[i], item, s); err != nil {
				return err
			}
		}
	case t.attr != "":
		ns, ok := e.lookup(t.name, s).(*namespace)
		if !ok {
			return locate(e.src, fmt.Errorf("cannot assign to attribute '%s': '%s' is not a namespace", t.attr, t.name), t.pos)
		}
		if strings.HasPrefix(t.attr, "_") {
			return locate(e.src, fmt.Errorf("namespace attribute '%s' must not start with an underscore", t.attr), t.pos)
		}
		ns.attrs.Set(t.attr, v)
	default:
		s.vars.Set(t.name, v)
	}
	return nil
}
