package guide

import (
	"regexp"
	"strconv"
	"unicode/utf8"
)

// satisfies reports whether a value of the source (of enum or const) satisfies all of the schemas. oneOf counts as
// anyOf: its alternatives are proven exclusive where they are compiled.
func (c *schemaCompiler) satisfies(schemas []*schema, v *jsonValue) bool {
	for _, s := range schemas {
		if !c.satisfiesOne(s, v) {
			return false
		}
	}
	return true
}

func (c *schemaCompiler) satisfiesOne(s *schema, v *jsonValue) bool {
	if s.doc.kind != jsonMap {
		return s.doc.kind == jsonTrue
	}
	sh := &shape{types: typeAll, maxLength: unbounded}
	sh.mergeTypes(s)
	sh.mergeBounds(s)
	sh.mergeText(s)
	if sh.types&typeOf(v) == 0 || !c.satisfies(c.conjuncts(s), v) || !c.satisfiesSome(s, "anyOf", v) ||
		!c.satisfiesSome(s, "oneOf", v) || !c.lists(s, v) {
		return false
	}
	switch v.kind {
	case jsonNumber:
		return sh.low.below(v) && sh.high.above(v)
	case jsonText:
		return sh.matches(v.text) && within(utf8.RuneCountInString(v.text), s, "minLength", "maxLength")
	case jsonArray:
		if !within(len(v.items), s, "minItems", "maxItems") {
			return false
		}
		for i, item := range v.items {
			if !c.satisfies(c.itemOf(s, i), item) {
				return false
			}
		}
	case jsonMap:
		if !within(len(v.names), s, "minProperties", "maxProperties") {
			return false
		}
		for _, name := range s.strings("required") {
			if v.fields[name] == nil {
				return false
			}
		}
		for name, value := range v.fields {
			if !c.satisfies(c.propertyOf(s, name), value) {
				return false
			}
		}
	}
	return true
}

func (c *schemaCompiler) satisfiesSome(s *schema, applicator string, v *jsonValue) bool {
	list := s.list(applicator)
	for i, doc := range list {
		if c.satisfiesOne(c.child(s, doc, applicator, strconv.Itoa(i)), v) {
			return true
		}
	}
	return list == nil
}

// lists reports whether enum and const of s allow v.
func (c *schemaCompiler) lists(s *schema, v *jsonValue) bool {
	if k := s.field("const"); k != nil && !k.equal(v) {
		return false
	}
	e := s.field("enum")
	if e == nil {
		return true
	}
	index := c.enums[s]
	if index == nil {
		index = map[string]bool{}
		for _, x := range e.items {
			index[x.key()] = true
		}
		c.enums[s] = index
	}
	return index[v.key()]
}

func (b *bound) below(v *jsonValue) bool {
	if b == nil {
		return true
	}
	d := b.value.Cmp(v.number)
	return d < 0 || d == 0 && !b.open
}

func (b *bound) above(v *jsonValue) bool {
	if b == nil {
		return true
	}
	d := b.value.Cmp(v.number)
	return d > 0 || d == 0 && !b.open
}

func within(n int, s *schema, lowName, highName string) bool {
	high := s.count(highName, unbounded)
	return n >= s.count(lowName, 0) && (high == unbounded || n <= high)
}

// matches reports whether text has all patterns and formats.
func (sh *shape) matches(text string) bool {
	for _, p := range sh.patterns {
		if !matchPattern(p.text, p.at, text) {
			return false
		}
	}
	for _, f := range sh.formats {
		if pattern := formatPattern(f); pattern != "" && !matchPattern(pattern, f.at, text) {
			return false
		}
	}
	return true
}

// matchPattern searches text for a pattern of the source.
func matchPattern(pattern, at, text string) bool {
	re, err := regexp.Compile(pattern)
	if err != nil {
		panic(&Error{At: at, Problem: "the pattern cannot be checked against the values of an enum: " + err.Error(),
			Hint: "remove the pattern; the enum is enough"})
	}
	return re.MatchString(text)
}
