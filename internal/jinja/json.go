package jinja

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// jsonDepthMax bounds the nesting of documents that FromJSON reads.
const jsonDepthMax = 500

// FromJSON decodes a document into the values templates work with: nil, bool, int64
// (or *big.Int beyond 64 bits), float64 (numbers with a fraction or exponent),
// string, []any and *[Dict], which keeps the order of keys. Of a repeated key the
// last value counts.
func FromJSON(data []byte) (any, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	v, err := decodeJSON(dec, 0)
	if err != nil {
		return nil, fmt.Errorf("jinja: invalid JSON at byte %d: %w", dec.InputOffset(), err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, fmt.Errorf("jinja: invalid JSON at byte %d: data after the document", dec.InputOffset())
	}
	return v, nil
}

func decodeJSON(dec *json.Decoder, depth int) (any, error) {
	if depth > jsonDepthMax {
		return nil, fmt.Errorf("nested more than %d levels deep", jsonDepthMax)
	}
	t, err := dec.Token()
	if err == io.EOF {
		return nil, io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, err
	}
	switch t := t.(type) {
	case json.Number:
		return parseNumber(string(t))
	case json.Delim:
		if t == '[' {
			list := []any{}
			for dec.More() {
				v, err := decodeJSON(dec, depth+1)
				if err != nil {
					return nil, err
				}
				list = append(list, v)
			}
			_, err := dec.Token()
			return list, err
		}
		d := NewDict(4)
		for dec.More() {
			key, err := dec.Token()
			if err != nil {
				return nil, err
			}
			name, ok := key.(string)
			if !ok {
				return nil, errors.New("object key is not a string")
			}
			v, err := decodeJSON(dec, depth+1)
			if err != nil {
				return nil, err
			}
			d.Set(name, v)
		}
		_, err := dec.Token()
		return d, err
	}
	return t, nil
}

func parseNumber(s string) (any, error) {
	if !strings.ContainsAny(s, ".eE") {
		v, ok := parseInt(s, 10)
		if !ok {
			return nil, fmt.Errorf("integer has more than %d digits", intDigitsMax)
		}
		return v, nil
	}
	f, _ := strconv.ParseFloat(s, 64) // out of range is infinite, as in Python
	return f, nil
}

// UnmarshalJSON reads an object with [FromJSON].
func (d *Dict) UnmarshalJSON(data []byte) error {
	v, err := FromJSON(data)
	if err != nil {
		return err
	}
	read, ok := v.(*Dict)
	if !ok {
		return fmt.Errorf("jinja: expected a JSON object, got %s", typeName(v))
	}
	*d = *read
	return nil
}

// MarshalJSON writes the entries in their order. Keys must be strings.
func (d Dict) MarshalJSON() ([]byte, error) {
	out := []byte{'{'}
	for i, k := range d.keys {
		name, ok := k.(string)
		if !ok {
			return nil, fmt.Errorf("jinja: cannot convert a '%s' key to JSON", typeName(k))
		}
		v, err := json.Marshal(d.vals[i])
		if err != nil {
			return nil, err
		}
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, quoteJSON(name, false)...)
		out = append(append(out, ':'), v...)
	}
	return append(out, '}'), nil
}

// jsonWriter writes values as Python's json.dumps does.
type jsonWriter struct {
	reprWriter
	ascii            bool
	sorted           bool
	indent           *string // nil for one line
	itemSep, pairSep string
}

func (w *jsonWriter) value(v any, depth int) error {
	if depth > w.e.limits.DepthMax {
		return errorf(LimitError, "value is nested more than %d levels deep", w.e.limits.DepthMax)
	}
	switch v := v.(type) {
	case string:
		return w.put(quoteJSON(v, w.ascii))
	case []any:
		return w.list(v, depth)
	case tuple:
		return w.list(v, depth)
	case group:
		return w.list([]any{v.grouper, v.list}, depth)
	case *Dict:
		return w.object(v, depth)
	case float64:
		return w.put(jsonFloat(v))
	case undefined:
		if w.js {
			return w.put("null")
		}
		return errors.New("cannot convert to JSON: " + v.why)
	case nil, bool, int64:
		return w.put(scalarText(v, true))
	}
	if typeName(v) == "int" {
		return w.put(scalarText(v, true))
	}
	return fmt.Errorf("cannot convert '%s' to JSON", typeName(v))
}

