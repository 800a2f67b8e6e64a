package jinja

import (
	"fmt"
	"math/big"
	"sort"
	"strconv"
)

// contextError says which context value is unusable.
type contextError struct{ path, why string }

func (c *contextError) Error() string { return "context value " + c.path + " " + c.why }

// within prefixes the path of a context error with the element it happened in.
func within(err error, element string) error {
	if c, ok := err.(*contextError); ok {
		c.path = element + c.path
	}
	return err
}

// canonical converts a Go value from the caller into a template value. It copies
// only what it has to change, and reports whether it did.
func canonical(v any, depth int) (out any, changed bool, err error) {
	if depth <= 0 {
		return nil, false, &contextError{why: "is nested too deeply"}
	}
	switch v := v.(type) {
	case nil, bool, int64, float64, string, *big.Int:
		return v, false, nil
	case int:
		return int64(v), true, nil
	case []any:
		list, changed, err := canonicalList(v, depth)
		return list, changed, err
	case []string:
		return convertList(v, depth)
	case []map[string]any:
		return convertList(v, depth)
	case []*Dict:
		return convertList(v, depth)
	case Dict:
		d, _, err := canonicalDict(&v, depth)
		return d, true, err
	case *Dict:
		if v == nil {
			return nil, true, nil
		}
		d, changed, err := canonicalDict(v, depth)
		return d, changed, err
	case map[string]any:
		d, err := sortedDict(v, depth)
		return d, true, err
	}
	return nil, false, &contextError{why: fmt.Sprintf("has unsupported Go type %T", v)}
}

func convertList[T any](items []T, depth int) (any, bool, error) {
	list := make([]any, len(items))
	for i, item := range items {
		list[i] = item
	}
	out, _, err := canonicalList(list, depth)
	return out, true, err
}

func canonicalList(list []any, depth int) (out []any, changed bool, err error) {
	for i, item := range list {
		c, itemChanged, err := canonical(item, depth-1)
		if err != nil {
			return nil, false, within(err, "["+strconv.Itoa(i)+"]")
		}
		if itemChanged && out == nil {
			out = append([]any(nil), list...)
		}
		if itemChanged {
			out[i] = c
		}
	}
	if out == nil {
		return list, false, nil
	}
	return out, true, nil
}

func canonicalDict(d *Dict, depth int) (*Dict, bool, error) {
	vals, changed, err := canonicalList(d.vals, depth)
	if err != nil || !changed {
		return d, false, err
	}
	return &Dict{keys: d.keys, vals: vals, index: d.index}, true, nil
}

// sortedDict gives a Go map, which has no order, the order of its keys.
func sortedDict(m map[string]any, depth int) (*Dict, error) {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	d := NewDict(len(m))
	for _, k := range keys {
		v, _, err := canonical(m[k], depth-1)
		if err != nil {
			return nil, within(err, "."+k)
		}
		d.add(k, k, v)
	}
	return d, nil
}
