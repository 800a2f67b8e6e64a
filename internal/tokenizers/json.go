package tokenizers

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// value is one value of a JSON document that parseJSON has checked: its bytes, and the path that leads to it,
// for errors. It is decoded only when asked, so that large tables are read once and without reflection.
type value struct {
	raw  string
	path string
}

// FieldError says which field of a tokenizer.json is wrong, and how.
type FieldError struct {
	// Path leads to the field, as in model.vocab["foo"] or added_tokens[3].id.
	Path string
	// Problem says what is wrong with it.
	Problem string
}

func (e *FieldError) Error() string {
	if e.Path == "" {
		return "tokenizer.json: " + e.Problem
	}
	return "tokenizer.json: " + e.Path + ": " + e.Problem
}

func (v value) errorf(format string, args ...any) error {
	return &FieldError{v.path, fmt.Sprintf(format, args...)}
}

func (v value) want(what string) error {
	return v.errorf("want %s, found %s", what, v.kind())
}

// parseJSON checks that data is one well-formed JSON value.
func parseJSON(data []byte) (value, error) {
	if !utf8.Valid(data) {
		return value{}, &FieldError{"", "not valid UTF-8"}
	}
	text := string(data)
	c := checker{text: strings.TrimPrefix(text, "\ufeff")}
	c.space()
	start := c.pos
	if err := c.value(0); err != nil {
		return value{}, &FieldError{"", fmt.Sprintf("malformed JSON at byte %d: %v", c.pos, err)}
	}
	end := c.pos
	c.space()
	if c.pos < len(c.text) {
		return value{}, &FieldError{"", fmt.Sprintf("malformed JSON at byte %d: text after the end", c.pos)}
	}
	return value{raw: c.text[start:end]}, nil
}

// kind names the type of v.
func (v value) kind() string {
	if v.raw == "" {
		return "no such field"
	}
	switch v.raw[0] {
	case '{':
		return "an object"
	case '[':
		return "an array"
	case '"':
		return "a string"
	case 't', 'f':
		return "a boolean"
	case 'n':
		return "null"
	}
	return "a number"
}

func (v value) isNull() bool   { return v.raw == "" || v.raw == "null" }
func (v value) isObject() bool { return v.raw != "" && v.raw[0] == '{' }
func (v value) isArray() bool  { return v.raw != "" && v.raw[0] == '[' }

// each calls yield for every member of an object, in order.
func (v value) each(yield func(key string, member value) error) error {
	if !v.isObject() {
		return v.want("an object")
	}
	c := checker{text: v.raw, pos: 1}
	for c.space(); c.text[c.pos] != '}'; c.space() {
		if c.text[c.pos] == ',' {
			c.pos++
			c.space()
		}
		start := c.pos
		c.skip()
		key, err := value{c.text[start:c.pos], v.path}.str()
		if err != nil {
			return err
		}
		c.space()
		c.pos++ // the colon
		c.space()
		start = c.pos
		c.skip()
		if err := yield(key, value{raw: c.text[start:c.pos]}); err != nil {
			return err
		}
	}
	return nil
}

// member returns the path of a member of v, which each leaves out to save time on large objects.
func (v value) member(key string) string {
	if v.path == "" {
		return key
	}
	if strings.Trim(key, "abcdefghijklmnopqrstuvwxyz_ABCDEFGHIJKLMNOPQRSTUVWXYZ") == "" && key != "" {
		return v.path + "." + key
	}
	return fmt.Sprintf("%s[%.80q]", v.path, key)
}

// object is a small object, split into its members; of a repeated key the last counts.
type object struct {
	value
	members map[string]value
}

func (v value) object() (object, error) {
	o := object{v, map[string]value{}}
	err := v.each(func(key string, member value) error {
		member.path = v.member(key)
		o.members[key] = member
		return nil
	})
	return o, err
}

// at returns a member, or a value without text if there is none.
func (o object) at(key string) value {
	if v, ok := o.members[key]; ok {
		return v
	}
	return value{path: o.member(key)}
}

// flag decodes a boolean member that may be missing or null.
func (o object) flag(key string, otherwise bool) (bool, error) {
	if v := o.at(key); !v.isNull() {
		return v.boolean()
	}
	return otherwise, nil
}

// optional decodes a string member that may be missing or null, which gives the empty string.
func (o object) optional(key string) (string, error) {
	if v := o.at(key); !v.isNull() {
		return v.str()
	}
	return "", nil
}

