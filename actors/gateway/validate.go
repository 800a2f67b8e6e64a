package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

// jsonDepthMax bounds nesting in a request body, as bus.MsgpackDepthMax does for msgpack.
const jsonDepthMax = 64

const opParse = "parse request"

// fields are a request's top-level fields, each still encoded as JSON.
type fields map[string]json.RawMessage

func invalid(param, format string, args ...any) *schemas.Error {
	return schemas.Errorf(schemas.KindInvalid, opParse, format, args...).WithParam(param)
}

// fieldsOfJSON splits a JSON object.
func fieldsOfJSON(body []byte) (fields, *schemas.Error) {
	if len(bytes.TrimSpace(body)) == 0 {
		return nil, invalid("", "the body is empty; expected a JSON object")
	}
	if at := invalidUTF8(body); at >= 0 {
		return nil, invalid("", "the body is not UTF-8: byte %d is 0x%02x", at, body[at])
	}
	if at := tooDeep(body); at >= 0 {
		return nil, invalid("", "the body nests deeper than %d at byte %d", jsonDepthMax, at)
	}
	var f fields
	if err := json.Unmarshal(body, &f); err != nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			return nil, invalid("", "the body is not JSON: %v at byte %d", syntax, syntax.Offset)
		}
		return nil, invalid("", "the body is %s; expected a JSON object", jsonKind(body))
	}
	if f == nil {
		return nil, invalid("", "the body is null; expected a JSON object")
	}
	return f, nil
}

func invalidUTF8(b []byte) int {
	if utf8.Valid(b) {
		return -1
	}
	for i := 0; i < len(b); {
		r, size := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && size == 1 {
			return i
		}
		i += size
	}
	return -1
}

// tooDeep returns where b nests deeper than jsonDepthMax, or -1.
func tooDeep(b []byte) int {
	depth, quoted := 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			if depth++; depth > jsonDepthMax {
				return i
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return -1
}

// fieldsOfMsgpack splits a msgpack map and turns its values into JSON, so that one set of rules judges
// both encodings.
func fieldsOfMsgpack(body []byte) (f fields, err *schemas.Error) {
	if err := bus.Prescan(body); err != nil {
		return nil, invalid("", "%v", err)
	}
	// A guard for decoder bugs on hostile input; none is known.
	defer func() {
		if r := recover(); r != nil {
			f, err = nil, invalid("", "msgpack: %v", r)
		}
	}()
	d := msgpack.NewDecoder(bytes.NewReader(body))
	values, decodeErr := d.DecodeMap()
	if decodeErr != nil || values == nil {
		return nil, invalid("", "the body is no msgpack map with string keys (%v)", decodeErr).
			WithHint("send Content-Type: application/json if it is JSON")
	}
	f = make(fields, len(values))
	for name, v := range values {
		if !utf8.ValidString(name) {
			return nil, invalid("", "the field name %q is not UTF-8", name)
		}
		if why := notJSON(v); why != "" {
			return nil, invalid(name, "%s %s", name, why)
		}
		encoded, marshalErr := json.Marshal(v)
		if marshalErr != nil {
			return nil, invalid(name, "%s: %v", name, marshalErr)
		}
		f[name] = encoded
	}
	return f, nil
}

// notJSON says why a decoded msgpack value has no JSON form, or "".
func notJSON(v any) string {
	switch v := v.(type) {
	case string:
		if !utf8.ValidString(v) {
			return "holds a string that is not UTF-8"
		}
	case float32:
		return notJSON(float64(v))
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return fmt.Sprintf("holds %v; expected a finite number", v)
		}
	case []any:
		for _, e := range v {
			if why := notJSON(e); why != "" {
				return why
			}
		}
	case map[string]any:
		for name, e := range v {
			if !utf8.ValidString(name) {
				return "holds a field name that is not UTF-8"
			}
			if why := notJSON(e); why != "" {
				return why
			}
		}
	case nil, bool, int8, int16, int32, int64, uint8, uint16, uint32, uint64:
	default:
		return fmt.Sprintf("holds a %T; expected what JSON can express", v)
	}
	return ""
}

// anything marks fields of which every value is accepted: they advise caches, label requests or ask for what
// this engine does not do with any request.
var anything = []any{nil}

