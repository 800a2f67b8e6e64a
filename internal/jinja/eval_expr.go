package jinja

import (
	"fmt"
	"strings"
)

// eval returns the value of x. Its errors say where.
func (e *evaluator) eval(x expr, s *scope) (any, error) {
	switch x := x.(type) {
	case *constExpr:
		return x.val, nil
	case *nameExpr:
		if err := e.charge(1); err != nil {
			return nil, locate(e.src, err, x.pos)
		}
		return e.lookup(x.name, s), nil
	}
	err := e.charge(1)
	if err == nil {
		err = e.descend()
	}
	var v any
	if err == nil {
		v, err = e.evalNode(x, s)
	}
	e.depth--
	if err != nil {
		return nil, locate(e.src, err, x.at())
	}
	return v, nil
}

func (e *evaluator) evalNode(x expr, s *scope) (any, error) {
	switch x := x.(type) {
	case *attrExpr:
		obj, err := e.eval(x.x, s)
		if err != nil {
			return nil, err
		}
		return e.getAttr(obj, x.name)
	case *indexExpr:
		obj, index, err := e.evalPair(x.x, x.index, s)
		if err != nil {
			return nil, err
		}
		return e.getItem(obj, index)
	case *binaryExpr:
		l, r, err := e.evalPair(x.l, x.r, s)
		if err != nil {
			return nil, err
		}
		if x.op == "+" && !e.js {
			if l, r, err = e.joinMarkup(x, l, r); err != nil {
				return nil, err
			}
		}
		return e.binary(x.op, l, r)
	case *compareExpr:
		return e.evalCompare(x, s)
	case *concatExpr:
		return e.evalConcat(x, s)
	case *callExpr:
		return e.evalCall(x, s)
	case *filterExpr:
		v, err := e.eval(x.x, s)
		if err != nil {
			return nil, err
		}
		return e.applyFilter(x, v, s)
	case *testExpr:
		return e.evalTest(x, s)
	case *logicExpr:
		l, err := e.eval(x.l, s)
		if err != nil || truthy(l) != x.isAnd {
			return l, err
		}
		return e.eval(x.r, s)
	case *notExpr:
		v, err := e.eval(x.x, s)
		return !truthy(v), err
	case *condExpr:
		return e.evalCond(x, s)
	case *unaryExpr:
		v, err := e.eval(x.x, s)
		if err != nil {
			return nil, err
		}
		return unary(x.op, v)
	case *listExpr:
		return e.evalList(x, s)
	case *dictExpr:
		return e.evalDict(x, s)
	case *sliceExpr:
		return e.evalSlice(x, s)
	}
	panic(fmt.Sprintf("jinja: expression %T has no evaluation", x))
}

func (e *evaluator) evalPair(l, r expr, s *scope) (lv, rv any, err error) {
	if lv, err = e.eval(l, s); err == nil {
		rv, err = e.eval(r, s)
	}
	return lv, rv, err
}

func (e *evaluator) evalCond(x *condExpr, s *scope) (any, error) {
	cond, err := e.eval(x.cond, s)
	if err != nil {
		return nil, err
	}
	if truthy(cond) {
		return e.eval(x.then, s)
	}
	if x.other == nil {
		return undefined{"the inline if has no else and its condition is false"}, nil
	}
	return e.eval(x.other, s)
}

func (e *evaluator) evalConcat(x *concatExpr, s *scope) (any, error) {
	parts := make([]string, len(x.parts))
	size := 0
	for i, part := range x.parts {
		v, err := e.eval(part, s)
		if err != nil {
			return nil, err
		}
		if parts[i], err = e.str(v); err != nil {
			return nil, err
		}
		size += len(parts[i])
	}
	if err := e.made(size); err != nil {
		return nil, err
	}
	return strings.Join(parts, ""), nil
}

func (e *evaluator) evalList(x *listExpr, s *scope) (any, error) {
	items := make([]any, len(x.items))
	for i, item := range x.items {
		var err error
		if items[i], err = e.eval(item, s); err != nil {
			return nil, err
		}
	}
	if err := e.charge(len(items)); err != nil {
		return nil, err
	}
	if x.isTuple {
		return tuple(items), nil
	}
	return items, nil
}

func (e *evaluator) evalDict(x *dictExpr, s *scope) (any, error) {
	d := NewDict(len(x.keys))
	for i := range x.keys {
		k, v, err := e.evalPair(x.keys[i], x.vals[i], s)
		if err != nil {
			return nil, err
		}
		if err := e.put(d, k, v); err != nil {
			return nil, err
		}
	}
	return d, nil
}

