package guide

import (
	"fmt"
	"math/big"
	"slices"
)

// typeSet is a set of JSON types. Numbers are two of them: those that are integers by value, and the others.
type typeSet uint8

const (
	typeNull typeSet = 1 << iota
	typeBoolean
	typeInteger
	typeFraction
	typeString
	typeArray
	typeObject

	typeNumeric = typeInteger | typeFraction
	typeAll     = typeNull | typeBoolean | typeNumeric | typeString | typeArray | typeObject
)

var typeNames = map[string]typeSet{"null": typeNull, "boolean": typeBoolean, "integer": typeInteger,
	"number": typeNumeric, "string": typeString, "array": typeArray, "object": typeObject}

func typeOf(v *jsonValue) typeSet {
	switch v.kind {
	case jsonNull:
		return typeNull
	case jsonFalse, jsonTrue:
		return typeBoolean
	case jsonNumber:
		if v.number.IsInt() {
			return typeInteger
		}
		return typeFraction
	case jsonText:
		return typeString
	case jsonArray:
		return typeArray
	}
	return typeObject
}

// bound is one end of a range of numbers.
type bound struct {
	value *big.Rat
	open  bool // the value itself is excluded
	at    string
}

// located is text from the source and where it stands.
type located struct{ text, at string }

func (l located) pointer() string { return l.at }

// shape is what a conjunction without applicators allows, keyword by keyword.
type shape struct {
	schemas            []*schema
	types              typeSet
	values             []*jsonValue // of enum and const; nil if all are allowed
	low, high          *bound
	minLength          int
	maxLength          int // unbounded: -1, as in the other maxima
	patterns, formats  []located
	minItems, maxItems int
	required           []string
	minProps, maxProps int
}

// merge combines the keywords of schemas, applicators aside. It returns nil if no value can satisfy them.
func (c *schemaCompiler) merge(schemas []*schema) *shape {
	sh := &shape{schemas: schemas, types: typeAll, maxLength: unbounded, maxItems: unbounded, maxProps: unbounded}
	for _, s := range schemas {
		sh.mergeTypes(s)
		sh.mergeValues(s)
		sh.mergeBounds(s)
		sh.minLength = max(sh.minLength, s.count("minLength", 0))
		sh.maxLength = tighter(sh.maxLength, s.count("maxLength", unbounded))
		sh.minItems = max(sh.minItems, s.count("minItems", 0))
		sh.maxItems = tighter(sh.maxItems, s.count("maxItems", unbounded))
		sh.minProps = max(sh.minProps, s.count("minProperties", 0))
		sh.maxProps = tighter(sh.maxProps, s.count("maxProperties", unbounded))
		sh.mergeText(s)
		for _, name := range s.strings("required") {
			if !slices.Contains(sh.required, name) {
				sh.required = append(sh.required, name)
			}
		}
	}
	if sh.values != nil {
		sh.values = slices.DeleteFunc(slices.Clone(sh.values), func(v *jsonValue) bool {
			return sh.types&typeOf(v) == 0 || !c.satisfies(schemas, v)
		})
		if len(sh.values) == 0 {
			return nil
		}
	}
	if sh.types == 0 {
		return nil
	}
	return sh
}

func tighter(a, b int) int {
	if a == unbounded {
		return b
	}
	if b == unbounded {
		return a
	}
	return min(a, b)
}

func (sh *shape) mergeTypes(s *schema) {
	v := s.field("type")
	if v == nil {
		return
	}
	names := []*jsonValue{v}
	if v.kind == jsonArray {
		names = v.items
	}
	var types typeSet
	for _, n := range names {
		t, ok := typeNames[n.text]
		if n.kind != jsonText || !ok {
			panic(&Error{At: join(s.at, "type"), Problem: fmt.Sprintf("unknown type %.40q", n.text),
				Hint: "use null, boolean, integer, number, string, array or object, or an array of these"})
		}
		types |= t
	}
	if len(names) == 0 {
		panic(&Error{At: join(s.at, "type"), Problem: "the array of types is empty"})
	}
	if n := s.field("nullable"); n != nil && n.kind == jsonTrue {
		types |= typeNull // OpenAPI 3.0
	}
	sh.types &= types
}

func (sh *shape) mergeValues(s *schema) {
	if v := s.field("const"); v != nil {
		sh.restrict([]*jsonValue{v})
	}
	if v := s.field("enum"); v != nil {
		at := join(s.at, "enum")
		if v.kind != jsonArray || len(v.items) == 0 {
			panic(&Error{At: at, Problem: "must be a non-empty array"})
		}
		if len(v.items) > enumMax {
			panic(&Error{At: at, Problem: fmt.Sprintf("%d values, the limit is %d", len(v.items), enumMax)})
		}
		sh.restrict(v.items)
	}
}

// restrict keeps of the values those that are in allowed.
func (sh *shape) restrict(allowed []*jsonValue) {
	if sh.values == nil {
		sh.values = allowed
		return
	}
	index := map[string]bool{}
	for _, v := range allowed {
		index[v.key()] = true
	}
	sh.values = slices.DeleteFunc(slices.Clone(sh.values), func(v *jsonValue) bool { return !index[v.key()] })
}