// items calls yield for every element of an array, in order.
func (v value) items(yield func(i int, item value) error) error {
	if !v.isArray() {
		return v.want("an array")
	}
	c := checker{text: v.raw, pos: 1}
	i := 0
	for c.space(); c.text[c.pos] != ']'; c.space() {
		if c.text[c.pos] == ',' {
			c.pos++
			c.space()
		}
		start := c.pos
		c.skip()
		if err := yield(i, value{raw: c.text[start:c.pos]}); err != nil {
			return err
		}
		i++
	}
	return nil
}

// element returns the path of an element of v, which items leaves out.
func (v value) element(i int) string { return v.path + "[" + strconv.Itoa(i) + "]" }

// list returns the elements of an array that is expected to be short.
func (v value) list() ([]value, error) {
	var out []value
	err := v.items(func(i int, item value) error {
		item.path = v.element(i)
		out = append(out, item)
		return nil
	})
	return out, err
}

// str decodes a string.
func (v value) str() (string, error) {
	if v.raw == "" || v.raw[0] != '"' {
		return "", v.want("a string")
	}
	body := v.raw[1 : len(v.raw)-1]
	if strings.IndexByte(body, '\\') < 0 {
		return body, nil
	}
	var b strings.Builder
	b.Grow(len(body))
	for {
		i := strings.IndexByte(body, '\\')
		if i < 0 {
			b.WriteString(body)
			return b.String(), nil
		}
		b.WriteString(body[:i])
		escape := body[i+1]
		body = body[i+2:]
		if escape != 'u' {
			const from, to = `"\/bfnrt`, "\"\\/\b\f\n\r\t"
			b.WriteByte(to[strings.IndexByte(from, escape)])
			continue
		}
		r := hex4(body)
		body = body[4:]
		if utf16.IsSurrogate(r) {
			low := rune(0)
			if strings.HasPrefix(body, `\u`) {
				low = hex4(body[2:])
			}
			if r = utf16.DecodeRune(r, low); r == utf8.RuneError {
				return "", v.errorf("string has an unpaired surrogate escape")
			}
			body = body[6:]
		}
		b.WriteRune(r)
	}
}

func hex4(s string) rune {
	n, _ := strconv.ParseUint(s[:4], 16, 32) // the checker saw four hexadecimal digits
	return rune(n)
}

func (v value) boolean() (bool, error) {
	switch v.raw {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, v.want("true or false")
}

// integer decodes a whole number from 0 to most.
func (v value) integer(most int64) (int64, error) {
	n, err := strconv.ParseInt(v.raw, 10, 64)
	if err != nil || n < 0 || n > most {
		found := v.raw
		if len(found) > 30 {
			found = found[:30] + "…"
		}
		return 0, v.errorf("want non-negative integer up to %d, found %s", most, found)
	}
	return n, nil
}

func (v value) float() (float64, error) {
	if v.raw == "" || v.raw[0] != '-' && (v.raw[0] < '0' || v.raw[0] > '9') {
		return 0, v.want("a number")
	}
	return looseFloat(v.raw), nil
}

// looseFloat reads a well-formed JSON number as Rust's serde_json does by default: the digits as one integer,
// cut off where it would exceed 64 bits, times or divided by a power of ten. The result can differ from the
// nearest float64 in its last bit, which decides between ways to cut a text that are otherwise equally good.
func looseFloat(text string) float64 {
	text, negative := strings.CutPrefix(text, "-")
	mantissa, exponentText, _ := strings.Cut(strings.ToLower(text), "e")
	exponent, err := strconv.Atoi(exponentText)
	if err != nil {
		exponent = 0 // there is none: the number is well-formed and in range
	}
	whole, fraction, _ := strings.Cut(mantissa, ".")
	significand, full := uint64(0), false
	for i, digit := range []byte(whole + fraction) {
		high, low := bits.Mul64(significand, 10)
		sum, carry := bits.Add64(low, uint64(digit-'0'), 0)
		full = full || high+carry != 0
		switch {
		case !full:
			significand = sum
			if i >= len(whole) {
				exponent--
			}
		case i < len(whole):
			exponent++
		}
	}
	f := float64(significand)
	for ; exponent < -308 && f != 0; exponent += 308 {
		f /= 1e308
	}
	if power, err := strconv.ParseFloat("1e"+strconv.Itoa(max(exponent, -exponent)), 64); err == nil {
		if exponent < 0 {
			f /= power
		} else {
			f *= power
		}
	}
	if negative {
		return -f
	}
	return f
}

// oneRune decodes a string of exactly one character.
func (v value) oneRune() (rune, error) {
	s, err := v.str()
	if err != nil {
		return 0, err
	}
	r, width := utf8.DecodeRuneInString(s)
	if width == 0 || width != len(s) {
		return 0, v.errorf("want a single character, found %.40q", s)
	}
	return r, nil
}
