package jinja

import "fmt"

// loop is the 'loop' variable of a for loop.
type loop struct {
	items   []any
	i       int
	changed []any // arguments of the last call of loop.changed
	called  bool
}

func (e *evaluator) execFor(st *forStmt, s *scope) (flow, error) {
	iter, err := e.eval(st.iter, s)
	if err != nil {
		return flowNext, err
	}
	items, err := e.seq(iter)
	if err != nil {
		return flowNext, locate(e.src, err, st.iter.at())
	}
	if st.filter != nil {
		if items, err = e.filterItems(st, items, s); err != nil {
			return flowNext, err
		}
	}
	l := &loop{items: items}
	completed := false
	for l.i = range items {
		inner := &scope{parent: s}
		if st.usesLoop {
			inner.vars.add("loop", "loop", l)
		}
		if err := e.charge(1); err != nil {
			return flowNext, err
		}
		if err := e.assign(st.target, items[l.i], inner); err != nil {
			return flowNext, err
		}
		f, err := e.exec(st.body, inner)
		if err != nil {
			return flowNext, err
		}
		if f == flowBreak {
			break
		}
		completed = completed || f == flowNext
	}
	if completed {
		return flowNext, nil
	}
	return e.exec(st.other, &scope{parent: s}) // as Jinja2 does, also after break or continue
}

// filterItems evaluates the condition of 'for x in y if condition' up front, so that
// loop counts only the items that pass.
func (e *evaluator) filterItems(st *forStmt, items []any, s *scope) ([]any, error) {
	var kept []any
	for _, item := range items {
		inner := &scope{parent: s}
		if err := e.assign(st.target, item, inner); err != nil {
			return nil, err
		}
		v, err := e.eval(st.filter, inner)
		if err != nil {
			return nil, err
		}
		if truthy(v) {
			kept = append(kept, item)
		}
	}
	return kept, nil
}

func (l *loop) attr(name string) (any, bool) {
	switch name {
	case "index":
		return int64(l.i + 1), true
	case "index0":
		return int64(l.i), true
	case "revindex":
		return int64(len(l.items) - l.i), true
	case "revindex0":
		return int64(len(l.items) - l.i - 1), true
	case "first":
		return l.i == 0, true
	case "last":
		return l.i == len(l.items)-1, true
	case "length":
		return int64(len(l.items)), true
	case "depth": // counts recursive loops only
		return int64(1), true
	case "depth0":
		return int64(0), true
	case "previtem":
		if l.i == 0 {
			return undefined{"there is no previous item"}, true
		}
		return l.items[l.i-1], true
	case "nextitem":
		if l.i == len(l.items)-1 {
			return undefined{"there is no next item"}, true
		}
		return l.items[l.i+1], true
	case "cycle":
		return &function{"cycle", l.cycle}, true
	case "changed":
		return &function{"changed", l.isChanged}, true
	}
	return nil, false
}

func (l *loop) cycle(_ *evaluator, a callArgs) (any, error) {
	if len(a.positional) == 0 {
		return nil, fmt.Errorf("loop.cycle needs at least one argument")
	}
	return a.positional[l.i%len(a.positional)], nil
}

func (l *loop) isChanged(e *evaluator, a callArgs) (any, error) {
	same, err := e.equal(tuple(l.changed), tuple(a.positional))
	changed := err == nil && (!same || !l.called)
	l.changed, l.called = a.positional, true
	return changed, err
}
