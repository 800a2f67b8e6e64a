package jinja

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

func splitMethod(name string, fromRight bool) method {
	return stringMethod(func(e *evaluator, s string, a callArgs) (any, error) {
		b, err := a.bindTo(name, 0, "sep", "maxsplit")
		if err != nil {
			return nil, err
		}
		splits := b.int(1, -1)
		if splits < 0 {
			splits = math.MaxInt32
		}
		if b.any(0, nil) == nil {
			if b.err != nil {
				return nil, b.err
			}
			if err := e.pieces(min(splits, countRunes(s, isSpace))); err != nil {
				return nil, err
			}
			return stringList(splitSpace(s, splits, fromRight)), nil
		}
		sep := b.string(0, "")
		switch {
		case b.err != nil:
			return nil, b.err
		case sep == "":
			return nil, errors.New("empty separator")
		}
		if err := e.pieces(min(splits, strings.Count(s, sep))); err != nil {
			return nil, err
		}
		if !fromRight {
			return stringList(strings.SplitN(s, sep, splits+1)), nil
		}
		var pieces []string
		for i := 0; splits > 0; splits-- {
			if i = strings.LastIndex(s, sep); i < 0 {
				break
			}
			pieces = append(pieces, s[i+len(sep):])
			s = s[:i]
		}
		pieces = append(pieces, s)
		slices.Reverse(pieces)
		return stringList(pieces), nil
	})
}

// splitSpace splits at runs of whitespace, at most splits times; what remains keeps
// its inner whitespace.
func splitSpace(s string, splits int, fromRight bool) []string {
	var words []string
	if fromRight {
		for s = strings.TrimRightFunc(s, isSpace); s != ""; s = strings.TrimRightFunc(s, isSpace) {
			i := strings.LastIndexFunc(s, isSpace)
			if i < 0 || len(words) == splits {
				words = append(words, s)
				break
			}
			_, size := utf8.DecodeRuneInString(s[i:])
			words = append(words, s[i+size:])
			s = s[:i]
		}
		slices.Reverse(words)
		return words
	}
	for s = strings.TrimLeftFunc(s, isSpace); s != ""; s = strings.TrimLeftFunc(s, isSpace) {
		i := strings.IndexFunc(s, isSpace)
		if i < 0 || len(words) == splits {
			return append(words, s)
		}
		words = append(words, s[:i])
		s = s[i:]
	}
	return words
}

func replaceMethod(e *evaluator, s string, a callArgs) (any, error) {
	b, err := a.bindTo("replace", 2, "old", "new", "count")
	if err != nil {
		return nil, err
	}
	old, replacement, count := b.string(0, ""), b.string(1, ""), -1
	if b.any(2, nil) != nil {
		count = b.int(2, -1)
	}
	if b.err != nil {
		return nil, b.err
	}
	return e.replace(s, old, replacement, count)
}

func (e *evaluator) replace(s, old, replacement string, count int) (string, error) {
	n := strings.Count(s, old)
	if count >= 0 {
		n = min(n, count)
	}
	if err := e.made(len(s) + n*max(0, len(replacement)-len(old))); err != nil {
		return "", err
	}
	return strings.Replace(s, old, replacement, count), nil
}

func joinMethod(e *evaluator, s string, a callArgs) (any, error) {
	b, err := a.bindTo("join", 1, "iterable")
	if err != nil {
		return nil, err
	}
	items, err := e.seq(b.vals[0])
	if err != nil {
		return nil, err
	}
	for i, item := range items {
		if _, ok := item.(string); !ok && !e.js {
			return nil, fmt.Errorf("join: item %d must be a string, not '%s'", i, typeName(item))
		}
	}
	return e.join(items, s)
}

// join joins the printed forms of items.
func (e *evaluator) join(items []any, sep string) (string, error) {
	parts := make([]string, len(items))
	size := len(sep) * max(0, len(items)-1)
	if err := e.charge(len(items)); err != nil {
		return "", err
	}
	for i, item := range items {
		var err error
		if parts[i], err = e.str(item); err != nil {
			return "", err
		}
		size += len(parts[i])
	}
	if err := e.made(size); err != nil {
		return "", err
	}
	return strings.Join(parts, sep), nil
}

