package jinja

import (
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// str is Python's str(): what a value prints as.
func (e *evaluator) str(v any) (string, error) {
	switch v := v.(type) {
	case string:
		return v, nil
	case undefined:
		return "", nil
	}
	var b strings.Builder
	w := reprWriter{e: e, out: &b, js: e.js}
	err := w.repr(v, 0)
	return b.String(), err
}

// reprWriter writes Python's repr() of values; in the JS dialect JSON instead.
type reprWriter struct {
	e   *evaluator
	out *strings.Builder
	js  bool
}

// put charges for and writes s.
func (w *reprWriter) put(s string) error {
	if w.out.Len()+len(s) > w.e.limits.OutputBytesMax {
		return errorf(LimitError, "string exceeds the limit of %d bytes", w.e.limits.OutputBytesMax)
	}
	if err := w.e.charge(1 + len(s)/bytesMadePerStep); err != nil {
		return err
	}
	w.out.WriteString(s)
	return nil
}

func (w *reprWriter) repr(v any, depth int) error {
	if depth > w.e.limits.DepthMax {
		return errorf(LimitError, "value is nested more than %d levels deep", w.e.limits.DepthMax)
	}
	switch v := v.(type) {
	case string:
		if w.js {
			return w.put(quoteJSON(v, false))
		}
		return w.put(reprString(v))
	case []any:
		return w.items("[", v, "]", depth)
	case tuple:
		switch {
		case w.js:
			return w.items("[", v, "]", depth)
		case len(v) == 1:
			return w.items("(", v, ",)", depth)
		}
		return w.items("(", v, ")", depth)
	case *Dict:
		return w.dict(v, depth)
	case view:
		return w.items(v.name+"([", v.items, "])", depth)
	case group:
		return w.items("(", []any{v.grouper, v.list}, ")", depth)
	}
	return w.put(scalarText(v, w.js))
}

// scalarText is the repr of a value that is not a container.
func scalarText(v any, js bool) string {
	switch v := v.(type) {
	case nil:
		if js {
			return "null"
		}
		return "None"
	case bool:
		switch {
		case js:
			return strconv.FormatBool(v)
		case v:
			return "True"
		}
		return "False"
	case int64:
		return strconv.FormatInt(v, 10)
	case *big.Int:
		return v.String()
	case float64:
		return formatFloat(v)
	case undefined:
		if js {
			return "undefined"
		}
		return "Undefined"
	case rangeValue:
		if v.step == 1 {
			return fmt.Sprintf("range(%d, %d)", v.start, v.stop)
		}
		return fmt.Sprintf("range(%d, %d, %d)", v.start, v.stop, v.step)
	case *macro:
		return "<Macro " + reprString(v.def.name) + ">"
	case *function:
		return "<function " + v.name + ">"
	}
	return "<" + typeName(v) + " object>"
}

func (w *reprWriter) items(open string, items []any, end string, depth int) error {
	if err := w.put(open); err != nil {
		return err
	}
	for i, item := range items {
		if i > 0 {
			if err := w.put(", "); err != nil {
				return err
			}
		}
		if err := w.repr(item, depth+1); err != nil {
			return err
		}
	}
	return w.put(end)
}

func (w *reprWriter) dict(d *Dict, depth int) error {
	sep := "{"
	for i, k := range d.keys {
		if err := w.put(sep); err != nil {
			return err
		}
		sep = ", "
		if err := w.repr(k, depth+1); err != nil {
			return err
		}
		if err := w.put(": "); err != nil {
			return err
		}
		if err := w.repr(d.vals[i], depth+1); err != nil {
			return err
		}
	}
	if sep == "{" {
		return w.put("{}")
	}
	return w.put("}")
}

// formatFloat is Python's repr of a float: the shortest digits that round-trip, in
// scientific notation below 1e-4 and from 1e16.
func formatFloat(f float64) string {
	switch {
	case math.IsInf(f, 1):
		return "inf"
	case math.IsInf(f, -1):
		return "-inf"
	case f != f:
		return "nan"
	}
	if abs := math.Abs(f); abs != 0 && (abs < 1e-4 || abs >= 1e16) {
		return strconv.FormatFloat(f, 'e', -1, 64)
	}
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// reprString is Python's repr of a str: single quotes unless only they occur inside.
func reprString(s string) string {
	quote := byte('\'')
	if strings.Contains(s, "'") && !strings.Contains(s, `"`) {
		quote = '"'
	}
	var b strings.Builder
	b.Grow(len(s) + 2)
	b.WriteByte(quote)
	for _, r := range s {
		switch {
		case r == rune(quote) || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == '\r':
			b.WriteString(`\r`)
		case r < utf8.RuneSelf && r >= ' ' && r != 0x7f, r >= utf8.RuneSelf && unicode.IsPrint(r):
			b.WriteRune(r)
		case r < 0x100:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r < 0x10000:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
	}
	b.WriteByte(quote)
	return b.String()
}
