package guide

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// schema is one schema of the source: an object or a boolean. Schemas are compared by pointer.
type schema struct {
	id  int
	at  string // JSON pointer
	doc *jsonValue
}

// inlined is a conjunction that is written in place, unless it turns out to contain itself.
type inlined struct {
	node *node
	busy bool
	rule int // that stands for it while it is busy, or -1
}

// schemaCompiler turns JSON Schema into IR. A value often has to satisfy several schemas at once (allOf, $ref next to
// other keywords, a property that several schemas describe); such a conjunction is a sorted list of schemas. It is
// unfolded into branches without applicators (combine.go), each branch is merged into one description of what values
// it allows (shape.go), and that is written as IR, type by type.
type schemaCompiler struct {
	*builder
	doc     *jsonValue
	schemas map[*jsonValue]*schema
	rules   map[string]int      // rule of each conjunction that $ref leads to
	inline  map[string]*inlined // other conjunctions
	any     *anyJSON
	// progress has the schemas that are known not to lead back to themselves by applicators alone.
	progress map[*schema]bool
	enums    map[*schema]map[string]bool // keys of the values of each enum that was asked for
	depth    int
}

func newSchemaCompiler(b *builder) *schemaCompiler {
	c := &schemaCompiler{builder: b, schemas: map[*jsonValue]*schema{}, rules: map[string]int{},
		inline: map[string]*inlined{}, progress: map[*schema]bool{},
		enums: map[*schema]map[string]bool{}}
	c.any = newAnyJSON(b)
	return c
}

func (c *schemaCompiler) anyObject() *node {
	c.names = true
	return c.any.object
}

// anyValue compiles what may be anything.
func (c *schemaCompiler) anyValue() *node {
	c.names = true
	return c.any.value
}

// root compiles the whole source.
func (c *schemaCompiler) root(source string) *node {
	c.doc = parseJSON(source)
	return c.reference([]*schema{c.schema(c.doc, "#")})
}

// schema wraps a part of the source that must be a schema, and checks its keywords.
func (c *schemaCompiler) schema(doc *jsonValue, at string) *schema {
	if s, ok := c.schemas[doc]; ok {
		return s
	}
	switch doc.kind {
	case jsonMap, jsonTrue, jsonFalse:
	default:
		panic(&Error{At: at, Problem: "a schema must be an object or a boolean, not " + doc.kind.String()})
	}
	s := &schema{id: len(c.schemas), at: at, doc: doc}
	c.schemas[doc] = s
	c.checkKeywords(s)
	return s
}

// child is the schema in a keyword's value, or in an element of it.
func (c *schemaCompiler) child(s *schema, doc *jsonValue, path ...string) *schema {
	at := s.at
	for _, p := range path {
		at = join(at, p)
	}
	return c.schema(doc, at)
}

func (s *schema) pointer() string { return s.at }

func (s *schema) field(name string) *jsonValue { return s.doc.fields[name] }

// ignored are the keywords that say nothing about which values are valid.
var ignored = []string{"title", "description", "default", "example", "examples", "$schema", "$comment", "$id", "id",
	"$defs", "definitions", "deprecated", "readOnly", "writeOnly", "discriminator", "externalDocs", "xml",
	"contentEncoding", "contentMediaType", "contentSchema", "strict", "propertyOrdering", "$vocabulary"}