func (sh *shape) mergeBounds(s *schema) {
	low := func(v *jsonValue, open bool, at string) {
		b := &bound{v.number, open, at}
		if sh.low == nil || b.value.Cmp(sh.low.value) > 0 || b.value.Cmp(sh.low.value) == 0 && open {
			sh.low = b
		}
	}
	high := func(v *jsonValue, open bool, at string) {
		b := &bound{v.number, open, at}
		if sh.high == nil || b.value.Cmp(sh.high.value) < 0 || b.value.Cmp(sh.high.value) == 0 && open {
			sh.high = b
		}
	}
	for _, k := range []struct {
		name, exclusive string
		add             func(*jsonValue, bool, string)
	}{{"minimum", "exclusiveMinimum", low}, {"maximum", "exclusiveMaximum", high}} {
		exclusive, open := s.field(k.exclusive), false
		if exclusive != nil && (exclusive.kind == jsonTrue || exclusive.kind == jsonFalse) {
			open = exclusive.kind == jsonTrue // draft 4: a flag for the other keyword
		} else if v := s.numeric(k.exclusive); v != nil {
			k.add(v, true, join(s.at, k.exclusive))
		}
		if v := s.numeric(k.name); v != nil {
			k.add(v, open, join(s.at, k.name))
		}
	}
	if v := s.numeric("multipleOf"); v != nil {
		if v.number.Sign() <= 0 || !new(big.Rat).Inv(v.number).IsInt() {
			panic(&Error{At: join(s.at, "multipleOf"), Problem: "multipleOf " + v.text + " is not supported",
				Hint: "use integer (multipleOf 1), or an enum"})
		}
		if v.number.IsInt() { // 1
			sh.types &^= typeFraction
		} else if sh.types&typeFraction != 0 {
			panic(&Error{At: join(s.at, "multipleOf"), Problem: "multipleOf " + v.text + " is not supported for fractions",
				Hint: `remove it, use an enum, or a string with a pattern such as ^\d+\.\d\d$`})
		}
	}
	sh.mergeNumberFormat(s)
}

// mergeNumberFormat applies OpenAPI's formats of numbers.
func (sh *shape) mergeNumberFormat(s *schema) {
	v := s.field("format")
	if v == nil || v.kind != jsonText {
		return
	}
	for name, bits := range map[string]uint{"int32": 31, "int64": 63} {
		if v.text != name {
			continue
		}
		limit := new(big.Int).Lsh(big.NewInt(1), bits)
		at := join(s.at, "format")
		if low := new(big.Rat).SetInt(new(big.Int).Neg(limit)); sh.low == nil || sh.low.value.Cmp(low) < 0 {
			sh.low = &bound{low, false, at}
		}
		if high := new(big.Rat).SetInt(limit); sh.high == nil || sh.high.value.Cmp(high) >= 0 {
			sh.high = &bound{high, true, at}
		}
	}
}

func (sh *shape) mergeText(s *schema) {
	add := func(list *[]located, name string) {
		v := s.field(name)
		if v == nil {
			return
		}
		if v.kind != jsonText {
			panic(&Error{At: join(s.at, name), Problem: "must be a string, not " + v.kind.String()})
		}
		if !slices.ContainsFunc(*list, func(l located) bool { return l.text == v.text }) {
			*list = append(*list, located{v.text, join(s.at, name)})
		}
	}
	add(&sh.patterns, "pattern")
	add(&sh.formats, "format")
}

// numeric returns the value of a keyword that must be a number, or nil.
func (s *schema) numeric(name string) *jsonValue {
	v := s.field(name)
	if v != nil && v.kind != jsonNumber {
		panic(&Error{At: join(s.at, name), Problem: "must be a number, not " + v.kind.String()})
	}
	return v
}

// count returns the value of a keyword that must be a natural number, or otherwise.
func (s *schema) count(name string, otherwise int) int {
	v := s.numeric(name)
	if v == nil {
		return otherwise
	}
	if !v.number.IsInt() || v.number.Sign() < 0 {
		panic(&Error{At: join(s.at, name), Problem: "must be a whole number of at least 0, not " + v.text})
	}
	if v.number.Num().Cmp(big.NewInt(repeatMax)) <= 0 {
		return int(v.number.Num().Int64())
	}
	if otherwise == unbounded {
		return repeatMax // no answer gets there
	}
	panic(&Error{At: join(s.at, name), Problem: fmt.Sprintf("%s exceeds the limit of %d", v.text, repeatMax)})
}

// strings returns the value of a keyword that must be an array of strings.
func (s *schema) strings(name string) []string {
	v := s.field(name)
	if v == nil {
		return nil
	}
	if v.kind != jsonArray {
		panic(&Error{At: join(s.at, name), Problem: "must be an array of strings, not " + v.kind.String()})
	}
	var out []string
	for _, x := range v.items {
		if x.kind != jsonText {
			panic(&Error{At: join(s.at, name), Problem: "must hold strings, not " + x.kind.String()})
		}
		out = append(out, x.text)
	}
	return out
}
