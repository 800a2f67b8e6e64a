package jinja

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// formatMethod is str.format. Fields are positions or names; they cannot reach into
// attributes.
func formatMethod(e *evaluator, s string, a callArgs) (any, error) {
	var out strings.Builder
	w := reprWriter{e: e, out: &out}
	next := 0
	for s != "" {
		i := strings.IndexAny(s, "{}")
		if i < 0 {
			return out.String() + s, e.made(len(s))
		}
		if err := w.put(s[:i]); err != nil {
			return nil, err
		}
		brace := s[i : i+1]
		s = s[i+1:]
		if strings.HasPrefix(s, brace) { // doubled
			if err := w.put(brace); err != nil {
				return nil, err
			}
			s = s[1:]
			continue
		}
		end := strings.IndexByte(s, '}')
		if brace == "}" || end < 0 {
			return nil, fmt.Errorf("single '%s' in format string", brace)
		}
		text, err := e.formatField(s[:end], a, &next)
		if err != nil {
			return nil, err
		}
		if err := w.put(text); err != nil {
			return nil, err
		}
		s = s[end+1:]
	}
	return out.String(), nil
}

// formatField renders 'name!r:spec'.
func (e *evaluator) formatField(field string, a callArgs, next *int) (string, error) {
	field, specText, _ := strings.Cut(field, ":")
	name, conversion, hasConversion := strings.Cut(field, "!")
	if err := e.charge(len(a.keywords)); err != nil {
		return "", err
	}
	v, err := fieldValue(name, a, next)
	if err != nil {
		return "", err
	}
	if hasConversion {
		if conversion != "r" && conversion != "s" {
			return "", errors.New("format conversion must be !r or !s")
		}
		if v, err = e.conversion(v, conversion[0]); err != nil {
			return "", err
		}
	}
	if specText == "" {
		return e.str(v)
	}
	spec, err := parseSpec(specText)
	if err != nil {
		return "", err
	}
	if text, ok := v.(string); ok {
		if spec.verb != 0 && spec.verb != 's' {
			return "", fmt.Errorf("unsupported format character '%c' for a string", spec.verb)
		}
		return spec.padText(text), nil
	}
	if b, ok := v.(bool); ok && spec.verb == 0 {
		return spec.padText(scalarText(b, e.js)), nil
	}
	return spec.number(v)
}

func fieldValue(name string, a callArgs, next *int) (any, error) {
	index, rest := leadingInt(name, -1)
	switch {
	case name == "":
		index = *next
		*next++
	case rest != "":
		for _, kw := range a.keywords {
			if kw.name == name {
				return kw.val, nil
			}
		}
		return nil, fmt.Errorf("format has no value for '%s'", name)
	}
	if index < 0 || index >= len(a.positional) {
		return nil, errors.New("not enough arguments for format string")
	}
	return a.positional[index], nil
}

// parseSpec reads '[[fill]align][sign][#][0][width][,][.precision][type]'.
func parseSpec(s string) (formatSpec, error) {
	f := formatSpec{fill: " ", precision: -1}
	const aligns = "<>^="
	_, size := utf8.DecodeRuneInString(s)
	switch {
	case len(s) > size && strings.IndexByte(aligns, s[size]) >= 0:
		f.fill, f.align, s = s[:size], s[size], s[size+1:]
	case strings.IndexByte(aligns, s[0]) >= 0:
		f.align, s = s[0], s[1:]
	}
	if s != "" && strings.IndexByte("+- ", s[0]) >= 0 {
		if s[0] != '-' {
			f.sign = s[0]
		}
		s = s[1:]
	}
	if f.alternate = strings.HasPrefix(s, "#"); f.alternate {
		s = s[1:]
	}
	if strings.HasPrefix(s, "0") && f.align == 0 {
		f.fill, f.align, s = "0", '=', s[1:]
	}
	width, rest := leadingInt(s, 0)
	if rest != "" && (rest[0] == ',' || rest[0] == '_') {
		f.group, rest = rest[:1], rest[1:]
	}
	s, err := f.size(rest)
	f.width = width
	switch {
	case err != nil:
		return f, err
	case width > formatWidthMax:
		return f, fmt.Errorf("format width exceeds %d", formatWidthMax)
	case len(s) > 1:
		return f, errors.New("invalid format specifier")
	case s != "":
		f.verb = s[0]
	}
	return f, nil
}