func (e *evaluator) evalSlice(x *sliceExpr, s *scope) (any, error) {
	obj, err := e.eval(x.x, s)
	if err != nil {
		return nil, err
	}
	var bounds [3]any
	for i, part := range []expr{x.start, x.stop, x.step} {
		if part == nil {
			continue
		}
		if bounds[i], err = e.eval(part, s); err != nil {
			return nil, err
		}
	}
	return e.slice(obj, bounds[0], bounds[1], bounds[2])
}

func (e *evaluator) evalCompare(x *compareExpr, s *scope) (any, error) {
	l, err := e.eval(x.first, s)
	if err != nil {
		return nil, err
	}
	for _, c := range x.rest {
		r, err := e.eval(c.x, s)
		if err != nil {
			return nil, err
		}
		ok, err := e.compareOp(c.op, l, r)
		if err != nil || !ok {
			return false, err
		}
		l = r
	}
	return true, nil
}

// evalCall calls methods without making a value of them first.
func (e *evaluator) evalCall(x *callExpr, s *scope) (any, error) {
	if attr, ok := x.fn.(*attrExpr); ok {
		obj, err := e.eval(attr.x, s)
		if err != nil {
			return nil, err
		}
		if m := methodOf(obj, attr.name); m != nil {
			a, err := e.args(x.args, s)
			if err != nil {
				return nil, err
			}
			return m(e, obj, a)
		}
		fn, err := e.getAttr(obj, attr.name)
		if err != nil {
			return nil, locate(e.src, err, attr.pos)
		}
		return e.callWith(fn, x.args, s)
	}
	fn, err := e.eval(x.fn, s)
	if err != nil {
		return nil, err
	}
	return e.callWith(fn, x.args, s)
}

func (e *evaluator) callWith(fn any, list argList, s *scope) (any, error) {
	a, err := e.args(list, s)
	if err != nil {
		return nil, err
	}
	return e.call(fn, a)
}

func (e *evaluator) call(fn any, a callArgs) (any, error) {
	switch fn := fn.(type) {
	case *macro:
		return e.callMacro(fn, a)
	case *function:
		return fn.call(e, a)
	case undefined:
		return nil, fmt.Errorf("cannot call: %s", fn.why)
	}
	return nil, fmt.Errorf("'%s' is not callable", typeName(fn))
}

func (e *evaluator) args(list argList, s *scope) (callArgs, error) {
	var a callArgs
	var err error
	if len(list.positional) > 0 {
		a.positional = make([]any, len(list.positional))
		for i, x := range list.positional {
			if a.positional[i], err = e.eval(x, s); err != nil {
				return a, err
			}
		}
	}
	if list.star != nil {
		v, err := e.eval(list.star, s)
		if err != nil {
			return a, err
		}
		items, err := e.seq(v)
		if err != nil {
			return a, locate(e.src, err, list.star.at())
		}
		a.positional = append(a.positional, items...)
	}
	for _, kw := range list.keywords {
		v, err := e.eval(kw.x, s)
		if err != nil {
			return a, err
		}
		a.keywords = append(a.keywords, kwArg{kw.name, v})
	}
	if list.starStar != nil {
		v, err := e.eval(list.starStar, s)
		if err != nil {
			return a, err
		}
		d, ok := v.(*Dict)
		if !ok {
			return a, locate(e.src, fmt.Errorf("argument after ** must be a dict, not '%s'", typeName(v)), list.starStar.at())
		}
		for name, v := range d.All() {
			a.keywords = append(a.keywords, kwArg{name, v})
		}
	}
	return a, e.charge(len(a.positional) + len(a.keywords))
}

func (e *evaluator) applyFilter(f *filterExpr, v any, s *scope) (any, error) {
	if f.fn == nil {
		return nil, fmt.Errorf("unknown filter '%s'", f.name)
	}
	a, err := e.args(f.args, s)
	if err != nil {
		return nil, err
	}
	return f.fn(e, v, a)
}

func (e *evaluator) evalTest(x *testExpr, s *scope) (any, error) {
	v, err := e.eval(x.x, s)
	if err != nil {
		return nil, err
	}
	if x.fn == nil {
		return nil, fmt.Errorf("unknown test '%s'", x.name)
	}
	a, err := e.args(x.args, s)
	if err != nil {
		return nil, err
	}
	ok, err := x.fn(e, v, a)
	return ok != x.negate, err
}
