package guide

import (
	"slices"
	"strings"
)

// anyJSON has the IR of JSON without a schema. White space is at most one blank after ':' and ','.
type anyJSON struct {
	value, object, array, str, number, integer, boolean *node
	space                                               *node
}

func newAnyJSON(b *builder) *anyJSON {
	a := &anyJSON{}
	value := b.newRule("any JSON value")
	a.value = b.ref(value)
	a.space = b.optional(b.literal(" "))
	a.str = b.seq(b.literal(`"`), b.jsonString(0, unbounded))
	a.boolean = b.literals([]string{"true", "false"})
	a.number, a.integer = anyNumber(b), anyInteger(b)
	comma := b.seq(b.literal(","), a.space)
	list := func(open string, element *node, end string) *node {
		rest := b.repeat(b.seq(comma, element), 0, unbounded)
		return b.seq(b.literal(open), b.optional(b.seq(element, rest)), b.literal(end))
	}
	a.object = list("{", b.seq(a.str, b.literal(":"), a.space, a.value), "}")
	a.array = list("[", a.value, "]")
	b.rules[value].body = b.alt(a.object, a.array, a.str, a.number, a.boolean, b.literal("null"))
	return a
}

// shapeNode writes the values of a shape, type by type.
func (c *schemaCompiler) shapeNode(sh *shape) *node {
	if sh.values != nil {
		words := make([]string, len(sh.values))
		for i, v := range sh.values {
			words[i] = v.compact()
		}
		return c.literals(words)
	}
	var alts []*node
	if sh.types&typeNull != 0 {
		alts = append(alts, c.literal("null"))
	}
	if sh.types&typeBoolean != 0 {
		alts = append(alts, c.any.boolean)
	}
	if sh.types&typeNumeric != 0 {
		alts = append(alts, c.numberNode(sh))
	}
	if sh.types&typeString != 0 {
		alts = append(alts, c.stringNode(sh))
	}
	if sh.types&typeArray != 0 {
		alts = append(alts, c.arrayNode(sh))
	}
	if sh.types&typeObject != 0 {
		alts = append(alts, c.objectNode(sh))
	}
	return c.alt(alts...)
}

