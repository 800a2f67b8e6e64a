package guide

import (
	"encoding/json"
	"math/big"
	"net/mail"
	"net/netip"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// validator is a small JSON Schema validator, written apart from the compiler as its oracle. Values are as
// encoding/json decodes them, numbers as json.Number.
type validator struct{ root any }

func decode(text string) (any, error) {
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	return v, nil
}

func (w validator) valid(schema, v any) bool {
	if b, ok := schema.(bool); ok {
		return b
	}
	s := schema.(map[string]any)
	if ref, ok := s["$ref"].(string); ok {
		target := w.root
		for _, token := range strings.Split(ref, "/")[1:] {
			target = target.(map[string]any)[token]
		}
		if !w.valid(target, v) {
			return false
		}
	}
	count := func(list any) (n int) {
		for _, sub := range list.([]any) {
			if w.valid(sub, v) {
				n++
			}
		}
		return n
	}
	if l, ok := s["allOf"]; ok && count(l) != len(l.([]any)) {
		return false
	}
	if l, ok := s["anyOf"]; ok && count(l) == 0 {
		return false
	}
	if l, ok := s["oneOf"]; ok && count(l) != 1 {
		return false
	}
	if t, ok := s["type"]; ok && !hasType(t, v) {
		return false
	}
	if c, ok := s["const"]; ok && !sameValue(c, v) {
		return false
	}
	if e, ok := s["enum"]; ok && !slices.ContainsFunc(e.([]any), func(x any) bool { return sameValue(x, v) }) {
		return false
	}
	switch v := v.(type) {
	case json.Number:
		return validNumber(s, rat(v.String()))
	case string:
		return validString(s, v)
	case []any:
		return w.validArray(s, v)
	case map[string]any:
		return w.validObject(s, v)
	}
	return true
}

func hasType(t, v any) bool {
	if list, ok := t.([]any); ok {
		return slices.ContainsFunc(list, func(t any) bool { return hasType(t, v) })
	}
	switch v := v.(type) {
	case nil:
		return t == "null"
	case bool:
		return t == "boolean"
	case json.Number:
		return t == "number" || t == "integer" && rat(v.String()).IsInt()
	case string:
		return t == "string"
	case []any:
		return t == "array"
	}
	return t == "object"
}

func sameValue(a, b any) bool {
	x, okX := a.(json.Number)
	y, okY := b.(json.Number)
	if okX && okY {
		return rat(x.String()).Cmp(rat(y.String())) == 0
	}
	return reflect.DeepEqual(a, b)
}

func validNumber(s map[string]any, v *big.Rat) bool {
	for name, ok := range map[string]func(int) bool{
		"minimum":          func(c int) bool { return c >= 0 },
		"exclusiveMinimum": func(c int) bool { return c > 0 },
		"maximum":          func(c int) bool { return c <= 0 },
		"exclusiveMaximum": func(c int) bool { return c < 0 },
	} {
		if bound, has := s[name]; has && !ok(v.Cmp(rat(bound.(json.Number).String()))) {
			return false
		}
	}
	return true
}

// inCounts checks n against two keywords.
func inCounts(s map[string]any, n int, low, high string) bool {
	if k, ok := s[low]; ok && rat(k.(json.Number).String()).Cmp(big.NewRat(int64(n), 1)) > 0 {
		return false
	}
	k, ok := s[high]
	return !ok || rat(k.(json.Number).String()).Cmp(big.NewRat(int64(n), 1)) >= 0
}

func validString(s map[string]any, v string) bool {
	if !utf8.ValidString(v) || !inCounts(s, utf8.RuneCountInString(v), "minLength", "maxLength") {
		return false
	}
	if p, ok := s["pattern"]; ok && !regexp.MustCompile(p.(string)).MatchString(v) {
		return false
	}
	var err error
	switch s["format"] {
	case "date-time":
		_, err = time.Parse(time.RFC3339Nano, v)
	case "date":
		_, err = time.Parse(time.DateOnly, v)
	case "time":
		_, err = time.Parse("15:04:05.999999999Z07:00", v)
	case "email":
		_, err = mail.ParseAddress(v)
	case "ipv4", "ipv6":
		var a netip.Addr
		a, err = netip.ParseAddr(v)
		return err == nil && a.Is4() == (s["format"] == "ipv4")
	case "uri":
		var u *url.URL
		u, err = url.Parse(v)
		return err == nil && u.IsAbs()
	case "uuid":
		return regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`).MatchString(v)
	}
	return err == nil
}

func (w validator) validArray(s map[string]any, v []any) bool {
	if !inCounts(s, len(v), "minItems", "maxItems") {
		return false
	}
	prefix, _ := s["prefixItems"].([]any)
	for i, item := range v {
		if i < len(prefix) {
			if !w.valid(prefix[i], item) {
				return false
			}
		} else if rest, ok := s["items"]; ok && !w.valid(rest, item) {
			return false
		}
	}
	return true
}

func (w validator) validObject(s map[string]any, v map[string]any) bool {
	required, _ := s["required"].([]any)
	for _, name := range required {
		if _, ok := v[name.(string)]; !ok {
			return false
		}
	}
	if !inCounts(s, len(v), "minProperties", "maxProperties") {
		return false
	}
	properties, _ := s["properties"].(map[string]any)
	patterns, _ := s["patternProperties"].(map[string]any)
	for name, value := range v {
		known := false
		if p, ok := properties[name]; ok {
			if known = true; !w.valid(p, value) {
				return false
			}
		}
		for pattern, p := range patterns {
			if regexp.MustCompile(pattern).MatchString(name) {
				if known = true; !w.valid(p, value) {
					return false
				}
			}
		}
		if extra, ok := s["additionalProperties"]; ok && !known && !w.valid(extra, value) {
			return false
		}
	}
	return true
}
