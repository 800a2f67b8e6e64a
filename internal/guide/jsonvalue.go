package guide

import (
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// jsonValue is a JSON value that keeps the order of properties and the text of numbers.
type jsonValue struct {
	kind   jsonKind
	text   string // of a string, or of a number as written
	number *big.Rat
	items  []*jsonValue
	names  []string // of an object, in order
	fields map[string]*jsonValue
}

type jsonKind uint8

const (
	jsonNull jsonKind = iota
	jsonFalse
	jsonTrue
	jsonNumber
	jsonText
	jsonArray
	jsonMap
)

func (k jsonKind) String() string {
	return [...]string{"null", "false", "true", "a number", "a string", "an array", "an object"}[k]
}

// numberTextMax bounds the digits and the exponent of numbers in a schema.
const numberTextMax = 64

// parseJSON reads one JSON value. It panics with *Error.
func parseJSON(source string) *jsonValue {
	if !utf8.ValidString(source) {
		panic(&Error{At: "#", Problem: "the schema is not valid UTF-8"})
	}
	d := json.NewDecoder(strings.NewReader(source))
	d.UseNumber()
	p := &jsonParser{d: d}
	v := p.value("#", 0)
	if _, err := d.Token(); err != io.EOF {
		panic(&Error{At: "#", Problem: fmt.Sprintf("text after the schema at byte %d", d.InputOffset())})
	}
	return v
}

type jsonParser struct{ d *json.Decoder }

func (p *jsonParser) token(at string) json.Token {
	t, err := p.d.Token()
	if err != nil {
		panic(&Error{At: at, Problem: fmt.Sprintf("the schema is not valid JSON at byte %d: %v", p.d.InputOffset(), err)})
	}
	return t
}

func (p *jsonParser) value(at string, depth int) *jsonValue {
	if depth > schemaDepthMax {
		panic(&Error{At: at, Problem: fmt.Sprintf("the schema nests deeper than %d levels", schemaDepthMax),
			Hint: "make it flatter, or use $defs"})
	}
	switch t := p.token(at).(type) {
	case nil:
		return &jsonValue{kind: jsonNull}
	case bool:
		if t {
			return &jsonValue{kind: jsonTrue}
		}
		return &jsonValue{kind: jsonFalse}
	case string:
		return &jsonValue{kind: jsonText, text: t}
	case json.Number:
		return &jsonValue{kind: jsonNumber, text: t.String(), number: parseNumber(at, t.String())}
	case json.Delim:
		if t == '[' {
			return p.array(at, depth)
		}
		if t == '{' {
			return p.object(at, depth)
		}
	}
	panic(&Error{At: at, Problem: fmt.Sprintf("the schema is not valid JSON at byte %d", p.d.InputOffset())})
}

func (p *jsonParser) array(at string, depth int) *jsonValue {
	v := &jsonValue{kind: jsonArray}
	for p.d.More() {
		v.items = append(v.items, p.value(at+"/"+strconv.Itoa(len(v.items)), depth+1))
	}
	p.token(at)
	return v
}

func (p *jsonParser) object(at string, depth int) *jsonValue {
	v := &jsonValue{kind: jsonMap, fields: map[string]*jsonValue{}}
	for p.d.More() {
		name, ok := p.token(at).(string)
		if !ok {
			panic(&Error{At: at, Problem: "the schema is not valid JSON: a name must be a string"})
		}
		if v.fields[name] != nil {
			panic(&Error{At: join(at, name), Problem: "the name appears twice", Hint: "remove one"})
		}
		v.names = append(v.names, name)
		v.fields[name] = p.value(join(at, name), depth+1)
	}
	p.token(at)
	return v
}

// parseNumber reads a number exactly.
func parseNumber(at, text string) *big.Rat {
	exponent := 0
	if i := strings.IndexAny(text, "eE"); i >= 0 {
		exponent, _ = strconv.Atoi(text[i+1:])
	}
	r, ok := new(big.Rat), false
	if len(text) <= numberTextMax && exponent <= 400 && exponent >= -400 {
		r, ok = r.SetString(text)
	}
	if !ok {
		panic(&Error{At: at, Problem: fmt.Sprintf("the number %.40s is too long or out of range", text)})
	}
	return r
}

// join appends a reference token to a JSON pointer (RFC 6901).
func join(at, name string) string {
	return at + "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
}

// equal compares values as JSON Schema does: numbers by value, objects without order.
func (v *jsonValue) equal(w *jsonValue) bool {
	if v.kind != w.kind || len(v.items) != len(w.items) || len(v.names) != len(w.names) {
		return false
	}
	switch v.kind {
	case jsonNumber:
		return v.number.Cmp(w.number) == 0
	case jsonText:
		return v.text == w.text
	case jsonArray:
		return slices.EqualFunc(v.items, w.items, (*jsonValue).equal)
	case jsonMap:
		for name, x := range v.fields {
			if y := w.fields[name]; y == nil || !x.equal(y) {
				return false
			}
		}
	}
	return true
}

// key is a text that two values share if and only if they are equal.
func (v *jsonValue) key() string {
	switch v.kind {
	case jsonNumber:
		return v.number.RatString()
	case jsonText:
		return quote(v.text)
	}
	var b strings.Builder
	b.WriteString(strconv.Itoa(int(v.kind)) + "(")
	for _, x := range v.items {
		b.WriteString(x.key() + ",")
	}
	names := slices.Sorted(slices.Values(v.names))
	for _, name := range names {
		b.WriteString(quote(name) + ":" + v.fields[name].key() + ",")
	}
	b.WriteString(")")
	return b.String()
}

// quote returns s as a JSON string with no more escapes than needed.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < 0x20:
			if i := strings.IndexRune("\b\f\n\r\t", r); i >= 0 {
				b.WriteString(`\` + "bfnrt"[i:i+1])
			} else {
				fmt.Fprintf(&b, `\u%04x`, r)
			}
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
