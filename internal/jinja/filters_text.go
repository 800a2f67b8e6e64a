package jinja

import (
	"errors"
	"strings"
	"unicode"
)

// textFilter applies a case mapping or the like to the printed form of its input.
func textFilter(f func(string) string) filterFunc {
	return func(e *evaluator, v any, a callArgs) (any, error) {
		if _, err := a.bind("filter", 0); err != nil {
			return nil, err
		}
		s, err := e.str(v)
		if err != nil {
			return nil, err
		}
		if err := e.made(2 * len(s)); err != nil {
			return nil, err
		}
		return f(s), nil
	}
}

func escapeHTML(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "'", "&#39;", `"`, "&#34;").Replace(s)
}

// titleWords starts words after blanks, hyphens and opening brackets, which differs
// from the method str.title.
func titleWords(s string) string {
	return titleBy(s, func(r rune) bool { return isSpace(r) || strings.ContainsRune("-({[<", r) }, upper, lower)
}

func filterCenter(e *evaluator, v any, a callArgs) (any, error) {
	b, err := a.bindTo("center", 0, "width")
	if err != nil {
		return nil, err
	}
	width := b.int(0, 80)
	if b.err != nil {
		return nil, b.err
	}
	s, err := e.str(v)
	if err != nil {
		return nil, err
	}
	return e.pad(s, width, " ", centered)
}

// filterFormat is '%'-formatting with arguments.
func filterFormat(e *evaluator, v any, a callArgs) (any, error) {
	format, err := e.str(v)
	if err != nil {
		return nil, err
	}
	if len(a.keywords) == 0 {
		return e.percentFormat(format, tuple(a.positional))
	}
	if len(a.positional) > 0 {
		return nil, errors.New("format: cannot mix positional and keyword arguments")
	}
	d := NewDict(len(a.keywords))
	for _, kw := range a.keywords {
		d.Set(kw.name, kw.val)
	}
	return e.percentFormat(format, d)
}

func filterIndent(e *evaluator, v any, a callArgs) (any, error) {
	b, err := a.bindTo("indent", 0, "width", "first", "blank")
	if err != nil {
		return nil, err
	}
	s, ok := v.(string)
	if !ok {
		return nil, operandOrType("indent", "a string", v)
	}
	indent, isString := b.any(0, int64(4)).(string)
	if !isString {
		width := max(0, b.int(0, 4))
		if b.err != nil {
			return nil, b.err
		}
		if err := e.made(width); err != nil {
			return nil, err
		}
		indent = strings.Repeat(" ", width)
	}
	n := countRunes(s, isLineEnd) + 1
	if err := e.made(len(s) + n*len(indent)); err != nil {
		return nil, err
	}
	if err := e.pieces(n); err != nil {
		return nil, err
	}
	lines := splitLines(s+"\n", false)
	for i, line := range lines {
		switch {
		case i == 0 && !b.bool(1, false):
		case i == 0 || line != "" || b.bool(2, false):
			lines[i] = indent + line
		}
	}
	return strings.Join(lines, "\n"), nil
}

func filterReplace(e *evaluator, v any, a callArgs) (any, error) {
	s, err := e.str(v)
	if err != nil {
		return nil, err
	}
	b, err := a.bindTo("replace", 2, "old", "new", "count")
	if err != nil {
		return nil, err
	}
	old, err := e.str(b.vals[0])
	if err != nil {
		return nil, err
	}
	replacement, err := e.str(b.vals[1])
	if err != nil {
		return nil, err
	}
	count := -1
	if b.any(2, nil) != nil {
		count = b.int(2, -1)
	}
	if b.err != nil {
		return nil, b.err
	}
	return e.replace(s, old, replacement, count)
}

func filterTrim(e *evaluator, v any, a callArgs) (any, error) {
	b, err := a.bindTo("trim", 0, "chars")
	if err != nil {
		return nil, err
	}
	s, err := e.str(v)
	if err != nil {
		return nil, err
	}
	if err := e.scanned(len(s)); err != nil {
		return nil, err
	}
	return strip(s, b.any(0, nil), true, true)
}

func filterTruncate(e *evaluator, v any, a callArgs) (any, error) {
	b, err := a.bindTo("truncate", 0, "length", "killwords", "end", "leeway")
	if err != nil {
		return nil, err
	}
	s, ok := v.(string)
	if !ok {
		return nil, operandOrType("truncate", "a string", v)
	}
	length, end, leeway := b.int(0, 255), b.string(2, "..."), 5
	if b.any(3, nil) != nil {
		leeway = b.int(3, 5)
	}
	room := length - runeCount(end)
	switch {
	case b.err != nil:
		return nil, b.err
	case room < 0 || leeway < 0:
		return nil, errors.New("truncate: length must cover end, and leeway must not be negative")
	case runeCount(s) <= length+leeway:
		return s, nil
	}
	cut := runeSlice(s, 0, room)
	if !b.bool(1, false) {
		if i := strings.LastIndexByte(cut, ' '); i >= 0 {
			cut = cut[:i]
		}
	}
	return cut + end, e.made(len(cut) + len(end))
}

func filterWordCount(e *evaluator, v any, _ callArgs) (any, error) {
	s, err := e.str(v)
	if err != nil {
		return nil, err
	}
	if err := e.scanned(len(s)); err != nil {
		return nil, err
	}
	words := strings.FieldsFuncSeq(s, func(r rune) bool {
		return r != '_' && !unicode.IsLetter(r) && !unicode.IsNumber(r)
	})
	n := int64(0)
	for range words {
		n++
	}
	return n, nil
}
