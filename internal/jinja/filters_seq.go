package jinja

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// generated wraps the result of a filter that is a generator in Python.
func (e *evaluator) generated(items []any) any {
	if e.js {
		return items
	}
	return &generator{items}
}

// attrPath splits 'a.b.0' into the keys to follow.
func attrPath(attribute any) ([]any, error) {
	switch a := attribute.(type) {
	case nil:
		return nil, nil
	case string:
		var path []any
		for part := range strings.SplitSeq(a, ".") {
			if i, ok := parseInt(part, 10); ok && isDigit(part[0]) {
				path = append(path, i)
			} else {
				path = append(path, part)
			}
		}
		return path, nil
	case int64:
		return []any{a}, nil
	}
	return nil, fmt.Errorf("an attribute must be a string or an integer, not '%s'", typeName(attribute))
}

func (e *evaluator) follow(v any, path []any) (any, error) {
	for _, key := range path {
		var err error
		if err = e.charge(1); err != nil {
			return nil, err
		}
		if v, err = e.getItem(v, key); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// keysOf evaluates an attribute of each item, folding case unless caseSensitive.
func (e *evaluator) keysOf(items []any, attribute any, caseSensitive bool) ([]any, error) {
	path, err := attrPath(attribute)
	if err != nil {
		return nil, err
	}
	keys := make([]any, len(items))
	for i, item := range items {
		if err := e.charge(1); err != nil {
			return nil, err
		}
		key, err := e.follow(item, path)
		if err != nil {
			return nil, err
		}
		if s, ok := key.(string); ok && !caseSensitive {
			if err := e.made(len(s)); err != nil {
				return nil, err
			}
			key = lower(s)
		}
		keys[i] = key
	}
	return keys, nil
}

// sortBy sorts indices stably by their keys. Like Python's sort it needs only '<'.
func (e *evaluator) sortBy(order []int, reverse bool, key func(i int) any) error {
	var failed error
	slices.SortStableFunc(order, func(i, j int) int {
		if failed != nil {
			return 0
		}
		if failed = e.charge(1); failed != nil {
			return 0
		}
		c, err := e.order(key(i), key(j), "<")
		if err != nil || c == unordered {
			failed = err
			return 0
		}
		if reverse {
			return -c
		}
		return c
	})
	return failed
}

func indices(n int) []int {
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	return order
}

func filterSort(e *evaluator, v any, a callArgs) (any, error) {
	b, err := a.bindTo("sort", 0, "reverse", "case_sensitive", "attribute")
	if err != nil {
		return nil, err
	}
	items, err := e.seq(v)
	if err != nil {
		return nil, err
	}
	attributes := []any{b.any(2, nil)}
	if s, ok := attributes[0].(string); ok { // 'age,name' sorts by several
		attributes = nil
		for part := range strings.SplitSeq(s, ",") {
			attributes = append(attributes, part)
		}
	}
	rows := make([][]any, len(items))
	for _, attribute := range attributes {
		keys, err := e.keysOf(items, attribute, b.bool(1, false))
		if err != nil {
			return nil, err
		}
		for i, key := range keys {
			rows[i] = append(rows[i], key)
		}
	}
	order := indices(len(items))
	if err := e.sortBy(order, b.bool(0, false), func(i int) any { return rows[i] }); err != nil {
		return nil, err
	}
	return permute(items, order), nil
}

func permute(items []any, order []int) []any {
	out := make([]any, len(order))
	for i, j := range order {
		out[i] = items[j]
	}
	return out
}

func filterDictSort(e *evaluator, v any, a callArgs) (any, error) {
	b, err := a.bindTo("dictsort", 0, "case_sensitive", "by", "reverse")
	if err != nil {
		return nil, err
	}
	d, ok := v.(*Dict)
	if !ok {
		return nil, operandOrType("dictsort", "a dict", v)
	}
	by := b.string(1, "key")
	if b.err == nil && by != "key" && by != "value" {
		b.err = errors.New("dictsort: by must be 'key' or 'value'")
	}
	if b.err != nil {
		return nil, b.err
	}
	column := d.keys
	if by == "value" {
		column = d.vals
	}
	keys, err := e.keysOf(column, nil, b.bool(0, false))
	if err != nil {
		return nil, err
	}
	order := indices(len(keys))
	if err := e.sortBy(order, b.bool(2, false), func(i int) any { return keys[i] }); err != nil {
		return nil, err
	}
	items, err := e.dictItems(d)
	if err != nil {
		return nil, err
	}
	return permute(items, order), nil
}

func operandOrType(fn, want string, v any) error {
	if u, ok := v.(undefined); ok {
		return errors.New(u.why)
	}
	return fmt.Errorf("%s: expected %s, not '%s'", fn, want, typeName(v))
}

func filterUnique(e *evaluator, v any, a callArgs) (any, error) {
	b, err := a.bindTo("unique", 0, "case_sensitive", "attribute")
	if err != nil {
		return nil, err
	}
	items, err := e.seq(v)
	if err != nil {
		return nil, err
	}
	keys, err := e.keysOf(items, b.any(1, nil), b.bool(0, false))
	if err != nil {
		return nil, err
	}
	var seen Dict
	var kept []any
	for i, key := range keys {
		n := seen.Len()
		if err := e.put(&seen, key, nil); err != nil {
			return nil, err
		}
		if seen.Len() > n {
			kept = append(kept, items[i])
		}
	}
	return e.generated(kept), nil
}

func filterGroupBy(e *evaluator, v any, a callArgs) (any, error) {
	b, err := a.bindTo("groupby", 1, "attribute", "default", "case_sensitive")
	if err != nil {
		return nil, err
	}
	items, err := e.seq(v)
	if err != nil {
		return nil, err
	}
	raw, err := e.keysOf(items, b.vals[0], true)
	if err != nil {
		return nil, err
	}
	for i, key := range raw {
		if _, missing := key.(undefined); missing && b.given(1) {
			raw[i] = b.vals[1]
		}
	}
	keys, err := e.keysOf(raw, nil, b.bool(2, false))
	if err != nil {
		return nil, err
	}
	order := indices(len(items))
	if err := e.sortBy(order, false, func(i int) any { return keys[i] }); err != nil {
		return nil, err
	}
	groups := []any{}
	for n, i := range order {
		if n > 0 {
			same, err := e.equal(keys[order[n-1]], keys[i])
			if err != nil {
				return nil, err
			}
			if same {
				last := groups[len(groups)-1].(group)
				last.list = append(last.list, items[i])
				groups[len(groups)-1] = last
				continue
			}
		}
		groups = append(groups, group{raw[i], []any{items[i]}})
	}
	return groups, nil
}

// extreme is min or max: the first item that no other is op than.
func extreme(op string) filterFunc {
	return func(e *evaluator, v any, a callArgs) (any, error) {
		b, err := a.bindTo("min or max", 0, "case_sensitive", "attribute")
		if err != nil {
			return nil, err
		}
		items, err := e.seq(v)
		if err != nil {
			return nil, err
		}
		if len(items) == 0 {
			return undefined{"there is no item, the sequence was empty"}, nil
		}
		keys, err := e.keysOf(items, b.any(1, nil), b.bool(0, false))
		if err != nil {
			return nil, err
		}
		best := 0
		for i := 1; i < len(keys); i++ {
			better, err := e.compareOp(op, keys[i], keys[best])
			if err != nil {
				return nil, err
			}
			if better {
				best = i
			}
		}
		return items[best], nil
	}
}

// itemsOrNone is what map, select and their kin iterate over: anything false, also
// none, counts as empty.
func (e *evaluator) itemsOrNone(v any) ([]any, error) {
	if !truthy(v) {
		return nil, nil
	}
	return e.seq(v)
}

func filterMap(e *evaluator, v any, a callArgs) (any, error) {
	items, err := e.itemsOrNone(v)
	if err != nil {
		return nil, err
	}
	out := make([]any, len(items))
	if len(a.positional) == 0 {
		b, err := a.bindTo("map", 0, "attribute", "default")
		if err != nil {
			return nil, err
		}
		if !b.given(0) {
			return nil, errors.New("map needs the name of a filter or attribute=...")
		}
		if out, err = e.keysOf(items, b.vals[0], true); err != nil {
			return nil, err
		}
		for i, item := range out {
			if _, missing := item.(undefined); missing {
				if def := b.any(1, nil); def != nil {
					out[i] = def
				}
			}
		}
		return e.generated(out), nil
	}
	name, _ := a.positional[0].(string)
	f := filters[name]
	if f == nil {
		return nil, fmt.Errorf("unknown filter '%s'", name)
	}
	rest := callArgs{a.positional[1:], a.keywords}
	for i, item := range items {
		if err := e.charge(1); err != nil {
			return nil, err
		}
		if out[i], err = f(e, item, rest); err != nil {
			return nil, err
		}
	}
	return e.generated(out), nil
}

// pickBy is select, reject, selectattr or rejectattr.
func pickBy(fn string, byAttr, keep bool) filterFunc {
	return func(e *evaluator, v any, a callArgs) (any, error) {
		items, err := e.itemsOrNone(v)
		if err != nil {
			return nil, err
		}
		keys, args := items, a.positional
		if byAttr {
			if len(args) == 0 {
				return nil, fmt.Errorf("%s needs the name of an attribute", fn)
			}
			if keys, err = e.keysOf(items, args[0], true); err != nil {
				return nil, err
			}
			args = args[1:]
		}
		kept := []any{}
		for i, key := range keys {
			if err := e.charge(1); err != nil {
				return nil, err
			}
			ok := truthy(key)
			if len(args) > 0 {
				if ok, err = e.callTest(args[0], key, callArgs{args[1:], a.keywords}); err != nil {
					return nil, err
				}
			}
			if ok == keep {
				kept = append(kept, items[i])
			}
		}
		return e.generated(kept), nil
	}
}
