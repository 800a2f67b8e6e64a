package guide

import (
	"fmt"
	"slices"
	"strings"
)

// propertyOf returns what the property name must satisfy under s.
func (c *schemaCompiler) propertyOf(s *schema, name string) []*schema {
	var out []*schema
	if v := s.mapOf("properties").fields[name]; v != nil {
		out = append(out, c.child(s, v, "properties", name))
	}
	patterns := s.mapOf("patternProperties")
	for _, pattern := range patterns.names {
		if matchPattern(pattern, join(join(s.at, "patternProperties"), pattern), name) {
			out = append(out, c.child(s, patterns.fields[pattern], "patternProperties", pattern))
		}
	}
	if v := s.field("additionalProperties"); v != nil && out == nil {
		out = append(out, c.child(s, v, "additionalProperties"))
	}
	return out
}

// property returns what a property must satisfy under all schemas of a shape.
func (c *schemaCompiler) property(sh *shape, name string) []*schema {
	var out []*schema
	for _, s := range sh.schemas {
		out = append(out, c.propertyOf(s, name)...)
	}
	return conjunctionWithFalse(out)
}

// conjunctionWithFalse is the conjunction, reduced to false if that is among the schemas.
func conjunctionWithFalse(schemas []*schema) []*schema {
	for _, s := range schemas {
		if s.doc.kind == jsonFalse {
			return []*schema{s}
		}
	}
	return conjunction(schemas)
}

var emptyMap = &jsonValue{kind: jsonMap}

// mapOf returns the value of a keyword that must be an object.
func (s *schema) mapOf(name string) *jsonValue {
	v := s.field(name)
	if v == nil {
		return emptyMap
	}
	if v.kind != jsonMap {
		panic(&Error{At: join(s.at, name), Problem: "must be an object, not " + v.kind.String()})
	}
	return v
}

// declared are the names of a shape's properties, in the order of the schemas.
func (sh *shape) declared() []string {
	var names []string
	seen := map[string]bool{}
	add := func(list []string) {
		for _, name := range list {
			if !seen[name] {
				seen[name] = true
				names = append(names, name)
			}
		}
	}
	for _, s := range sh.schemas {
		add(s.mapOf("properties").names)
	}
	add(sh.required)
	return names
}

// member is one declared property: its name and colon, its value, whether it must be there.
type member struct {
	node     *node
	required bool
}

// objectNode writes {"a": …, "b": …}: declared properties in the order of the schema, the optional ones among them
// or not, then others if the schema asks for them.
func (c *schemaCompiler) objectNode(sh *shape) *node {
	names := sh.declared()
	if len(names) > propertiesMax {
		panic(&Error{At: sh.schemas[0].at, Problem: fmt.Sprintf("%d properties, the limit is %d", len(names),
			propertiesMax), Hint: "split the object"})
	}
	var members []member
	required := 0
	for _, name := range names {
		schemas, must := c.property(sh, name), slices.Contains(sh.required, name)
		if never(schemas) {
			if must {
				return failNode
			}
			continue
		}
		value := c.value(schemas)
		members = append(members, member{c.seq(c.literal(quote(name)+":"), c.any.space, value), must})
		if must {
			required++
		}
	}
	others := c.otherMembers(sh, names)
	low, high := c.memberCounts(sh, members, required, others)
	if high != unbounded && high < low {
		return failNode
	}
	return c.seq(c.literal("{"), c.memberList(members, others, low, high), c.literal("}"))
}

// memberCounts checks minProperties and maxProperties and returns how many undeclared properties there may be.
func (c *schemaCompiler) memberCounts(sh *shape, members []member, required int, others *node) (low, high int) {
	at := sh.schemas[0].at
	high = unbounded
	if others == nil {
		high = 0
	}
	optional := len(members) - required
	if sh.minProps > required {
		if optional > 0 || sh.minProps > required+1 || others == nil {
			panic(&Error{At: at, Problem: fmt.Sprintf("minProperties %d is not supported here", sh.minProps),
				Hint: "require the properties by name"})
		}
		low = 1
	}
	if sh.maxProps != unbounded {
		if optional > 0 && sh.maxProps < len(members) {
			panic(&Error{At: at, Problem: fmt.Sprintf("maxProperties %d is not supported here", sh.maxProps),
				Hint: "leave out optional properties"})
		}
		high = tighter(high, max(sh.maxProps-len(members), 0))
		if sh.maxProps < required {
			low, high = 1, 0
		}
	}
	return low, high
}