// honoured are the keywords that the compiler reads.
var honoured = []string{"type", "nullable", "enum", "const", "properties", "required", "additionalProperties",
	"patternProperties", "minProperties", "maxProperties", "items", "prefixItems", "additionalItems", "minItems",
	"maxItems", "uniqueItems", "anyOf", "oneOf", "allOf", "$ref", "minLength", "maxLength", "pattern", "format",
	"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}

// refusedHints says what to do about keywords that cannot be honoured.
var refusedHints = map[string]string{
	"not":                   "list what is allowed, with enum or anyOf",
	"if":                    "use anyOf with one branch per case",
	"then":                  "use anyOf with one branch per case",
	"else":                  "use anyOf with one branch per case",
	"dependentRequired":     "use anyOf with one branch per case",
	"dependentSchemas":      "use anyOf with one branch per case",
	"dependencies":          "use anyOf with one branch per case",
	"contains":              "use prefixItems or items",
	"minContains":           "use prefixItems or items",
	"maxContains":           "use prefixItems or items",
	"propertyNames":         "use patternProperties with additionalProperties false",
	"unevaluatedProperties": "use additionalProperties",
	"unevaluatedItems":      "use items",
	"$dynamicRef":           "use $ref",
	"$dynamicAnchor":        "use $defs and a JSON pointer in $ref",
	"$recursiveRef":         "use $ref",
	"$anchor":               "use $defs and a JSON pointer in $ref",
}

func (c *schemaCompiler) checkKeywords(s *schema) {
	for _, name := range s.doc.names {
		switch {
		case slices.Contains(honoured, name), strings.HasPrefix(name, "x-"):
		case slices.Contains(ignored, name):
			if (name == "$id" || name == "id") && s.doc != c.doc && s.doc.fields["$ref"] == nil &&
				s.doc.fields[name].kind == jsonText {
				panic(&Error{At: join(s.at, name), Problem: "an identifier below the root is not supported",
					Hint: "remove it and refer to the schema by JSON pointer"})
			}
		default:
			hint := refusedHints[name]
			if hint == "" {
				hint = "remove it, or rename it to x-" + name + " if it is a note"
			}
			panic(&Error{At: join(s.at, name), Problem: fmt.Sprintf("the keyword %q is not supported", name), Hint: hint})
		}
	}
}

// conjunction sorts schemas and removes those that are repeated or true.
func conjunction(schemas []*schema) []*schema {
	out := slices.DeleteFunc(slices.Clone(schemas), func(s *schema) bool { return s.doc.kind == jsonTrue })
	slices.SortFunc(out, func(a, b *schema) int { return a.id - b.id })
	return slices.Compact(out)
}

func keyOf(schemas []*schema) string {
	var b strings.Builder
	for _, s := range schemas {
		b.WriteString(strconv.Itoa(s.id))
		b.WriteByte(' ')
	}
	return b.String()
}

// value compiles a conjunction. What $ref leads to becomes a rule, which makes recursion possible and shares what is
// used often; the rest is written in place.
func (c *schemaCompiler) value(schemas []*schema) *node {
	direct, referred := c.follow(schemas)
	if referred {
		return c.reference(direct)
	}
	key := keyOf(direct)
	in, ok := c.inline[key]
	switch {
	case !ok:
		in = &inlined{busy: true, rule: -1}
		c.inline[key] = in
		in.node, in.busy = c.body(direct), false
		if in.rule >= 0 {
			c.builder.rules[in.rule].body = in.node
			in.node = c.ref(in.rule)
		}
	case in.busy:
		if in.rule < 0 {
			in.rule = c.newRule(direct[0].at)
		}
		return c.ref(in.rule)
	}
	return in.node
}

// reference compiles a conjunction as a rule.
func (c *schemaCompiler) reference(schemas []*schema) *node {
	schemas = conjunction(schemas)
	if len(schemas) == 0 {
		return c.anyValue()
	}
	key := keyOf(schemas)
	if index, ok := c.rules[key]; ok {
		return c.ref(index)
	}
	c.where = schemas[0].pointer
	index := c.newRule(schemas[0].at)
	c.rules[key] = index
	body := c.body(schemas)
	c.builder.rules[index].body = body
	return c.ref(index)
}

// compileDepthMax bounds how deep schemas lead into each other, references included.
const compileDepthMax = 2000

// body writes what satisfies all of the schemas.
func (c *schemaCompiler) body(schemas []*schema) *node {
	if len(schemas) == 0 {
		return c.anyValue()
	}
	if c.depth++; c.depth > compileDepthMax {
		panic(&Error{At: schemas[0].at, Problem: "schemas refer to each other too deeply", Hint: "make the schema flatter"})
	}
	defer func() { c.depth-- }()
	var alts []*node
	if choices := c.pureChoice(schemas); choices != nil {
		for _, choice := range choices {
			alts = append(alts, c.value(choice))
		}
		return c.alt(alts...)
	}
	for _, branch := range c.unfold(schemas) {
		c.where = schemas[0].pointer
		if sh := c.merge(branch); sh != nil {
			alts = append(alts, c.shapeNode(sh))
		}
	}
	return c.alt(alts...)
}

// follow replaces schemas that are nothing but a $ref by what they refer to.
func (c *schemaCompiler) follow(schemas []*schema) (direct []*schema, referred bool) {
	for _, s := range schemas {
		for hops := 0; s.only("$ref"); hops++ {
			if hops > 100 {
				panic(&Error{At: s.at, Problem: "the $ref leads in a circle"})
			}
			s, referred = c.target(s), true
		}
		direct = append(direct, s)
	}
	return conjunction(direct), referred
}

// pureChoice returns the alternatives of a conjunction that is nothing but an anyOf or oneOf; they need no merging.
func (c *schemaCompiler) pureChoice(schemas []*schema) [][]*schema {
	if len(schemas) != 1 || !schemas[0].only("anyOf") && !schemas[0].only("oneOf") {
		return nil
	}
	c.requireProgress(schemas[0], nil)
	return c.choices(schemas[0])
}

// only reports whether a schema constrains values by one keyword alone.
func (s *schema) only(keyword string) bool {
	if s.doc.kind != jsonMap || s.field(keyword) == nil {
		return false
	}
	for _, name := range s.doc.names {
		if name != keyword && slices.Contains(honoured, name) {
			return false
		}
	}
	return true
}

// target resolves the $ref of a schema: a JSON pointer within the document.
func (c *schemaCompiler) target(s *schema) *schema {
	at := join(s.at, "$ref")
	ref := s.field("$ref")
	if ref.kind != jsonText {
		panic(&Error{At: at, Problem: "must be a string"})
	}
	if ref.text != "#" && !strings.HasPrefix(ref.text, "#/") {
		panic(&Error{At: at, Problem: fmt.Sprintf("the reference %.80q does not point into the schema", ref.text),
			Hint: "put the schema under $defs and refer to it as #/$defs/name"})
	}
	doc := c.doc
	for _, token := range strings.Split(ref.text, "/")[1:] {
		token = strings.NewReplacer("~1", "/", "~0", "~", "%25", "%", "%22", `"`).Replace(token)
		next := doc.fields[token]
		if doc.kind == jsonArray {
			if i, err := strconv.Atoi(token); err == nil && i >= 0 && i < len(doc.items) {
				next = doc.items[i]
			}
		}
		if next == nil {
			panic(&Error{At: at, Problem: fmt.Sprintf("the reference %.80q leads to nothing: %.40q is missing", ref.text,
				token)})
		}
		doc = next
	}
	return c.schema(doc, ref.text)
}