// affixMethod is startswith or endswith: the affix may be a tuple of alternatives.
func affixMethod(name string, has func(s, affix string) bool) method {
	return stringMethod(func(e *evaluator, s string, a callArgs) (any, error) {
		b, err := a.bindTo(name, 1, "affix", "start", "end")
		if err != nil {
			return nil, err
		}
		if s, err = b.window(s, 1); err != nil {
			return nil, err
		}
		affixes, ok := b.vals[0].(tuple)
		if !ok {
			affixes = tuple{b.vals[0]}
		}
		for _, v := range affixes {
			affix, ok := v.(string)
			if !ok {
				b.fail(0, "a string or a tuple of strings")
				return nil, b.err
			}
			if err := e.charge(1 + min(len(s), len(affix))/bytesScannedPerStep); err != nil {
				return nil, err
			}
			if has(s, affix) {
				return true, nil
			}
		}
		return false, nil
	})
}

// window applies the optional start and end arguments at i and i+1 to s.
func (b *bound) window(s string, i int) (string, error) {
	if !b.given(i) && !b.given(i+1) {
		return s, nil
	}
	from, _, count, err := sliceBounds(runeCount(s), b.any(i, nil), b.any(i+1, nil), nil)
	return runeSlice(s, from, from+count), err
}

func cutMethod(name string, cut func(s, affix string) string) method {
	return stringMethod(func(_ *evaluator, s string, a callArgs) (any, error) {
		b, err := a.bindTo(name, 1, "affix")
		if err != nil {
			return nil, err
		}
		return cut(s, b.string(0, "")), b.err
	})
}

// findMethod is find or index, from either end; positions count code points.
func findMethod(name string, index func(s, sub string) int, mustFind bool) method {
	return stringMethod(func(_ *evaluator, s string, a callArgs) (any, error) {
		b, err := a.bindTo(name, 1, "sub", "start", "end")
		if err != nil {
			return nil, err
		}
		sub := b.string(0, "")
		if b.err != nil {
			return nil, b.err
		}
		from, _, count, err := sliceBounds(runeCount(s), b.any(1, nil), b.any(2, nil), nil)
		if err != nil {
			return nil, err
		}
		part := runeSlice(s, from, from+count)
		i := index(part, sub)
		switch {
		case i >= 0:
			return int64(from + runeCount(part[:i])), nil
		case mustFind:
			return nil, errors.New("substring not found")
		}
		return int64(-1), nil
	})
}

func countMethod(_ *evaluator, s string, a callArgs) (any, error) {
	b, err := a.bindTo("count", 1, "sub", "start", "end")
	if err != nil {
		return nil, err
	}
	sub := b.string(0, "")
	if s, err = b.window(s, 1); err != nil {
		return nil, err
	}
	return int64(strings.Count(s, sub)), b.err
}

// padMethod widens a string; left tells how many of n fill characters go before it.
func padMethod(name string, left func(n, width int) int) method {
	return stringMethod(func(e *evaluator, s string, a callArgs) (any, error) {
		b, err := a.bindTo(name, 1, "width", "fillchar")
		if err != nil {
			return nil, err
		}
		width, fill := b.int(0, 0), b.string(1, " ")
		if b.err != nil {
			return nil, b.err
		}
		if runeCount(fill) != 1 {
			return nil, errors.New("the fill character must be exactly one character long")
		}
		return e.pad(s, width, fill, left)
	})
}

func (e *evaluator) pad(s string, width int, fill string, left func(n, width int) int) (string, error) {
	n := max(0, width-runeCount(s))
	if err := e.made(len(s) + n*len(fill)); err != nil {
		return "", err
	}
	before := left(n, width)
	return strings.Repeat(fill, before) + s + strings.Repeat(fill, n-before), nil
}

func zfillMethod(e *evaluator, s string, a callArgs) (any, error) {
	b, err := a.bindTo("zfill", 1, "width")
	if err != nil {
		return nil, err
	}
	width := b.int(0, 0)
	if b.err != nil {
		return nil, b.err
	}
	sign := ""
	if s != "" && (s[0] == '-' || s[0] == '+') {
		sign, s = s[:1], s[1:]
	}
	padded, err := e.pad(s, width-len(sign), "0", func(n, _ int) int { return n })
	return sign + padded, err
}
