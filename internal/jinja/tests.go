package jinja

import (
	"errors"
	"fmt"
	"math/big"
)

type testFunc func(e *evaluator, v any, a callArgs) (bool, error)

var tests map[string]testFunc

func init() { // 'is filter' and 'is test' refer to the tables
	tests = map[string]testFunc{
		"defined":     check(func(v any) bool { _, missing := v.(undefined); return !missing }),
		"undefined":   check(func(v any) bool { _, missing := v.(undefined); return missing }),
		"none":        check(func(v any) bool { return v == nil }),
		"boolean":     check(func(v any) bool { _, ok := v.(bool); return ok }),
		"true":        check(func(v any) bool { return v == true }),
		"false":       check(func(v any) bool { return v == false }),
		"integer":     check(isInteger),
		"float":       check(func(v any) bool { _, ok := v.(float64); return ok }),
		"number":      check(func(v any) bool { _, _, _, ok := number(v); return ok || isInteger(v) }),
		"string":      check(func(v any) bool { _, ok := v.(string); return ok }),
		"mapping":     check(func(v any) bool { _, ok := v.(*Dict); return ok }),
		"sequence":    check(isSequence),
		"iterable":    check(isIterable),
		"callable":    check(isCallable),
		"escaped":     check(func(any) bool { return false }),
		"upper":       textTest(isUpper),
		"lower":       textTest(isLower),
		"odd":         parity(1),
		"even":        parity(0),
		"divisibleby": divisibleBy,
		"sameas":      sameAs,
		"in":          isIn,
		"filter":      named(func(name string) bool { return filters[name] != nil }),
		"test":        named(func(name string) bool { return tests[name] != nil }),
	}
	for op, names := range map[string][]string{
		"==": {"==", "eq", "equalto"}, "!=": {"!=", "ne"},
		"<": {"<", "lt", "lessthan"}, "<=": {"<=", "le"},
		">": {">", "gt", "greaterthan"}, ">=": {">=", "ge"},
	} {
		for _, name := range names {
			tests[name] = comparisonTest(name, op)
		}
	}
}

func check(f func(any) bool) testFunc {
	return func(_ *evaluator, v any, a callArgs) (bool, error) {
		_, err := a.bind("test", 0)
		return f(v), err
	}
}

func isInteger(v any) bool {
	switch v.(type) {
	case int64, *big.Int:
		return true
	}
	return false
}

func isSequence(v any) bool {
	switch v.(type) {
	case string, []any, tuple, *Dict, rangeValue, group, undefined:
		return true
	}
	return false
}

func isIterable(v any) bool {
	switch v.(type) {
	case view, *generator:
		return true
	}
	return isSequence(v)
}

func isCallable(v any) bool {
	switch v.(type) {
	case *macro, *function, undefined: // Python's Undefined has __call__
		return true
	}
	return false
}

func textTest(f func(string) bool) testFunc {
	return func(e *evaluator, v any, a callArgs) (bool, error) {
		s, err := e.str(v)
		if err != nil {
			return false, err
		}
		return f(s), e.scanned(len(s))
	}
}

func parity(want int64) testFunc {
	return func(e *evaluator, v any, a callArgs) (bool, error) {
		return e.remainderIs(v, int64(2), want)
	}
}

func (e *evaluator) remainderIs(v, by any, want int64) (bool, error) {
	if _, isText := v.(string); isText {
		return false, operandError("%", v, by)
	}
	r, err := e.binary("%", v, by)
	if err != nil {
		return false, err
	}
	return e.equal(r, want)
}

func divisibleBy(e *evaluator, v any, a callArgs) (bool, error) {
	b, err := a.bindTo("divisibleby", 1, "num")
	if err != nil {
		return false, err
	}
	return e.remainderIs(v, b.vals[0], 0)
}

// sameAs is identity. Scalars of the same type and value count as one object; so do
// containers only if they are one.
func sameAs(_ *evaluator, v any, a callArgs) (bool, error) {
	b, err := a.bindTo("sameas", 1, "other")
	if err != nil {
		return false, err
	}
	other := b.vals[0]
	if list, ok := v.([]any); ok {
		o, ok := other.([]any)
		return ok && len(list) == len(o) && (len(list) == 0 || &list[0] == &o[0]), nil
	}
	for _, x := range []any{v, other} {
		switch x.(type) {
		case []any, tuple, view, group:
			return false, nil
		}
	}
	return v == other, nil
}

func isIn(e *evaluator, v any, a callArgs) (bool, error) {
	b, err := a.bindTo("in", 1, "seq")
	if err != nil {
		return false, err
	}
	return e.contains(b.vals[0], v)
}

func comparisonTest(name, op string) testFunc {
	return func(e *evaluator, v any, a callArgs) (bool, error) {
		b, err := a.bindTo(name, 1, "other")
		if err != nil {
			return false, err
		}
		return e.compareOp(op, v, b.vals[0])
	}
}

func named(known func(string) bool) testFunc {
	return func(_ *evaluator, v any, _ callArgs) (bool, error) {
		s, ok := v.(string)
		return ok && known(s), nil
	}
}

// callTest runs the test that an argument of select and its kin names.
func (e *evaluator) callTest(name any, v any, a callArgs) (bool, error) {
	s, ok := name.(string)
	if !ok {
		return false, errors.New("the name of a test must be a string")
	}
	f := tests[s]
	if f == nil {
		return false, fmt.Errorf("unknown test '%s'", s)
	}
	return f(e, v, a)
}
