package jinja

import (
	"cmp"
	"errors"
	"fmt"
	"math/big"
	"strings"
)

func (e *evaluator) compareOp(op string, l, r any) (bool, error) {
	switch op {
	case "==":
		return e.equal(l, r)
	case "!=":
		same, err := e.equal(l, r)
		return !same, err
	case "in":
		return e.contains(r, l)
	case "not in":
		found, err := e.contains(r, l)
		return !found, err
	}
	c, err := e.order(l, r, op)
	if err != nil || c == unordered {
		return false, err
	}
	switch op {
	case "<":
		return c < 0, nil
	case "<=":
		return c <= 0, nil
	case ">":
		return c > 0, nil
	}
	return c >= 0, nil
}

// equal is Python's ==, except that the JS dialect keeps bools and numbers apart.
func (e *evaluator) equal(l, r any) (bool, error) {
	switch lv := l.(type) {
	case string:
		rv, ok := r.(string)
		if !ok || len(lv) != len(rv) {
			return false, nil
		}
		return lv == rv, e.scanned(len(lv))
	case nil:
		return r == nil, nil
	case undefined:
		_, ok := r.(undefined)
		return ok, nil
	case bool, int64, float64:
		return e.equalNumbers(l, r), nil
	case *big.Int:
		rv, ok := r.(*big.Int)
		return ok && lv.Cmp(rv) == 0, nil
	case *Dict:
		rv, ok := r.(*Dict)
		if !ok || lv.Len() != rv.Len() {
			return false, nil
		}
		return e.equalDicts(lv, rv)
	case []any:
		rv, ok := r.([]any)
		return e.equalLists(lv, rv, ok)
	case tuple:
		rv, ok := r.(tuple)
		return e.equalLists(lv, rv, ok)
	case rangeValue:
		rv, ok := r.(rangeValue)
		return ok && lv == rv, nil
	case view:
		rv, ok := r.(view)
		return e.equalLists(lv.items, rv.items, ok)
	case group:
		rv, ok := r.(group)
		return e.equalLists([]any{lv.grouper, lv.list}, []any{rv.grouper, rv.list}, ok)
	}
	switch r.(type) { // l is a pointer; a slice on the right would not compare
	case []any, tuple, view, group:
		return false, nil
	}
	return l == r, nil
}

func (e *evaluator) equalNumbers(l, r any) bool {
	if e.js {
		_, lBool := l.(bool)
		_, rBool := r.(bool)
		if lBool != rBool {
			return false
		}
	}
	li, lf, lInt, _ := number(l)
	ri, rf, rInt, ok := number(r)
	if lInt && rInt {
		return li == ri
	}
	return ok && lf == rf
}

func (e *evaluator) equalLists(l, r []any, sameType bool) (bool, error) {
	if !sameType || len(l) != len(r) {
		return false, nil
	}
	return e.nested(func() (bool, error) {
		for i := range l {
			if same, err := e.equal(l[i], r[i]); err != nil || !same {
				return false, err
			}
		}
		return true, nil
	}, len(l))
}

func (e *evaluator) equalDicts(l, r *Dict) (bool, error) {
	return e.nested(func() (bool, error) {
		for i, k := range l.keys {
			hash, _ := hashKey(k)
			j := r.find(hash)
			if j < 0 {
				return false, nil
			}
			if same, err := e.equal(l.vals[i], r.vals[j]); err != nil || !same {
				return false, err
			}
		}
		return true, nil
	}, l.Len())
}

// nested runs walk one level deeper, charging for n elements.
func (e *evaluator) nested(walk func() (bool, error), n int) (bool, error) {
	if err := e.charge(n); err != nil {
		return false, err
	}
	if err := e.descend(); err != nil {
		return false, err
	}
	ok, err := walk()
	e.depth--
	return ok, err
}

// unordered is the result of comparing with NaN.
const unordered = 2

// order compares l and r for op: negative, zero, positive or unordered.
func (e *evaluator) order(l, r any, op string) (int, error) {
	if ls, ok := l.(string); ok {
		if rs, ok := r.(string); ok {
			return strings.Compare(ls, rs), e.scanned(min(len(ls), len(rs)))
		}
	}
	li, lf, lInt, lNum := number(l)
	ri, rf, rInt, rNum := number(r)
	if lNum && rNum {
		switch {
		case lInt && rInt:
			return cmp.Compare(li, ri), nil
		case lf != lf || rf != rf:
			return unordered, nil
		}
		return cmp.Compare(lf, rf), nil
	}
	lItems, lKind := orderedItems(l)
	rItems, rKind := orderedItems(r)
	if lKind == 0 || lKind != rKind {
		return 0, operandError(op, l, r)
	}
	c := 0
	_, err := e.nested(func() (bool, error) {
		var err error
		c, err = e.orderLists(lItems, rItems, op)
		return true, err
	}, min(len(lItems), len(rItems)))
	return c, err
}

func orderedItems(v any) (items []any, kind byte) {
	switch v := v.(type) {
	case []any:
		return v, 'l'
	case tuple:
		return v, 't'
	case group:
		return []any{v.grouper, v.list}, 't'
	}
	return nil, 0
}

// orderLists compares the first elements that differ, as Python does; so lists of
// equal elements compare even if the elements have no order.
func (e *evaluator) orderLists(l, r []any, op string) (int, error) {
	for i := range min(len(l), len(r)) {
		same, err := e.equal(l[i], r[i])
		if err != nil {
			return 0, err
		}
		if !same {
			return e.order(l[i], r[i], op)
		}
	}
	return cmp.Compare(len(l), len(r)), nil
}

func (e *evaluator) contains(container, v any) (bool, error) {
	switch c := container.(type) {
	case string:
		s, ok := v.(string)
		if !ok {
			if e.js {
				return false, nil
			}
			if u, isUndefined := v.(undefined); isUndefined {
				return false, errors.New(u.why)
			}
			return false, fmt.Errorf("'in <string>' needs a string on the left, not '%s'", typeName(v))
		}
		return strings.Contains(c, s), e.scanned(len(c))
	case *Dict:
		hash, err := e.hash(v)
		if err != nil {
			return false, err
		}
		return c.find(hash) >= 0, nil
	case *namespace, *loop:
		return false, fmt.Errorf("'%s' is not a container", typeName(container))
	}
	items, err := e.seq(container)
	if err != nil {
		return false, err
	}
	for _, item := range items {
		if err := e.charge(1); err != nil {
			return false, err
		}
		if same, err := e.equal(item, v); err != nil || same {
			return same, err
		}
	}
	return false, nil
}
