package toolcalls

import (
	"encoding/json"
	"strings"
)

// object reads a call: {"name": …, "arguments": {…}}. Arguments may also be a string that holds JSON, or null.
type object struct {
	scan  scanner
	field field
	key   strings.Builder // raw, with its quotes
	value strings.Builder // raw: of the name, or of arguments in a string

	name    string
	named   bool
	argued  bool            // there are arguments, or have begun
	held    strings.Builder // arguments from before the name
	streams bool            // the arguments are an object
}

// field is which value at the top of the object is being read.
type field uint8

const (
	noField field = iota
	otherField
	nameField
	argumentsField
)

// outcome of a byte.
type outcome uint8

const (
	goesOn outcome = iota
	complete
	malformed
)

// step takes a byte.
func (o *object) step(c byte) outcome {
	top, before := len(o.scan.stack) == 1, o.scan.state
	if !o.scan.step(c) {
		return malformed
	}
	now := o.scan.state
	switch {
	case now == inKey && top && (before == wantKey || before == wantKeyOrEnd):
		o.key.Reset()
	case before == wantValue && top && now != wantValue: // the first byte of a value
		if !o.beginValue(c) {
			return malformed
		}
	}
	if (now == inKey || before == inKey || before == inKeyEscape) && (top && len(o.scan.stack) == 1) {
		o.key.WriteByte(c)
	}
	if o.field != noField {
		o.collect(c)
		if len(o.scan.stack) <= 1 && now != inString && now != inStringEscape && now != inLiteral && (now < inNumberSign || now > inNumberExponent) {
			if !o.endValue() {
				return malformed
			}
		}
	}
	if now == finished {
		if !o.named {
			return malformed
		}
		return complete
	}
	return goesOn
}

func (o *object) beginValue(c byte) bool {
	o.value.Reset()
	var key string
	if json.Unmarshal([]byte(o.key.String()), &key) != nil {
		return false
	}
	switch key {
	case "name":
		o.field = nameField
		return c == '"' && !o.named
	case "arguments", "parameters":
		o.field, o.streams = argumentsField, c == '{'
		if o.argued {
			return false
		}
		o.argued = o.streams
		return c == '{' || c == '"' || c == 'n'
	}
	o.field = otherField
	return true
}

func (o *object) collect(c byte) {
	switch {
	case o.field == argumentsField && o.streams:
		o.held.WriteByte(c)
	case o.field != otherField:
		o.value.WriteByte(c)
	}
}

// endValue closes the field that is being read.
func (o *object) endValue() bool {
	ended := o.field
	o.field = noField
	switch {
	case ended == nameField:
		o.named = true
		return json.Unmarshal([]byte(o.value.String()), &o.name) == nil
	case ended == argumentsField && !o.streams:
		return o.unquoteArguments()
	}
	return true
}

// unquoteArguments takes arguments that are null or a string with JSON in it.
func (o *object) unquoteArguments() bool {
	o.argued = true
	var text *string
	if json.Unmarshal([]byte(o.value.String()), &text) != nil {
		return false
	}
	if text == nil || strings.TrimSpace(*text) == "" {
		return true // none
	}
	var check scanner
	for i := range len(*text) {
		if !check.step((*text)[i]) {
			return false
		}
	}
	if trimmed := strings.TrimSpace(*text); check.state != finished || trimmed[0] != '{' {
		return false
	}
	o.held.WriteString(*text)
	return true
}

// take returns the arguments that have been read since the last call.
func (o *object) take() string {
	text := o.held.String()
	o.held.Reset()
	return text
}