// memberList writes the members with commas between them. What follows a member is shared by all ways that lead
// there, so the automaton grows with the number of members only.
func (c *schemaCompiler) memberList(members []member, others *node, low, high int) *node {
	comma := c.seq(c.literal(","), c.any.space)
	after, first := emptyNode, emptyNode // the rest of the list behind a member, and the whole list
	if others != nil && high != 0 {
		after = c.repeat(c.seq(comma, others), low, high)
		more := high
		if more != unbounded {
			more--
		}
		first = c.seq(others, c.repeat(c.seq(comma, others), max(low-1, 0), more))
		if low == 0 {
			first = c.alt(first, emptyNode)
		}
	}
	for i := len(members) - 1; i >= 0; i-- {
		m := members[i]
		with, withFirst := c.seq(comma, c.seq(m.node, after)), c.seq(m.node, after)
		if m.required {
			after, first = with, withFirst
			continue
		}
		after, first = c.alt(with, after), c.alt(withFirst, first)
	}
	return first
}

// otherMembers writes one property that is not declared, or returns nil if there are none. They are written where a
// schema asks for them: by additionalProperties or patternProperties, or by declaring no properties at all.
func (c *schemaCompiler) otherMembers(sh *shape, declared []string) *node {
	var values []*schema
	var patterns []located
	asked, closed, shaped := false, false, false
	for _, s := range sh.schemas {
		if s.field("properties") != nil || s.field("patternProperties") != nil {
			shaped = true
		}
		if v := s.field("additionalProperties"); v != nil {
			extra := c.child(s, v, "additionalProperties")
			values = append(values, extra)
			asked = asked || v.kind != jsonFalse
			closed = closed || v.kind == jsonFalse
		}
		for _, p := range s.mapOf("patternProperties").names {
			patterns = append(patterns, located{p, join(join(s.at, "patternProperties"), p)})
		}
	}
	if len(patterns) > 0 {
		return c.patternMembers(sh, declared, patterns)
	}
	if closed || !asked && shaped {
		return nil
	}
	value := c.value(values)
	if value.kind == nodeFail {
		return nil
	}
	c.names = true
	return c.seq(c.otherName(declared), c.literal(":"), c.any.space, value)
}

// patternMembers writes properties whose names match a pattern. Names that match none are not written.
func (c *schemaCompiler) patternMembers(sh *shape, declared []string, patterns []located) *node {
	if len(patterns) > 1 {
		panic(&Error{At: patterns[1].at, Problem: "a second pattern of property names is not supported",
			Hint: "combine them into one"})
	}
	p := patterns[0]
	var values []*schema
	for _, s := range sh.schemas {
		if v := s.mapOf("patternProperties").fields[p.text]; v != nil {
			values = append(values, c.child(s, v, "patternProperties", p.text))
		} else if v := s.field("additionalProperties"); v != nil {
			values = append(values, c.child(s, v, "additionalProperties"))
		}
	}
	for _, name := range declared {
		if matchPattern(p.text, p.at, name) {
			panic(&Error{At: p.at, Problem: fmt.Sprintf("the pattern also matches the declared property %q", name),
				Hint: "choose a pattern that does not"})
		}
	}
	if never(values) {
		return nil
	}
	c.where, c.names = p.pointer, true
	name := c.seq(c.literal(`"`), c.pattern(p).inJSON(), c.literal(`":`))
	return c.seq(name, c.any.space, c.value(conjunction(values)))
}

// otherName writes a property name that is none of the declared ones. Up to the character that tells it from all of
// them it has no escapes, so that no declared name can be spelled in another way.
func (c *schemaCompiler) otherName(declared []string) *node {
	if len(declared) == 0 {
		return c.any.str
	}
	sorted := slices.Clone(declared)
	slices.Sort(sorted)
	return c.seq(c.literal(`"`), c.notOneOf(sorted, c.jsonString(0, unbounded)))
}

// notOneOf writes the rest of a string and its quote, such that the rest is none of the sorted words.
func (c *schemaCompiler) notOneOf(words []string, rest *node) *node {
	if len(words) == 0 {
		return rest
	}
	var alts []*node
	if words[0] == "" {
		words = words[1:]
	} else {
		alts = append(alts, c.literal(`"`))
	}
	var heads []runeRange
	for len(words) > 0 {
		head := []rune(words[0])[0]
		var tails []string
		for len(words) > 0 && strings.HasPrefix(words[0], string(head)) {
			tails = append(tails, strings.TrimPrefix(words[0], string(head)))
			words = words[1:]
		}
		heads = append(heads, runeRange{head, head})
		if rawInJSON.contains(head) {
			alts = append(alts, c.seq(c.literal(string(head)), c.notOneOf(tails, rest)))
		}
	}
	other := rawInJSON.minus(newRuneSet(heads...))
	return c.alt(append(alts, c.seq(c.class(other), rest))...)
}
