package jinja

import (
	"errors"
	"fmt"
	"strings"
)

// rangeLenMax is the bound that Jinja2's sandbox puts on range().
const rangeLenMax = 100_000

var globals map[string]*function

func init() { // the functions refer to globals
	globals = map[string]*function{
		"range":           {"range", callRange},
		"dict":            {"dict", callDict},
		"namespace":       {"namespace", callNamespace},
		"raise_exception": {"raise_exception", callRaise},
		"strftime_now":    {"strftime_now", callStrftime},
	}
}

func newRange(start, stop, step int64) rangeValue {
	r := rangeValue{start: start, stop: stop, step: step}
	switch {
	case step > 0 && stop > start:
		r.n = (stop - start + step - 1) / step
	case step < 0 && stop < start:
		r.n = (start - stop - step - 1) / -step
	}
	return r
}

func callRange(_ *evaluator, a callArgs) (any, error) {
	b, err := a.bindTo("range", 1, "start", "stop", "step")
	if err != nil {
		return nil, err
	}
	start, stop, step := 0, b.int(0, 0), b.int(2, 1)
	if b.given(1) {
		start, stop = stop, b.int(1, 0)
	}
	if b.err != nil {
		return nil, b.err
	}
	if step == 0 {
		return nil, errors.New("range: step must not be zero")
	}
	r := newRange(int64(start), int64(stop), int64(step))
	if r.n > rangeLenMax {
		return nil, errorf(LimitError, "range has %d elements: the limit is %d", r.n, rangeLenMax)
	}
	return r, nil
}

// callDict is dict(mapping or pairs, **entries).
func callDict(e *evaluator, a callArgs) (any, error) {
	if len(a.positional) > 1 {
		return nil, fmt.Errorf("dict takes at most 1 positional argument, got %d", len(a.positional))
	}
	d := NewDict(len(a.keywords))
	if len(a.positional) == 1 {
		if err := e.fillDict(d, a.positional[0]); err != nil {
			return nil, err
		}
	}
	for _, kw := range a.keywords {
		d.Set(kw.name, kw.val)
	}
	return d, e.charge(2 * d.Len())
}

func (e *evaluator) fillDict(d *Dict, from any) error {
	if src, ok := from.(*Dict); ok {
		for i, k := range src.keys {
			if err := e.put(d, k, src.vals[i]); err != nil {
				return err
			}
		}
		return nil
	}
	pairs, err := e.seq(from)
	if err != nil {
		return err
	}
	for _, p := range pairs {
		pair, err := e.seq(p)
		if err != nil {
			return err
		}
		if len(pair) != 2 {
			return fmt.Errorf("dict: expected pairs, got an element of length %d", len(pair))
		}
		if err := e.put(d, pair[0], pair[1]); err != nil {
			return err
		}
	}
	return nil
}

func callNamespace(e *evaluator, a callArgs) (any, error) {
	v, err := callDict(e, a)
	if err != nil {
		return nil, err
	}
	d := v.(*Dict)
	for name := range d.All() {
		if strings.HasPrefix(name, "_") {
			return nil, fmt.Errorf("namespace attribute '%s' must not start with an underscore", name)
		}
	}
	return &namespace{*d}, nil
}

func callRaise(e *evaluator, a callArgs) (any, error) {
	b, err := a.bindTo("raise_exception", 1, "message")
	if err != nil {
		return nil, err
	}
	message, err := e.str(b.vals[0])
	if err != nil {
		return nil, err
	}
	if message == "" {
		message = "the template refused the request without a message"
	}
	return nil, &Error{Kind: RaisedError, Message: message}
}

func callStrftime(e *evaluator, a callArgs) (any, error) {
	b, err := a.bindTo("strftime_now", 1, "format")
	if err != nil {
		return nil, err
	}
	format := b.string(0, "")
	if b.err != nil {
		return nil, b.err
	}
	if err := e.made(strftimeBytesMax * len(format)); err != nil {
		return nil, err
	}
	return strftime(e.now(), format), nil
}
