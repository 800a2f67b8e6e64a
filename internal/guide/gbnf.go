package guide

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// gbnfParser reads grammars as llama.cpp writes them (grammars/README.md of that project). It shares the scanner and
// the character classes of the regular expressions. Line breaks separate nothing: a rule ends where "name ::="
// begins another, so alternatives may stand on lines of their own.
//
// Beyond llama.cpp: %json {schema} is a value of a JSON Schema, %regex "expression" a full match.
type gbnfParser struct {
	regexParser
	b     *builder
	rules map[string]int
	// defined and used tell undefined rules; used maps a name to where it was first used.
	defined map[string]bool
	used    map[string]int
	order   []string
}

func parseGBNF(b *builder, src string) *node {
	p := &gbnfParser{regexParser: regexParser{src: src, unicode: map[string]runeSet{}}, b: b, rules: map[string]int{}, defined: map[string]bool{},
		used: map[string]int{}}
	if !utf8.ValidString(src) {
		panic(&Error{Problem: "the grammar is not valid UTF-8"})
	}
	b.where = p.position
	defer func() { // positions of a grammar are lines and columns
		if e := recover(); e != nil {
			if e, ok := e.(*Error); ok && strings.HasPrefix(e.At, "character ") {
				e.At = p.position()
			}
			panic(e)
		}
	}()
	for p.space(); p.more(); p.space() {
		p.rule()
	}
	for _, name := range p.order {
		if !p.defined[name] {
			panic(&Error{At: p.positionOf(p.used[name]), Problem: fmt.Sprintf("the rule %q is not defined", name),
				Hint: "add " + name + " ::= …"})
		}
	}
	if !p.defined["root"] {
		panic(&Error{Problem: `the grammar has no rule "root"`, Hint: "add root ::= …"})
	}
	return b.ref(p.rules["root"])
}

func (p *gbnfParser) position() string { return p.positionOf(p.pos) }

func (p *gbnfParser) positionOf(pos int) string {
	before := p.src[:min(pos, len(p.src))]
	line := strings.Count(before, "\n") + 1
	column := utf8.RuneCountInString(before[strings.LastIndexByte(before, '\n')+1:]) + 1
	return fmt.Sprintf("line %d, column %d", line, column)
}

// space skips blanks, line breaks and comments.
func (p *gbnfParser) space() {
	for p.more() {
		switch p.src[p.pos] {
		case ' ', '\t', '\r', '\n':
			p.pos++
		case '#':
			if end := strings.IndexByte(p.src[p.pos:], '\n'); end >= 0 {
				p.pos += end
			} else {
				p.pos = len(p.src)
			}
		default:
			return
		}
	}
}

func (p *gbnfParser) name() string {
	start := p.pos
	for p.more() && isNameByte(p.src[p.pos]) {
		p.pos++
	}
	return p.src[start:p.pos]
}

func isNameByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_'
}

func (p *gbnfParser) ruleIndex(name string) int {
	if i, ok := p.rules[name]; ok {
		return i
	}
	p.rules[name] = p.b.newRule(name)
	p.order = append(p.order, name)
	return p.rules[name]
}

func (p *gbnfParser) rule() {
	name := p.name()
	if name == "" {
		p.fail(fmt.Sprintf("expected the name of a rule, found %.10q", p.src[p.pos:]), "write name ::= …")
	}
	index := p.ruleIndex(name)
	if p.defined[name] {
		p.fail(fmt.Sprintf("the rule %q is defined twice", name), "join the two with |")
	}
	p.defined[name] = true
	p.space()
	if !p.take("::=") {
		p.fail("expected ::= after the name of a rule", "")
	}
	body := p.alternativesOf()
	if p.more() && !p.startsRule() {
		p.fail(fmt.Sprintf("unexpected %.10q", p.src[p.pos:]), "")
	}
	p.b.rules[index].body = body
}

// startsRule reports whether a name and ::= come next.
func (p *gbnfParser) startsRule() bool {
	start := p.pos
	defer func() { p.pos = start }()
	if p.name() == "" {
		return false
	}
	p.space()
	return p.has("::=")
}

func (p *gbnfParser) alternativesOf() *node {
	if p.depth++; p.depth > patternDepthMax {
		p.fail(fmt.Sprintf("groups nest deeper than %d", patternDepthMax), "name the inner ones as rules")
	}
	defer func() { p.depth-- }()
	subs := []*node{p.sequenceOf()}
	for p.take("|") {
		subs = append(subs, p.sequenceOf())
	}
	return p.b.alt(subs...)
}

func (p *gbnfParser) sequenceOf() *node {
	var subs []*node
	for p.space(); p.more() && !p.has("|") && !p.has(")") && !p.startsRule(); p.space() {
		n := p.element()
		for p.space(); ; p.space() {
			var ok bool
			if n, ok = p.repeated(n); !ok {
				break
			}
		}
		subs = append(subs, n)
	}
	return p.b.seq(subs...)
}

