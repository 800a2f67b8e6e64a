package jinja

import (
	"fmt"
	"math/big"
	"strings"
)

// The values of a template are nil, bool, int64, *big.Int, float64, string, []any
// (a list), *Dict, and the types below. All of them are immutable, except that
// namespaces are assigned to and generators are consumed.
type (
	tuple []any

	// undefined is what a missing name or attribute evaluates to. It prints as
	// nothing, iterates as nothing, and fails with why when something is asked of it.
	undefined struct{ why string }

	// generator is the result of filters such as map and select: true even if
	// empty, iterable once, without length.
	generator struct{ items []any }

	// rangeValue is what range() returns.
	rangeValue struct{ start, stop, step, n int64 }

	// view is what dict.keys(), values() and items() return.
	view struct {
		name  string
		items []any
	}

	// group is an element of groupby: a pair with names.
	group struct {
		grouper any
		list    []any
	}

	// namespace is the one value a template can assign into.
	namespace struct{ attrs Dict }

	// function is a callable global or the method of a value.
	function struct {
		name string
		call func(e *evaluator, a callArgs) (any, error)
	}
)

// callArgs are evaluated call arguments.
type callArgs struct {
	positional []any
	keywords   []kwArg
}

type kwArg struct {
	name string
	val  any
}

// absent marks a parameter that got no argument.
type absent struct{}

// bind matches arguments with parameter names. The first required ones must be
// given; the others are absent{} if they are not.
func (a callArgs) bind(fn string, required int, names ...string) ([]any, error) {
	if len(a.positional) > len(names) {
		return nil, fmt.Errorf("%s takes at most %d arguments, got %d", fn, len(names), len(a.positional))
	}
	bound := make([]any, len(names))
	for i := copy(bound, a.positional); i < len(names); i++ {
		bound[i] = absent{}
	}
next:
	for _, kw := range a.keywords {
		for i, name := range names {
			if name == kw.name {
				if bound[i] != (absent{}) {
					return nil, fmt.Errorf("%s got argument '%s' twice", fn, name)
				}
				bound[i] = kw.val
				continue next
			}
		}
		return nil, fmt.Errorf("%s has no argument '%s'", fn, kw.name)
	}
	for i := range required {
		if bound[i] == (absent{}) {
			return nil, fmt.Errorf("%s needs argument '%s'", fn, names[i])
		}
	}
	return bound, nil
}

// typeName is the Python name of v's type, for messages.
func typeName(v any) string {
	switch v := v.(type) {
	case nil:
		return "None"
	case bool:
		return "bool"
	case int64, *big.Int:
		return "int"
	case float64:
		return "float"
	case string:
		return "str"
	case []any:
		return "list"
	case tuple, group:
		return "tuple"
	case *Dict:
		return "dict"
	case undefined:
		return "undefined"
	case rangeValue:
		return "range"
	case view:
		return v.name
	}
	return strings.TrimPrefix(fmt.Sprintf("%T", v), "*jinja.")
}

func truthy(v any) bool {
	switch v := v.(type) {
	case nil, undefined:
		return false
	case bool:
		return v
	case int64:
		return v != 0
	case float64:
		return v != 0
	case string:
		return v != ""
	case []any:
		return len(v) > 0
	case tuple:
		return len(v) > 0
	case *Dict:
		return v.Len() > 0
	case view:
		return len(v.items) > 0
	case rangeValue:
		return v.n > 0
	}
	return true
}

// seq returns the elements of an iterable. The result must not be modified.
func (e *evaluator) seq(v any) ([]any, error) {
	switch v := v.(type) {
	case []any:
		return v, nil
	case tuple:
		return v, nil
	case *Dict:
		return v.keys, nil
	case view:
		return v.items, nil
	case group:
		return []any{v.grouper, v.list}, nil
	case undefined:
		return nil, nil
	case *generator:
		items := v.items
		v.items = nil
		return items, nil
	case string:
		if err := e.pieces(len(v)); err != nil {
			return nil, err
		}
		items := make([]any, 0, len(v))
		for _, r := range v {
			items = append(items, string(r))
		}
		return items, nil
	case rangeValue:
		if err := e.charge(int(v.n)); err != nil {
			return nil, err
		}
		items := make([]any, v.n)
		for i := range items {
			items[i] = v.start + int64(i)*v.step
		}
		return items, nil
	}
	return nil, fmt.Errorf("'%s' is not iterable", typeName(v))
}

// length is Python's len; ok is false for values without one.
func length(v any) (n int, ok bool) {
	switch v := v.(type) {
	case string:
		return runeCount(v), true
	case []any:
		return len(v), true
	case tuple:
		return len(v), true
	case *Dict:
		return v.Len(), true
	case view:
		return len(v.items), true
	case rangeValue:
		return int(v.n), true
	case group:
		return 2, true
	case undefined:
		return 0, true
	}
	return 0, false
}
