package jinja

import (
	"errors"
	"fmt"
	"math"
)

// bound are the arguments of a filter, test or method after [callArgs.bind]. The first
// accessor that finds a wrong type sets err; callers check it once.
type bound struct {
	fn    string
	names []string
	vals  []any
	err   error
}

func (a callArgs) bindTo(fn string, required int, names ...string) (*bound, error) {
	vals, err := a.bind(fn, required, names...)
	return &bound{fn: fn, names: names, vals: vals}, err
}

func (b *bound) given(i int) bool { return b.vals[i] != (absent{}) }

// any returns argument i, or def if it was not given.
func (b *bound) any(i int, def any) any {
	if b.given(i) {
		return b.vals[i]
	}
	return def
}

func (b *bound) fail(i int, want string) {
	if b.err != nil {
		return
	}
	if u, ok := b.vals[i].(undefined); ok {
		b.err = errors.New(u.why)
		return
	}
	b.err = fmt.Errorf("%s: argument '%s' must be %s, not '%s'", b.fn, b.names[i], want, typeName(b.vals[i]))
}

func (b *bound) string(i int, def string) string {
	if !b.given(i) {
		return def
	}
	s, ok := b.vals[i].(string)
	if !ok {
		b.fail(i, "a string")
	}
	return s
}

// int returns argument i clamped to 32 bits, so that sums and differences of
// arguments cannot overflow.
func (b *bound) int(i int, def int) int {
	if !b.given(i) {
		return def
	}
	v, _, isInt, _ := number(b.vals[i])
	if !isInt {
		b.fail(i, "an integer")
	}
	return int(min(max(v, math.MinInt32), math.MaxInt32))
}

func (b *bound) bool(i int, def bool) bool {
	return truthy(b.any(i, def))
}
