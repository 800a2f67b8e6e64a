package gguf

import (
	"encoding/binary"
	"fmt"
	"math"
)

// Kind is the type of a metadata value, by its number in the format.
type Kind uint32

// The kinds of metadata.
const (
	Uint8 Kind = iota
	Int8
	Uint16
	Int16
	Uint32
	Int32
	Float32
	Bool
	String
	Array
	Uint64
	Int64
	Float64
)

// size returns the bytes of a value of fixed size, otherwise 0.
func (k Kind) size() int {
	switch k {
	case Uint8, Int8, Bool:
		return 1
	case Uint16, Int16:
		return 2
	case Uint32, Int32, Float32:
		return 4
	case Uint64, Int64, Float64:
		return 8
	}
	return 0
}

// Value is a metadata value. It aliases the open file and is valid until that is closed; what its methods
// return is a copy.
type Value struct {
	kind  Kind
	elem  Kind // of an array
	count int  // of an array's elements
	raw   []byte
}

// Uint returns a whole number that is not negative, of any integer kind.
func (v Value) Uint() (uint64, bool) {
	n, ok := v.Int()
	if v.kind == Uint64 {
		return binary.LittleEndian.Uint64(v.raw), true
	}
	return uint64(n), ok && n >= 0
}

// Int returns a whole number that fits an int64, of any integer kind.
func (v Value) Int() (int64, bool) { return integer(v.kind, v.raw) }

func integer(kind Kind, raw []byte) (int64, bool) {
	switch kind {
	case Uint8:
		return int64(raw[0]), true
	case Int8:
		return int64(int8(raw[0])), true
	case Uint16:
		return int64(binary.LittleEndian.Uint16(raw)), true
	case Int16:
		return int64(int16(binary.LittleEndian.Uint16(raw))), true
	case Uint32:
		return int64(binary.LittleEndian.Uint32(raw)), true
	case Int32:
		return int64(int32(binary.LittleEndian.Uint32(raw))), true
	case Uint64, Int64:
		n := int64(binary.LittleEndian.Uint64(raw))
		return n, kind == Int64 || n >= 0
	}
	return 0, false
}

// Float returns a number of a floating-point kind.
func (v Value) Float() (float64, bool) { return float(v.kind, v.raw) }

func float(kind Kind, raw []byte) (float64, bool) {
	switch kind {
	case Float32:
		return float64(math.Float32frombits(binary.LittleEndian.Uint32(raw))), true
	case Float64:
		return math.Float64frombits(binary.LittleEndian.Uint64(raw)), true
	}
	return 0, false
}

// Bool returns a boolean.
func (v Value) Bool() (value, ok bool) { return v.kind == Bool && v.raw[0] == 1, v.kind == Bool }

// Text returns a string.
func (v Value) Text() (string, bool) {
	if v.kind != String {
		return "", false
	}
	return string(v.raw[8:]), true
}

// Len returns the number of an array's elements, 0 for anything else.
func (v Value) Len() int { return v.count }

// Texts returns an array of strings.
func (v Value) Texts() ([]string, bool) {
	if v.kind != Array || v.elem != String {
		return nil, false
	}
	out := make([]string, 0, v.count)
	for raw := v.raw; len(raw) > 0; {
		n := binary.LittleEndian.Uint64(raw)
		out = append(out, string(raw[8:8+n]))
		raw = raw[8+n:]
	}
	return out, true
}

// Ints returns an array of whole numbers of any integer kind, or of booleans as 0 and 1.
func (v Value) Ints() ([]int64, bool) {
	if v.kind != Array || v.elem.size() == 0 {
		return nil, false
	}
	out := make([]int64, 0, v.count)
	for raw, size := v.raw, v.elem.size(); len(raw) > 0; raw = raw[size:] {
		n, ok := integer(v.elem, raw)
		if v.elem == Bool {
			n, ok = int64(raw[0]), true
		}
		if !ok {
			return nil, false
		}
		out = append(out, n)
	}
	return out, true
}

// Floats returns an array of numbers of a floating-point kind.
func (v Value) Floats() ([]float64, bool) {
	if v.kind != Array || (v.elem != Float32 && v.elem != Float64) {
		return nil, false
	}
	out := make([]float64, 0, v.count)
	for raw, size := v.raw, v.elem.size(); len(raw) > 0; raw = raw[size:] {
		f, _ := float(v.elem, raw)
		out = append(out, f)
	}
	return out, true
}

// String renders a value for messages.
func (v Value) String() string {
	switch {
	case v.kind == Array:
		return fmt.Sprintf("an array of %d", v.count)
	case v.kind == String:
		text, _ := v.Text()
		return fmt.Sprintf("%q", clip(text))
	case v.kind == Bool:
		return fmt.Sprint(v.raw[0] == 1)
	}
	if f, ok := v.Float(); ok {
		return fmt.Sprint(f)
	}
	if n, ok := v.Int(); ok {
		return fmt.Sprint(n)
	}
	n, _ := v.Uint()
	return fmt.Sprint(n)
}
