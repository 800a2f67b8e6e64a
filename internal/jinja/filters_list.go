package jinja

import (
	"errors"
	"fmt"
	"slices"
)

func filterFirst(e *evaluator, v any, _ callArgs) (any, error) {
	if g, ok := v.(*generator); ok && len(g.items) > 0 { // takes one, leaves the rest
		first := g.items[0]
		g.items = g.items[1:]
		return first, nil
	}
	return e.end(v, 0, "first")
}

func filterLast(e *evaluator, v any, _ callArgs) (any, error) {
	if _, ok := v.(*generator); ok {
		return nil, errors.New("a generator has no last item: apply the list filter first")
	}
	return e.end(v, -1, "last")
}

func (e *evaluator) end(v any, i int64, fn string) (any, error) {
	if s, ok := v.(string); ok {
		if s == "" {
			return undefined{"there is no " + fn + " item, the string was empty"}, nil
		}
		return e.item(s, i)
	}
	items, err := e.seq(v)
	if err != nil {
		return nil, err
	}
	if len(items) == 0 {
		return undefined{"there is no " + fn + " item, the sequence was empty"}, nil
	}
	return items[(len(items)+int(i))%len(items)], nil
}

func filterJoin(e *evaluator, v any, a callArgs) (any, error) {
	b, err := a.bindTo("join", 0, "d", "attribute")
	if err != nil {
		return nil, err
	}
	items, err := e.seq(v)
	if err != nil {
		return nil, err
	}
	if attribute := b.any(1, nil); attribute != nil {
		if items, err = e.keysOf(items, attribute, true); err != nil {
			return nil, err
		}
	}
	sep, err := e.str(b.any(0, ""))
	if err != nil {
		return nil, err
	}
	return e.join(items, sep)
}

func filterReverse(e *evaluator, v any, _ callArgs) (any, error) {
	if s, ok := v.(string); ok {
		if err := e.made(4 * len(s)); err != nil {
			return nil, err
		}
		runes := []rune(s)
		slices.Reverse(runes)
		return string(runes), nil
	}
	items, err := e.seq(v)
	if err != nil {
		return nil, err
	}
	if err := e.charge(len(items)); err != nil {
		return nil, err
	}
	items = slices.Clone(items)
	slices.Reverse(items)
	return e.generated(items), nil
}

func filterSum(e *evaluator, v any, a callArgs) (any, error) {
	b, err := a.bindTo("sum", 0, "attribute", "start")
	if err != nil {
		return nil, err
	}
	items, err := e.seq(v)
	if err != nil {
		return nil, err
	}
	if items, err = e.keysOf(items, b.any(0, nil), true); err != nil {
		return nil, err
	}
	total := b.any(1, int64(0))
	for _, item := range items {
		if total, err = e.binary("+", total, item); err != nil {
			return nil, err
		}
	}
	return total, nil
}

func filterBatch(e *evaluator, v any, a callArgs) (any, error) {
	b, err := a.bindTo("batch", 1, "linecount", "fill_with")
	if err != nil {
		return nil, err
	}
	items, err := e.seq(v)
	if err != nil {
		return nil, err
	}
	size, fill := b.int(0, 1), b.any(1, nil)
	if b.err == nil && size < 1 {
		b.err = fmt.Errorf("batch: linecount must be at least 1, got %d", size)
	}
	if b.err != nil {
		return nil, b.err
	}
	var rows []any
	for chunk := range slices.Chunk(items, size) {
		if fill != nil {
			chunk = slices.Clone(chunk)
			if err := e.charge(size); err != nil {
				return nil, err
			}
			for len(chunk) < size {
				chunk = append(chunk, fill)
			}
		}
		rows = append(rows, chunk)
	}
	return e.generated(rows), e.charge(len(items))
}

// filterSlice cuts a sequence into a number of columns.
func filterSlice(e *evaluator, v any, a callArgs) (any, error) {
	b, err := a.bindTo("slice", 1, "slices", "fill_with")
	if err != nil {
		return nil, err
	}
	items, err := e.seq(v)
	if err != nil {
		return nil, err
	}
	n, fill := b.int(0, 1), b.any(1, nil)
	if b.err == nil && n < 1 {
		b.err = fmt.Errorf("slice: slices must be at least 1, got %d", n)
	}
	if b.err == nil {
		b.err = e.charge(2*n + len(items))
	}
	if b.err != nil {
		return nil, b.err
	}
	columns := make([]any, n)
	extra := len(items) % n // so many columns get one item more
	size := len(items) / n
	for i := range columns {
		take := size
		if i < extra {
			take++
		}
		column := slices.Clone(items[:take])
		if fill != nil && i >= extra {
			column = append(column, fill)
		}
		columns[i], items = column, items[take:]
	}
	return e.generated(columns), nil
}
