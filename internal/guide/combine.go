package guide

import (
	"fmt"
	"slices"
	"strconv"
)

// unfold replaces applicators ($ref, allOf, anyOf, oneOf) by what they stand for: a list of branches, each a
// conjunction of schemas whose other keywords all hold. A value is valid if it satisfies one branch.
func (c *schemaCompiler) unfold(schemas []*schema) [][]*schema {
	for _, s := range schemas {
		c.requireProgress(s, nil)
	}
	var out [][]*schema
	var expand func(done, todo []*schema)
	expand = func(done, todo []*schema) {
		for len(todo) > 0 {
			s := todo[0]
			todo = todo[1:]
			if s.doc.kind == jsonFalse {
				return
			}
			if s.doc.kind == jsonTrue || slices.Contains(done, s) {
				continue
			}
			done = append(done[:len(done):len(done)], s)
			todo = append(todo[:len(todo):len(todo)], c.conjuncts(s)...)
			if choices := c.choices(s); choices != nil {
				for _, choice := range choices {
					expand(done, append(choice, todo...))
				}
				return
			}
		}
		if out = append(out, done); len(out) > branchesMax {
			panic(&Error{At: schemas[0].at,
				Problem: fmt.Sprintf("anyOf, oneOf and allOf combine to more than %d alternatives", branchesMax),
				Hint:    "use fewer alternatives side by side"})
		}
	}
	expand(nil, schemas)
	return out
}

// requireProgress refuses schemas that lead back to themselves by applicators alone, as {"$ref": "#"} at the root
// does: they say nothing about any value.
func (c *schemaCompiler) requireProgress(s *schema, path []*schema) {
	if c.progress[s] {
		return
	}
	if slices.Contains(path, s) || len(path) > compileDepthMax {
		panic(&Error{At: s.at, Problem: "the schema leads back to itself by $ref, allOf, anyOf or oneOf alone",
			Hint: "remove the circle, or put a property or an array between"})
	}
	path = append(path, s)
	for _, next := range c.conjuncts(s) {
		c.requireProgress(next, path)
	}
	for _, name := range []string{"anyOf", "oneOf"} {
		for i, doc := range s.list(name) {
			c.requireProgress(c.child(s, doc, name, strconv.Itoa(i)), path)
		}
	}
	c.progress[s] = true
}

// conjuncts are the schemas that must hold next to s: its $ref and allOf.
func (c *schemaCompiler) conjuncts(s *schema) []*schema {
	var out []*schema
	if s.field("$ref") != nil {
		out = append(out, c.target(s))
	}
	for i, doc := range s.list("allOf") {
		out = append(out, c.child(s, doc, "allOf", strconv.Itoa(i)))
	}
	return out
}

// choices are the combinations of anyOf and oneOf alternatives of s, or nil if it has neither.
func (c *schemaCompiler) choices(s *schema) [][]*schema {
	var out [][]*schema
	for i, doc := range s.list("anyOf") {
		out = append(out, []*schema{c.child(s, doc, "anyOf", strconv.Itoa(i))})
	}
	if s.field("oneOf") == nil {
		return out
	}
	var one []*schema
	for i, doc := range s.list("oneOf") {
		one = append(one, c.child(s, doc, "oneOf", strconv.Itoa(i)))
	}
	c.requireExclusive(s, one)
	if out == nil {
		out = [][]*schema{nil}
	}
	var product [][]*schema
	for _, o := range one {
		for _, choice := range out {
			product = append(product, append(choice[:len(choice):len(choice)], o))
		}
	}
	return product
}

// list returns the elements of a keyword that must be a non-empty array of schemas.
func (s *schema) list(name string) []*jsonValue {
	v := s.field(name)
	if v == nil {
		return nil
	}
	if v.kind != jsonArray || len(v.items) == 0 {
		panic(&Error{At: join(s.at, name), Problem: "must be a non-empty array of schemas"})
	}
	return v.items
}

