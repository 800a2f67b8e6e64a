package jinja

import (
	"fmt"
	"iter"
	"math"
)

// dictLinearMax is the size up to which a scan beats a hash index. Messages and
// tool calls have two to six keys.
const dictLinearMax = 8

// Dict is a mapping that keeps the order of insertion, as Python's dict does.
// Setting an existing key keeps its place. The zero value is an empty Dict. It is
// safe for concurrent readers.
type Dict struct {
	keys  []any
	vals  []any
	index map[any]int // by hash key; nil up to dictLinearMax entries
}

// NewDict returns an empty Dict with room for n entries.
func NewDict(n int) *Dict {
	return &Dict{keys: make([]any, 0, n), vals: make([]any, 0, n)}
}

// Len returns the number of entries.
func (d *Dict) Len() int { return len(d.keys) }

// Get returns the value of a string key.
func (d *Dict) Get(key string) (value any, ok bool) {
	if i := d.findString(key); i >= 0 {
		return d.vals[i], true
	}
	return nil, false
}

// Set adds or replaces the value of a string key.
func (d *Dict) Set(key string, value any) {
	if i := d.findString(key); i >= 0 {
		d.vals[i] = value
		return
	}
	d.add(key, key, value)
}

// All yields the entries with string keys, in order.
func (d *Dict) All() iter.Seq2[string, any] {
	return func(yield func(string, any) bool) {
		for i, k := range d.keys {
			if s, ok := k.(string); ok && !yield(s, d.vals[i]) {
				return
			}
		}
	}
}

func (d *Dict) findString(key string) int {
	if d.index != nil {
		if i, ok := d.index[key]; ok {
			return i
		}
		return -1
	}
	for i, k := range d.keys {
		if s, ok := k.(string); ok && s == key {
			return i
		}
	}
	return -1
}

// find returns the place of the entry with a hash key, or -1.
func (d *Dict) find(hash any) int {
	if s, ok := hash.(string); ok {
		return d.findString(s)
	}
	if d.index != nil {
		if i, ok := d.index[hash]; ok {
			return i
		}
		return -1
	}
	for i, k := range d.keys {
		if h, ok := hashKey(k); ok && h == hash {
			return i
		}
	}
	return -1
}

func (d *Dict) add(hash, key, value any) {
	d.keys = append(d.keys, key)
	d.vals = append(d.vals, value)
	switch {
	case d.index != nil:
		d.index[hash] = len(d.keys) - 1
	case len(d.keys) > dictLinearMax:
		d.index = make(map[any]int, 2*len(d.keys))
		for i, k := range d.keys {
			h, _ := hashKey(k)
			d.index[h] = i
		}
	}
}

// setHashed is Set for any key and its hash key.
func (d *Dict) setHashed(hash, key, value any) {
	if i := d.find(hash); i >= 0 {
		d.vals[i] = value
	} else {
		d.add(hash, key, value)
	}
}

type (
	noneKey      struct{}
	undefinedKey struct{}
)

// hashKey maps equal keys to the same comparable value: 1, 1.0 and true are one
// key in Python. It reports false for values that cannot be keys; tuples are among
// them, unlike in Python, for want of a use.
func hashKey(key any) (any, bool) {
	switch k := key.(type) {
	case string, int64:
		return k, true
	case nil:
		return noneKey{}, true
	case undefined:
		return undefinedKey{}, true
	case bool:
		if k {
			return int64(1), true
		}
		return int64(0), true
	case float64:
		if k == math.Trunc(k) && math.Abs(k) < 1<<62 {
			return int64(k), true
		}
		return k, true
	}
	return nil, false
}

// hash is hashKey, charged for.
func (e *evaluator) hash(key any) (any, error) {
	if s, ok := key.(string); ok {
		return s, e.scanned(len(s))
	}
	hash, ok := hashKey(key)
	if !ok {
		return nil, fmt.Errorf("'%s' cannot be a dict key", typeName(key))
	}
	return hash, nil
}

// put sets an entry and charges for it.
func (e *evaluator) put(d *Dict, key, value any) error {
	hash, err := e.hash(key)
	if err == nil {
		err = e.charge(2)
	}
	if err != nil {
		return err
	}
	d.setHashed(hash, key, value)
	return nil
}