// repeated wraps n in the quantifier that follows, if one does.
func (p *gbnfParser) repeated(n *node) (*node, bool) {
	switch {
	case p.take("*"):
		return p.b.repeat(n, 0, unbounded), true
	case p.take("+"):
		return p.b.repeat(n, 1, unbounded), true
	case p.take("?"):
		return p.b.optional(n), true
	case p.has("{"):
		lo, hi, ok := p.counts()
		if !ok {
			p.fail("malformed {m,n}", "write {m}, {m,} or {m,n}")
		}
		return p.b.repeat(n, lo, hi), true
	}
	return n, false
}

func (p *gbnfParser) element() *node {
	switch c := p.src[p.pos]; {
	case c == '"':
		return p.b.literal(p.quoted())
	case c == '[':
		return p.b.class(p.bracketOf())
	case c == '.':
		p.pos++
		return p.b.class(anyRune)
	case c == '(':
		p.pos++
		n := p.alternativesOf()
		if !p.take(")") {
			p.fail("a group is not closed", "add )")
		}
		return n
	case c == '%':
		return p.embedded()
	case isNameByte(c):
		at := p.pos
		name := p.name()
		if _, ok := p.used[name]; !ok {
			p.used[name] = at
		}
		return p.b.ref(p.ruleIndex(name))
	}
	p.fail(fmt.Sprintf("unexpected %.10q", p.src[p.pos:]), `literal text stands in "quotes"`)
	return nil
}

// quoted reads a string literal.
func (p *gbnfParser) quoted() string {
	start := p.pos
	p.pos++
	var text strings.Builder
	for !p.take(`"`) {
		if !p.more() {
			p.pos = start
			p.fail("a string is not closed", `add "`)
		}
		text.WriteRune(p.character())
	}
	return text.String()
}

// character reads one character or escape of a string or class.
func (p *gbnfParser) character() rune {
	if !p.take(`\`) {
		return p.rune()
	}
	switch r := p.rune(); r {
	case 'n':
		return '\n'
	case 'r':
		return '\r'
	case 't':
		return '\t'
	case 'x':
		return p.hex(2)[0].lo
	case 'u':
		return p.hex(4)[0].lo
	case 'U':
		return p.hex(8)[0].lo
	case '"', '\\', '[', ']', '-', '^', '/':
		return r
	default:
		p.pos -= utf8.RuneLen(r) + 1
		p.fail(fmt.Sprintf(`the escape \%c is unknown`, r), `known are \n \r \t \\ \" \[ \] \xNN \uNNNN \UNNNNNNNN`)
		return 0
	}
}

func (p *gbnfParser) bracketOf() runeSet {
	start := p.pos
	p.pos++
	negated := p.take("^")
	var ranges []runeRange
	for !p.take("]") {
		if !p.more() {
			p.pos = start
			p.fail("a character class is not closed", "add ]")
		}
		lo := p.character()
		hi := lo
		if p.has("-") && !p.has("-]") {
			p.pos++
			if !p.more() {
				continue
			}
			if hi = p.character(); hi < lo {
				p.fail("a range in a character class is out of order", "swap its ends")
			}
		}
		ranges = append(ranges, runeRange{lo, hi})
	}
	set := newRuneSet(ranges...)
	if negated {
		return set.complement()
	}
	return set
}

// embedded reads %json {…} or %regex "…".
func (p *gbnfParser) embedded() *node {
	at := p.pos
	defer func() { // the inner position follows the outer one
		if e := recover(); e != nil {
			if e, ok := e.(*Error); ok && e.At != "" && !strings.HasPrefix(e.At, "line ") {
				e.At = p.positionOf(at) + ", " + e.At
			}
			panic(e)
		}
	}()
	switch {
	case p.take("%json"):
		p.space()
		source := jsonPrefix(p.src[p.pos:])
		n := newSchemaCompiler(p.b).root(source)
		p.b.where = p.position
		p.pos += len(source)
		return n
	case p.take("%regex"):
		if p.space(); !p.has(`"`) {
			p.fail(`%regex needs an expression in "quotes"`, "")
		}
		// Backslashes belong to the expression; only \" is undone.
		end := p.pos + 1
		for end < len(p.src) && p.src[end] != '"' {
			if p.src[end] == '\\' {
				end++
			}
			end++
		}
		if end >= len(p.src) {
			p.fail("a string is not closed", `add "`)
		}
		source := strings.ReplaceAll(p.src[p.pos+1:end], `\"`, `"`)
		p.pos = end + 1
		return parseRegex(p.b, source).fullMatch()
	}
	p.fail("unknown directive", "known are %json {schema} and %regex \"expression\"")
	return nil
}

// jsonPrefix returns the JSON object at the beginning of s, by its braces; its parser finds what else is wrong.
func jsonPrefix(s string) string {
	depth, inString := 0, false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{':
			depth++
		case c == '}':
			if depth--; depth <= 0 {
				return s[:i+1]
			}
		}
	}
	return s
}