// requireExclusive refuses a oneOf unless no value can satisfy two of its alternatives; then it equals anyOf.
func (c *schemaCompiler) requireExclusive(s *schema, alternatives []*schema) {
	if len(alternatives) > 64 {
		panic(&Error{At: join(s.at, "oneOf"), Problem: "more than 64 alternatives", Hint: "use anyOf"})
	}
	for i, a := range alternatives {
		for _, b := range alternatives[:i] {
			if !c.disjoint([]*schema{a}, []*schema{b}, 4) {
				panic(&Error{At: join(s.at, "oneOf"),
					Problem: fmt.Sprintf("it cannot be shown that no value satisfies both %s and %s", b.at, a.at),
					Hint:    "use anyOf, or tell the alternatives apart by type or by a required property with a const"})
			}
		}
	}
}

// disjoint reports whether it is certain that no value satisfies both conjunctions.
func (c *schemaCompiler) disjoint(a, b []*schema, depth int) bool {
	if depth == 0 || slices.Contains(a, b[0]) && len(a) == len(b) {
		return false
	}
	for _, x := range c.unfoldShallow(a) {
		for _, y := range c.unfoldShallow(b) {
			if !c.disjointShapes(x, y, depth) {
				return false
			}
		}
	}
	return true
}

// unfoldShallow merges each branch of a conjunction; branches that nothing satisfies are left out.
func (c *schemaCompiler) unfoldShallow(schemas []*schema) []*shape {
	var out []*shape
	for _, branch := range c.unfold(schemas) {
		if sh := c.merge(branch); sh != nil {
			out = append(out, sh)
		}
	}
	return out
}

func (c *schemaCompiler) disjointShapes(x, y *shape, depth int) bool {
	types := x.types & y.types
	if types == 0 {
		return true
	}
	if x.values != nil || y.values != nil {
		return c.disjointValues(x, y)
	}
	if types&typeNumeric != 0 && !disjointBounds(x, y) || types&typeString != 0 && !disjointLengths(x, y) ||
		types&(typeArray|typeNull|typeBoolean) != 0 {
		return false
	}
	return types&typeObject == 0 || c.disjointObjects(x, y, depth) || c.disjointObjects(y, x, depth)
}

// disjointValues compares where at least one of the shapes lists its values; merge has checked them already.
func (c *schemaCompiler) disjointValues(x, y *shape) bool {
	if x.values == nil {
		x, y = y, x
	}
	listed := map[string]bool{}
	for _, w := range y.values {
		listed[w.key()] = true
	}
	for _, v := range x.values {
		if listed[v.key()] || y.values == nil && c.satisfies(y.schemas, v) {
			return false
		}
	}
	return true
}

// disjointObjects looks for a property that x requires and that has, in y, no value in common.
func (c *schemaCompiler) disjointObjects(x, y *shape, depth int) bool {
	for _, name := range x.required {
		inX, inY := c.property(x, name), c.property(y, name)
		if never(inY) {
			return true
		}
		if slices.Contains(y.required, name) && len(inX) > 0 && len(inY) > 0 && c.disjoint(inX, inY, depth-1) {
			return true
		}
	}
	return false
}

func never(schemas []*schema) bool {
	for _, s := range schemas {
		if s.doc.kind == jsonFalse {
			return true
		}
	}
	return false
}

// disjointBounds reports whether no number is within the bounds of both shapes.
func disjointBounds(x, y *shape) bool {
	apart := func(high, low *bound) bool {
		if high == nil || low == nil {
			return false
		}
		d := high.value.Cmp(low.value)
		return d < 0 || d == 0 && (high.open || low.open)
	}
	return apart(x.high, y.low) || apart(y.high, x.low)
}

// disjointLengths reports whether no string is as long as both shapes want.
func disjointLengths(x, y *shape) bool {
	return x.maxLength != unbounded && x.maxLength < y.minLength || y.maxLength != unbounded && y.maxLength < x.minLength
}