// accepted lists fields that clients commonly send and that say nothing at these values. At any other
// value they ask for what this engine cannot do, and are refused by name.
var accepted = map[string][]any{
	"best_of":                {1.0},
	"suffix":                 {""},
	"length_penalty":         {1.0},
	"use_beam_search":        {false},
	"functions":              {[]any{}},
	"function_call":          {"none", "auto"},
	"modalities":             {[]any{"text"}},
	"audio":                  {},
	"prediction":             {},
	"reasoning_effort":       anything, // a hint to models that reason
	"verbosity":              anything,
	"web_search_options":     {},
	"moderation":             {},
	"service_tier":           {"auto", "default"},
	"store":                  anything, // nothing is stored
	"metadata":               anything, // it labels what is stored
	"truncate_prompt_tokens": {},
	"truncation":             {"disabled"},
	"background":             {false},
	"previous_response_id":   {},
	"conversation":           {},
	"context_management":     {},
	"reasoning":              anything,
	"max_tool_calls":         anything, // it is about tools that the server calls
	"return_token_strs":      {false},
	"continue_final_message": {false},

	"prompt_cache_key":       anything,
	"prompt_cache_retention": anything,
	"prompt_cache_options":   anything,
	"safety_identifier":      anything,
}

// decodeInto sets the fields of a request struct. Unknown fields, unsupported ones and wrong types are
// refused by name. null means absent.
func decodeInto(f fields, request any) *schemas.Error {
	v := reflect.ValueOf(request).Elem()
	known := fieldIndex(v.Type())
	for _, name := range slices.Sorted(maps.Keys(f)) { // sorted: the same request gets the same error
		raw := f[name]
		if bytes.Equal(raw, []byte("null")) {
			continue
		}
		if index, ok := known[name]; ok {
			if err := decodeField(name, raw, v.FieldByIndex(index).Addr().Interface()); err != nil {
				return err
			}
			continue
		}
		if err := refuseField(name, raw); err != nil {
			return err
		}
	}
	return nil
}

// fieldIndexes are those of the request types, each made once: as much work as decoding a small request.
var fieldIndexes sync.Map // reflect.Type to map[string][]int

// fieldIndex maps JSON names to the fields of a struct type, embedded structs included.
func fieldIndex(t reflect.Type) map[string][]int {
	if index, known := fieldIndexes.Load(t); known {
		return index.(map[string][]int)
	}
	index := map[string][]int{}
	for _, f := range reflect.VisibleFields(t) {
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" {
			index[name] = f.Index
		}
	}
	fieldIndexes.Store(t, index)
	return index
}

func refuseField(name string, raw json.RawMessage) *schemas.Error {
	values, ok := accepted[name]
	if !ok {
		return schemas.Errorf(schemas.KindInvalid, schemas.OpUnknown, "unknown field %.64q", name).WithParam(clip(name)).
			WithHint("check its spelling, or leave it out")
	}
	var got any
	if err := json.Unmarshal(raw, &got); err != nil {
		return invalid(name, "%s: %v", name, err)
	}
	for _, v := range values {
		if v == nil || reflect.DeepEqual(got, v) {
			return nil
		}
	}
	return schemas.Errorf(schemas.KindUnsupported, schemas.OpUnsupported, "%s: %s is not supported yet", name, clip(string(raw))).
		WithParam(name).WithHint("leave it out")
}

func decodeField(name string, raw json.RawMessage, to any) *schemas.Error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	err := d.Decode(to)
	if err == nil {
		return refuseNulls(name, raw, to)
	}
	var mismatch *json.UnmarshalTypeError
	if errors.As(err, &mismatch) {
		param, want := name, reflect.TypeOf(to).Elem()
		if mismatch.Field != "" {
			param, want = param+"."+mismatch.Field, mismatch.Type
		}
		return invalid(param, "%s is %s; expected %s", param, clip(string(raw)), wanted(want))
	}
	return invalid(name, "%s: %s", name, strings.TrimPrefix(err.Error(), "json: "))
}

// refuseNulls finds null among plain values, which Go reads as their zero.
func refuseNulls(name string, raw json.RawMessage, to any) *schemas.Error {
	switch to.(type) {
	case *[]string, *[]int64:
	default:
		return nil
	}
	var elements []*json.RawMessage
	_ = json.Unmarshal(raw, &elements) // it has been read before
	if i := slices.Index(elements, nil); i >= 0 {
		param := fmt.Sprintf("%s[%d]", name, i)
		return invalid(param, "%s is null; expected %s", param, wanted(reflect.TypeOf(to).Elem().Elem()))
	}
	return nil
}

func wanted(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Float64:
		return "a number"
	case reflect.Int64:
		return "an integer"
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "a string"
	case reflect.Pointer:
		return wanted(t.Elem())
	case reflect.Slice:
		return "an array, each element " + wanted(t.Elem())
	case reflect.Map:
		return "an object, each value " + wanted(t.Elem())
	}
	return "an object"
}

func jsonKind(raw []byte) string {
	switch raw = bytes.TrimSpace(raw); raw[0] {
	case '"':
		return "a string"
	case '[':
		return "an array"
	case '{':
		return "an object"
	case 't', 'f':
		return "a boolean"
	case 'n':
		return "null"
	}
	return "a number"
}

func clip(s string) string {
	const max = 64
	if len(s) <= max {
		return s
	}
	cut := max
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}