// compact writes a value in the style of answers.
func (v *jsonValue) compact() string {
	switch v.kind {
	case jsonNumber:
		return v.text
	case jsonText:
		return quote(v.text)
	case jsonArray:
		parts := make([]string, len(v.items))
		for i, x := range v.items {
			parts[i] = x.compact()
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case jsonMap:
		parts := make([]string, len(v.names))
		for i, name := range v.names {
			parts[i] = quote(name) + ": " + v.fields[name].compact()
		}
		return "{" + strings.Join(parts, ", ") + "}"
	}
	return [...]string{"null", "false", "true"}[v.kind]
}

// itemOf returns what element i of an array must satisfy under s.
func (c *schemaCompiler) itemOf(s *schema, i int) []*schema {
	prefix, rest := "prefixItems", "items"
	if v := s.field("items"); v != nil && v.kind == jsonArray { // until draft 2019-09
		prefix, rest = "items", "additionalItems"
	}
	if v := s.field(prefix); v != nil {
		if v.kind != jsonArray {
			panic(&Error{At: join(s.at, prefix), Problem: "must be an array of schemas"})
		}
		if i < len(v.items) {
			return []*schema{c.child(s, v.items[i], prefix, itoa(i))}
		}
	}
	if v := s.field(rest); v != nil {
		return []*schema{c.child(s, v, rest)}
	}
	return nil
}

// prefixLength is the number of elements that have schemas of their own under s.
func prefixLength(s *schema) int {
	for _, name := range []string{"items", "prefixItems"} {
		if v := s.field(name); v != nil && v.kind == jsonArray {
			return len(v.items)
		}
	}
	return 0
}

// arrayNode writes [a, b, …]: elements with schemas of their own first, then any number of equal ones.
func (c *schemaCompiler) arrayNode(sh *shape) *node {
	prefix := 0
	for _, s := range sh.schemas {
		prefix = max(prefix, prefixLength(s))
		if v := s.field("uniqueItems"); v != nil && v.kind != jsonFalse && sh.maxItems != 0 && sh.maxItems != 1 {
			panic(&Error{At: join(s.at, "uniqueItems"), Problem: "unique items cannot be guaranteed",
				Hint: "remove it, or set maxItems to 1"})
		}
	}
	item := func(i int) *node {
		var schemas []*schema
		for _, s := range sh.schemas {
			schemas = append(schemas, c.itemOf(s, i)...)
		}
		return c.value(schemas)
	}
	comma := c.seq(c.literal(","), c.any.space)
	restMax := sh.maxItems
	if restMax != unbounded {
		restMax = max(0, restMax-prefix)
	}
	rest := c.repeat(c.seq(comma, item(prefix)), max(0, sh.minItems-prefix), restMax)
	first := rest // when there is no prefix, the first element goes without a comma
	if prefix == 0 && restMax != 0 {
		more := restMax
		if more != unbounded {
			more--
		}
		first = c.seq(item(0), c.repeat(c.seq(comma, item(0)), max(0, sh.minItems-1), more))
		if sh.minItems == 0 {
			first = c.optional(first)
		}
	}
	// From the last element of the prefix to the first: whatever stands behind may be left out from minItems on.
	for i := prefix - 1; i >= 0; i-- {
		if sh.maxItems != unbounded && i >= sh.maxItems {
			first = emptyNode
			continue
		}
		element := item(i)
		if i > 0 {
			element = c.seq(comma, element)
		}
		first = c.seq(element, first)
		if i >= sh.minItems {
			first = c.alt(first, emptyNode)
		}
	}
	return c.seq(c.literal("["), first, c.literal("]"))
}

// stringNode writes a string: any, or one that matches a pattern or a format.
func (c *schemaCompiler) stringNode(sh *shape) *node {
	var parts []located
	parts = append(parts, sh.patterns...)
	for _, f := range sh.formats {
		if pattern := formatPattern(f); pattern != "" {
			parts = append(parts, located{pattern, f.at})
		}
	}
	if len(parts) == 0 {
		return c.seq(c.literal(`"`), c.jsonString(sh.minLength, sh.maxLength))
	}
	if len(parts) > 1 {
		panic(&Error{At: parts[1].at, Problem: "a second pattern or format for the same string is not supported",
			Hint: "combine them into one pattern"})
	}
	c.where = parts[0].pointer
	re := c.pattern(parts[0])
	lo, hi := re.lengths()
	if lo < sh.minLength || sh.maxLength != unbounded && (hi == unbounded || hi > sh.maxLength) {
		if re = re.limited(sh.minLength, sh.maxLength); re == nil {
			panic(&Error{At: parts[0].at, Problem: "minLength or maxLength next to this pattern is not supported",
				Hint: "write the length into the pattern, as in ^[a-z]{1,20}$"})
		}
	}
	return c.seq(c.literal(`"`), re.inJSON(), c.literal(`"`))
}

// pattern parses an expression of the source, with errors that point to it.
func (c *schemaCompiler) pattern(p located) *regex {
	defer func() {
		if e := recover(); e != nil {
			if e, ok := e.(*Error); ok && strings.HasPrefix(e.At, "character ") {
				e.At = p.at + ", " + e.At
			}
			panic(e)
		}
	}()
	return parseRegex(c.builder, p.text)
}

// shortEscapes are the characters with an escape of two, and its second character.
const shortEscapes, shortEscapeLetters = "\"\\\b\f\n\r\t", `"\bfnrt`

// rawInJSON has the characters that stand for themselves in a JSON string.
var rawInJSON = newRuneSet(runeRange{0, 0x1F}).union(runesOf(`"\`)).complement()

// inJSON is the inside of a JSON string whose value the expression matches somewhere (JSON Schema's patterns are not
// anchored). Characters are written as they are where JSON allows that.
func (r *regex) inJSON() *node {
	pad := r.b.jsonStringPad()
	return r.lower(r.root, true, true, pad, r.b.jsonChar)
}

func (b *builder) jsonStringPad() *node { return b.repeat(b.jsonChar(anyRune), 0, unbounded) }

// jsonChar reads one character of a set as a JSON string spells it.
func (b *builder) jsonChar(set runeSet) *node {
	alts := []*node{b.class(set.intersect(rawInJSON))}
	var letters []runeRange
	for i, r := range []rune(shortEscapes) {
		if set.contains(r) {
			letters = append(letters, runeRange{rune(shortEscapeLetters[i]), rune(shortEscapeLetters[i])})
		}
	}
	var long []*node
	for _, high := range []rune{0, 1} {
		var low []runeRange
		for r := high << 4; r < (high+1)<<4; r++ {
			if set.contains(r) && !strings.ContainsRune(shortEscapes, r) {
				digit := rune("0123456789abcdef"[r&15])
				low = append(low, runeRange{digit, digit})
			}
		}
		long = append(long, b.seq(b.literal(string('0'+high)), b.class(newRuneSet(low...))))
	}
	escape := b.alt(b.class(newRuneSet(letters...)), b.seq(b.literal("u00"), b.alt(long...)))
	return b.alt(append(alts, b.seq(b.literal(`\`), escape))...)
}

// lengths returns the least and the most characters of a match; patterns that are not anchored at both ends have no
// most.
func (r *regex) lengths() (lo, hi int) {
	n := r.lower(r.root, true, true, r.b.repeat(r.b.class(anyRune), 0, unbounded), r.b.class)
	return nodeLengths(n)
}

func nodeLengths(n *node) (lo, hi int) {
	switch n.kind {
	case nodeLiteral:
		k := len([]rune(n.text))
		return k, k
	case nodeClass:
		return 1, 1
	case nodeSeq:
		for _, s := range n.subs {
			l, h := nodeLengths(s)
			lo = min(lo+l, repeatMax)
			if hi != unbounded {
				hi = min(hi+h, repeatMax)
			}
			if h == unbounded {
				hi = unbounded
			}
		}
		return lo, hi
	case nodeAlt:
		lo = repeatMax
		for _, s := range n.subs {
			l, h := nodeLengths(s)
			lo = min(lo, l)
			if h == unbounded || hi == unbounded {
				hi = unbounded
			} else {
				hi = max(hi, h)
			}
		}
		return lo, hi
	case nodeRepeat:
		l, h := nodeLengths(n.subs[0])
		lo = min(l*n.min, repeatMax)
		if h == unbounded || n.max == unbounded {
			return lo, unbounded
		}
		return lo, min(h*n.max, repeatMax)
	}
	return 0, 0
}

// limited narrows an expression of the form ^[class]{m,n}$ to lo..hi characters; it returns nil for others.
func (r *regex) limited(lo, hi int) *regex {
	if r.root.kind != reSeq || len(r.root.subs) != 3 || r.root.subs[0].kind != reStart || r.root.subs[2].kind != reEnd {
		return nil
	}
	body := r.root.subs[1]
	if body.kind != reRepeat || body.subs[0].kind != reClass {
		return nil
	}
	narrowed := *body
	narrowed.min, narrowed.max = max(body.min, lo), tighter(body.max, hi)
	root := *r.root
	root.subs = slices.Clone(r.root.subs)
	root.subs[1] = &narrowed
	return &regex{b: r.b, src: r.src, root: &root}
}