func jsonFloat(f float64) string {
	switch s := formatFloat(f); s {
	case "inf":
		return "Infinity"
	case "-inf":
		return "-Infinity"
	case "nan":
		return "NaN"
	default:
		return s
	}
}

// newline starts the line of an element in indented output.
func (w *jsonWriter) newline(depth int) error {
	if w.indent == nil {
		return nil
	}
	if err := w.e.made(len(*w.indent) * depth); err != nil {
		return err
	}
	return w.put("\n" + strings.Repeat(*w.indent, depth))
}

// elements writes n elements between brackets.
func (w *jsonWriter) elements(open, end string, n, depth int, element func(i int) error) error {
	if n == 0 {
		return w.put(open + end)
	}
	if err := w.put(open); err != nil {
		return err
	}
	for i := range n {
		if i > 0 {
			if err := w.put(w.itemSep); err != nil {
				return err
			}
		}
		if err := w.newline(depth + 1); err != nil {
			return err
		}
		if err := element(i); err != nil {
			return err
		}
	}
	if err := w.newline(depth); err != nil {
		return err
	}
	return w.put(end)
}

func (w *jsonWriter) list(items []any, depth int) error {
	return w.elements("[", "]", len(items), depth, func(i int) error {
		return w.value(items[i], depth+1)
	})
}

func (w *jsonWriter) object(d *Dict, depth int) error {
	order := make([]int, d.Len())
	for i := range order {
		order[i] = i
	}
	if w.sorted {
		if err := w.e.sortBy(order, false, func(i int) any { return d.keys[i] }); err != nil {
			return err
		}
	}
	return w.elements("{", "}", d.Len(), depth, func(i int) error {
		var name string
		switch k := d.keys[order[i]].(type) {
		case string:
			name = k
		case float64:
			name = jsonFloat(k)
		case nil, bool, int64:
			name = scalarText(k, true)
		default:
			return fmt.Errorf("cannot convert a '%s' key to JSON", typeName(k))
		}
		if err := w.put(quoteJSON(name, w.ascii)); err != nil {
			return err
		}
		if err := w.put(w.pairSep); err != nil {
			return err
		}
		return w.value(d.vals[order[i]], depth+1)
	})
}

// quoteJSON quotes s with only the escapes that Python's json writes.
func quoteJSON(s string, ascii bool) string {
	var b strings.Builder
	b.Grow(len(s) + 2)
	b.WriteByte('"')
	plain := 0 // start of the run not yet written
	for i := 0; i < len(s); {
		r, size := rune(s[i]), 1
		if r >= utf8.RuneSelf && ascii {
			r, size = utf8.DecodeRuneInString(s[i:])
		}
		if r >= ' ' && r != '"' && r != '\\' && !(ascii && r >= 0x7f) {
			i += size
			continue
		}
		b.WriteString(s[plain:i])
		i += size
		plain = i
		escapeJSON(&b, r)
	}
	b.WriteString(s[plain:])
	b.WriteByte('"')
	return b.String()
}

func escapeJSON(b *strings.Builder, r rune) {
	if i := strings.IndexRune("\"\\\n\r\t\b\f", r); i >= 0 {
		b.WriteByte('\\')
		b.WriteByte(`"\nrtbf`[i])
		return
	}
	if r >= 0x10000 {
		r -= 0x10000
		fmt.Fprintf(b, `\u%04x\u%04x`, 0xd800+(r>>10), 0xdc00+(r&0x3ff))
		return
	}
	fmt.Fprintf(b, `\u%04x`, r)
}
