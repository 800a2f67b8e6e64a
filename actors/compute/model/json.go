package model

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
)

// object reads typed fields of a JSON object and gathers what is wrong with them, so that a
// person sees every problem of a config at once. A key that is absent or null has its default.
type object struct {
	path     string // "config.json" or "config.json: rope_scaling", for messages
	fields   map[string]json.RawMessage
	problems *[]error
}

// problemsMax bounds the errors gathered from one config.
const problemsMax = 20

func parseObject(path string, data []byte) (*object, error) {
	o := &object{path: path, problems: new([]error)}
	if err := json.Unmarshal(data, &o.fields); err != nil {
		return nil, fmt.Errorf("%s is not a JSON object: %s", path, clip(err.Error()))
	}
	return o, nil
}

// failf records a problem with key.
func (o *object) failf(key, format string, args ...any) {
	if len(*o.problems) < problemsMax {
		*o.problems = append(*o.problems, fmt.Errorf("%s: %s %s", o.path, key, fmt.Sprintf(format, args...)))
	}
}

// wrong records that key's value is not what was expected.
func (o *object) wrong(key, want string) {
	o.failf(key, "is %s, want %s", clip(string(o.fields[key])), want)
}

// err returns the problems found so far.
func (o *object) err() error { return errors.Join(*o.problems...) }

// has reports whether key is present and not null.
func (o *object) has(key string) bool {
	raw, ok := o.fields[key]
	return ok && string(raw) != "null"
}

// firstKey returns the first of keys that is present, or the first of all.
func (o *object) firstKey(keys ...string) string {
	for _, k := range keys {
		if o.has(k) {
			return k
		}
	}
	return keys[0]
}

// integer returns key's value, which must lie in [low, high], or def where it is absent.
func (o *object) integer(key string, def, low, high int) int {
	if !o.has(key) {
		return def
	}
	v, ok := wholeNumber(o.fields[key])
	if !ok || v < int64(low) || v > int64(high) {
		o.wrong(key, fmt.Sprintf("a whole number in %d..%d", low, high))
		return low
	}
	return int(v)
}

// required is integer for a key that has no default.
func (o *object) required(key string, low, high int) int {
	if !o.has(key) {
		o.failf(key, "is missing, want a whole number in %d..%d", low, high)
		return low
	}
	return o.integer(key, low, low, high)
}

// number returns key's value, which must lie in [low, high], or def where it is absent.
func (o *object) number(key string, def, low, high float64) float64 {
	if !o.has(key) {
		return def
	}
	var v float64
	if json.Unmarshal(o.fields[key], &v) != nil || !(v >= low && v <= high) {
		o.wrong(key, fmt.Sprintf("a number in %g..%g", low, high))
		return low
	}
	return v
}

// numbers returns an array of exactly n numbers in [low, high].
func (o *object) numbers(key string, n int, low, high float64) []float64 {
	var v []float64
	if err := json.Unmarshal(o.fields[key], &v); err != nil || len(v) != n ||
		slices.ContainsFunc(v, func(x float64) bool { return !(x >= low && x <= high) }) {
		o.wrong(key, fmt.Sprintf("an array of %d numbers in %g..%g", n, low, high))
		return slices.Repeat([]float64{low}, n)
	}
	return v
}

func (o *object) boolean(key string, def bool) bool {
	if !o.has(key) {
		return def
	}
	var v bool
	if json.Unmarshal(o.fields[key], &v) != nil {
		o.wrong(key, "true or false")
	}
	return v
}

func (o *object) text(key, def string) string {
	if !o.has(key) {
		return def
	}
	var v string
	if json.Unmarshal(o.fields[key], &v) != nil {
		o.wrong(key, "a string")
	}
	return v
}

// texts returns an array of strings, nil where it is absent.
func (o *object) texts(key string) []string {
	if !o.has(key) {
		return nil
	}
	var v []string
	if json.Unmarshal(o.fields[key], &v) != nil {
		o.wrong(key, "an array of strings")
	}
	return v
}

// ids returns token ids given as one number or an array, each in [0, limit).
func (o *object) ids(key string, limit int) []int32 {
	if !o.has(key) {
		return nil
	}
	want := fmt.Sprintf("a token id in 0..%d or an array of at most %d of them", limit-1, idsMax)
	raws := []json.RawMessage{o.fields[key]}
	if o.fields[key][0] == '[' {
		if json.Unmarshal(o.fields[key], &raws) != nil {
			o.wrong(key, want)
			return nil
		}
	}
	if len(raws) > idsMax {
		o.wrong(key, want)
		return nil
	}
	ids := make([]int32, 0, len(raws))
	for _, raw := range raws {
		v, ok := wholeNumber(raw)
		if !ok || v < 0 || v >= int64(limit) {
			o.wrong(key, want)
			return nil
		}
		ids = append(ids, int32(v))
	}
	return ids
}

// idsMax bounds the end-of-sequence ids of one model.
const idsMax = 64

// child returns the object under key, or an empty one where it is absent.
func (o *object) child(key string) *object {
	c := &object{path: o.path + ": " + key, problems: o.problems}
	if o.has(key) && json.Unmarshal(o.fields[key], &c.fields) != nil {
		o.wrong(key, "an object")
	}
	return c
}

// wholeNumber accepts 4096 and, because some writers print it so, 4096.0.
func wholeNumber(raw json.RawMessage) (int64, bool) {
	if v, err := strconv.ParseInt(string(raw), 10, 64); err == nil {
		return v, true
	}
	var f float64
	if json.Unmarshal(raw, &f) != nil || f != math.Trunc(f) || math.Abs(f) > 1<<53 {
		return 0, false
	}
	return int64(f), true
}

// clip shortens text from a file before it goes into a message.
func clip(s string) string {
	const clipBytesMax = 120
	if len(s) <= clipBytesMax {
		return s
	}
	return s[:clipBytesMax] + "…"
}
