package jinja

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"unicode/utf8"
)

// getAttr is obj.name: a method or attribute if the type has one, else the item.
func (e *evaluator) getAttr(obj any, name string) (any, error) {
	if m := methodOf(obj, name); m != nil {
		return bindMethod(obj, name, m), nil
	}
	if v, ok := attrOf(obj, name); ok {
		return v, nil
	}
	return e.item(obj, name)
}

// getItem is obj[index]: the item, else the method or attribute of that name.
func (e *evaluator) getItem(obj, index any) (any, error) {
	v, err := e.item(obj, index)
	name, isName := index.(string)
	if _, missing := v.(undefined); err != nil || !isName || !missing {
		return v, err
	}
	if m := methodOf(obj, name); m != nil {
		return bindMethod(obj, name, m), nil
	}
	if a, ok := attrOf(obj, name); ok {
		return a, nil
	}
	return v, nil
}

func bindMethod(obj any, name string, m method) any {
	return &function{name, func(e *evaluator, a callArgs) (any, error) { return m(e, obj, a) }}
}

// attrOf looks up the attributes that are not methods.
func attrOf(obj any, name string) (any, bool) {
	switch obj := obj.(type) {
	case *loop:
		return obj.attr(name)
	case *namespace:
		return obj.attrs.Get(name)
	case *macro:
		if name == "name" {
			return obj.def.name, true
		}
	case group:
		switch name {
		case "grouper":
			return obj.grouper, true
		case "list":
			return obj.list, true
		}
	}
	return nil, false
}

// item is subscription proper. A missing item is undefined; only asking something of
// an undefined value is an error.
func (e *evaluator) item(obj, index any) (any, error) {
	switch o := obj.(type) {
	case undefined:
		return nil, errors.New(o.why)
	case *Dict:
		if s, ok := index.(string); ok {
			if err := e.scanned(len(s)); err != nil {
				return nil, err
			}
		}
		if hash, ok := hashKey(index); ok {
			if i := o.find(hash); i >= 0 {
				return o.vals[i], nil
			}
		}
		return noItem(obj, index), nil
	}
	i, ok := index.(int64)
	if b, isBool := index.(bool); isBool {
		ok = true
		if b {
			i = 1
		}
	}
	if !ok {
		return noItem(obj, index), nil
	}
	n, isSized := length(obj)
	if !isSized {
		return noItem(obj, index), nil
	}
	if i < 0 {
		i += int64(n)
	}
	if i < 0 || i >= int64(n) {
		return noItem(obj, index), nil
	}
	switch o := obj.(type) {
	case []any:
		return o[i], nil
	case tuple:
		return o[i], nil
	case string:
		return runeSlice(o, int(i), int(i)+1), e.scanned(len(o))
	case rangeValue:
		return o.start + i*o.step, nil
	case group:
		return []any{o.grouper, o.list}[i], nil
	}
	return noItem(obj, index), nil
}

func noItem(obj, index any) undefined {
	switch i := index.(type) {
	case string:
		if len(i) > snippetRunesMax {
			i = i[:snippetRunesMax]
		}
		return undefined{"'" + typeName(obj) + "' has no attribute '" + i + "'"}
	case int64:
		return undefined{"'" + typeName(obj) + "' has no element " + strconv.FormatInt(i, 10)}
	}
	return undefined{"'" + typeName(obj) + "' has no such element"}
}

// slice is obj[start:stop:step] with Python's clamping.
func (e *evaluator) slice(obj, start, stop, step any) (any, error) {
	n, ok := length(obj)
	switch o := obj.(type) {
	case undefined:
		return nil, errors.New(o.why)
	case *Dict, view:
		ok = false
	}
	if !ok {
		if e.js && obj == nil {
			return undefined{"None cannot be sliced"}, nil
		}
		return nil, fmt.Errorf("'%s' cannot be sliced", typeName(obj))
	}
	from, by, count, err := sliceBounds(n, start, stop, step)
	if err != nil {
		return nil, err
	}
	switch o := obj.(type) {
	case string:
		if err := e.scanned(len(o)); err != nil {
			return nil, err
		}
		if by == 1 {
			return runeSlice(o, from, from+count), nil
		}
		if err := e.made(4 * len(o)); err != nil {
			return nil, err
		}
		return string(pick([]rune(o), from, by, count)), nil
	case tuple:
		return pick(o, from, by, count), e.charge(count)
	case rangeValue:
		return newRange(o.start+int64(from)*o.step, o.start+int64(from+by*count)*o.step, o.step*int64(by)), nil
	}
	items, err := e.seq(obj)
	if err != nil {
		return nil, err
	}
	return pick(items, from, by, count), e.charge(count)
}

func pick[T ~[]E, E any](items T, from, by, count int) T {
	if by == 1 {
		return items[from : from+count : from+count]
	}
	out := make(T, count)
	for i := range out {
		out[i] = items[from+i*by]
	}
	return out
}

// sliceBounds resolves a slice of n elements to the first index, the stride and the
// number of elements.
func sliceBounds(n int, start, stop, step any) (from, by, count int, err error) {
	by = 1
	if step != nil {
		if by, err = sliceIndex(step); err != nil {
			return 0, 0, 0, err
		}
		if by == 0 {
			return 0, 0, 0, errors.New("slice step must not be zero")
		}
	}
	low, high := 0, n // the range an index is clamped to
	from, to := 0, n
	if by < 0 {
		low, high = -1, n-1
		from, to = n-1, -1
	}
	clamp := func(v any, into *int) {
		if v == nil || err != nil {
			return
		}
		var i int
		if i, err = sliceIndex(v); err != nil {
			return
		}
		if i < 0 {
			i += n
		}
		*into = min(max(i, low), high)
	}
	clamp(start, &from)
	clamp(stop, &to)
	if by > 0 && to > from {
		count = (to - from + by - 1) / by
	} else if by < 0 && to < from {
		count = (from - to - by - 1) / -by
	}
	if count == 0 {
		from, by = 0, 1
	}
	return from, by, count, err
}

// sliceIndex bounds an index so that arithmetic with lengths cannot overflow.
func sliceIndex(v any) (int, error) {
	i, _, isInt, _ := number(v)
	if !isInt {
		return 0, fmt.Errorf("slice indices must be integers, not '%s'", typeName(v))
	}
	return int(min(max(i, math.MinInt32), math.MaxInt32)), nil
}

func runeCount(s string) int { return utf8.RuneCountInString(s) }

// runeSlice returns the code points from up to before to of s.
func runeSlice(s string, from, to int) string {
	if from >= to {
		return ""
	}
	begin := runeOffset(s, from)
	return s[begin : begin+runeOffset(s[begin:], to-from)]
}

// runeOffset returns the byte offset of the n-th code point of s.
func runeOffset(s string, n int) int {
	offset := 0
	for ; n > 0 && offset < len(s); n-- {
		if s[offset] < utf8.RuneSelf {
			offset++
			continue
		}
		_, size := utf8.DecodeRuneInString(s[offset:])
		offset += size
	}
	return offset
}
