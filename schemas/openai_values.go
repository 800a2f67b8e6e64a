package schemas

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/invopop/jsonschema"
)

// Fields that clients may write in more than one form.

// Seed is any 64-bit integer, signed or not.
type Seed uint64

// UnmarshalJSON reads an integer from -2⁶³ to 2⁶⁴-1.
func (s *Seed) UnmarshalJSON(b []byte) error {
	if i, err := strconv.ParseInt(string(b), 10, 64); err == nil {
		*s = Seed(i) // negative seeds wrap: distinct stays distinct
		return nil
	}
	u, err := strconv.ParseUint(string(b), 10, 64)
	*s = Seed(u)
	if err != nil {
		return fmt.Errorf("expected an integer from -2^63 to 2^64-1")
	}
	return nil
}

// MarshalJSON writes the number.
func (s Seed) MarshalJSON() ([]byte, error) { return strconv.AppendUint(nil, uint64(s), 10), nil }

// StringList is one string or an array of strings.
type StringList []string

// UnmarshalJSON reads either form.
func (l *StringList) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*l = StringList{one}
		return nil
	}
	var many []*string
	if err := json.Unmarshal(b, &many); err != nil {
		return fmt.Errorf("expected a string or an array of strings")
	}
	out := make(StringList, len(many))
	for i, s := range many {
		if s == nil {
			return fmt.Errorf("element %d is null; expected a string", i)
		}
		out[i] = *s
	}
	*l = out
	return nil
}

// Prompts is what a completion continues: a string, an array of strings, an array of token ids, or
// an array of such arrays. Exactly one of the two slices is set, one element per prompt.
type Prompts struct {
	Texts  []string
	Tokens []I32
}

// Len counts the prompts.
func (p *Prompts) Len() int { return len(p.Texts) + len(p.Tokens) }

// UnmarshalJSON reads any of the four forms.
func (p *Prompts) UnmarshalJSON(b []byte) error {
	*p = Prompts{}
	var text string
	if json.Unmarshal(b, &text) == nil {
		p.Texts = []string{text}
		return nil
	}
	var elements []json.RawMessage
	if err := json.Unmarshal(b, &elements); err != nil || len(elements) == 0 {
		return fmt.Errorf("expected a string, or a non-empty array of strings, of token ids or of arrays of token ids")
	}
	switch elements[0][0] {
	case '"':
		texts := StringList{}
		if err := texts.UnmarshalJSON(b); err != nil {
			return err
		}
		p.Texts = texts
	case '[':
		p.Tokens = make([]I32, len(elements))
		for i, e := range elements {
			if err := tokenIDs(e, &p.Tokens[i]); err != nil {
				return fmt.Errorf("element %d: %w", i, err)
			}
		}
	default:
		p.Tokens = make([]I32, 1)
		return tokenIDs(b, &p.Tokens[0])
	}
	return nil
}

func tokenIDs(b []byte, ids *I32) error {
	var list TokenIDs
	if err := list.UnmarshalJSON(b); err != nil {
		return err
	}
	if len(list) == 0 {
		return fmt.Errorf("expected a non-empty array of token ids")
	}
	*ids = I32(list)
	return nil
}

// MarshalJSON writes the shortest form.
func (p Prompts) MarshalJSON() ([]byte, error) {
	switch {
	case len(p.Texts) == 1:
		return json.Marshal(p.Texts[0])
	case len(p.Texts) > 1:
		return json.Marshal(p.Texts)
	case len(p.Tokens) == 1:
		return json.Marshal(p.Tokens[0])
	}
	return json.Marshal(p.Tokens)
}

// JSONSchema describes the number.
func (Seed) JSONSchema() *jsonschema.Schema {
	return &jsonschema.Schema{Type: "integer", Description: "choice i draws with seed+i"}
}

// JSONSchema describes both forms.
func (StringList) JSONSchema() *jsonschema.Schema {
	return oneOrMany(&jsonschema.Schema{Type: "string"})
}

// JSONSchema describes the four forms.
func (Prompts) JSONSchema() *jsonschema.Schema {
	text, tokens := &jsonschema.Schema{Type: "string"}, arrayOf(&jsonschema.Schema{Type: "integer"})
	return &jsonschema.Schema{OneOf: []*jsonschema.Schema{text, arrayOf(text), tokens, arrayOf(tokens)}}
}

func oneOrMany(s *jsonschema.Schema) *jsonschema.Schema {
	return &jsonschema.Schema{OneOf: []*jsonschema.Schema{s, arrayOf(s)}}
}

func arrayOf(s *jsonschema.Schema) *jsonschema.Schema {
	return &jsonschema.Schema{Type: "array", Items: s}
}

// LogitBias adds to the logits of tokens.
type LogitBias map[int32]float32

// UnmarshalJSON reads an object with token ids as keys.
func (b *LogitBias) UnmarshalJSON(raw []byte) error {
	var object map[string]*float64
	if err := json.Unmarshal(raw, &object); err != nil {
		return fmt.Errorf("expected an object of token ids and numbers from -100 to 100")
	}
	*b = make(LogitBias, len(object))
	for _, key := range slices.Sorted(maps.Keys(object)) {
		id, err := strconv.ParseUint(key, 10, 31)
		if err != nil {
			return fmt.Errorf("the key %.40q is no token id", key)
		}
		v := object[key]
		if v == nil || *v < -100 || *v > 100 {
			return fmt.Errorf("the value of token %d is no number from -100 to 100", id)
		}
		(*b)[int32(id)] = float32(*v)
	}
	return nil
}

// JSONSchema describes the object.
func (LogitBias) JSONSchema() *jsonschema.Schema {
	return &jsonschema.Schema{Type: "object", Description: "token ids as keys; -100 to 100 is added to their logits"}
}

// Text is a JSON value that stands for a text: a string, or any other value as it is written.
type Text string

// UnmarshalJSON reads either form.
func (t *Text) UnmarshalJSON(b []byte) error {
	var s string
	if json.Unmarshal(b, &s) == nil {
		*t = Text(s)
		return nil
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, b); err != nil {
		return err
	}
	*t = Text(compact.String())
	return nil
}

// JSONSchema allows anything.
func (Text) JSONSchema() *jsonschema.Schema {
	return &jsonschema.Schema{Description: "a JSON value, or its text as a string"}
}
