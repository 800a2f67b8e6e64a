package guide

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// regexNode is the syntax tree of a regular expression.
type regexNode struct {
	kind     regexKind
	set      runeSet
	subs     []*regexNode
	min, max int
	pos      int // byte offset, for errors
}

type regexKind uint8

const (
	reEmpty regexKind = iota
	reClass
	reSeq
	reAlt
	reRepeat
	reStart // ^
	reEnd   // $
)

// regex is a parsed expression, ready to be turned into IR.
type regex struct {
	b    *builder
	src  string
	root *regexNode
}

// regexParser reads the common regular subset of ECMA-262 and Python expressions.
type regexParser struct {
	src   string
	pos   int
	depth int
	// unicode has the Unicode classes that were read, so that equal ones are one slice.
	unicode map[string]runeSet
}

func parseRegex(b *builder, src string) *regex {
	p := &regexParser{src: src, unicode: map[string]runeSet{}}
	if !utf8.ValidString(src) {
		p.fail("the expression is not valid UTF-8", "")
	}
	root := p.alternatives()
	if p.pos < len(p.src) {
		p.fail("unmatched )", `write \) for the character`)
	}
	return &regex{b: b, src: src, root: root}
}

// character names a byte offset of an expression for people.
func character(src string, pos int) string {
	return fmt.Sprintf("character %d", utf8.RuneCountInString(src[:min(pos, len(src))])+1)
}

func (p *regexParser) fail(problem, hint string) {
	panic(&Error{At: character(p.src, p.pos), Problem: problem, Hint: hint})
}

func (p *regexParser) more() bool { return p.pos < len(p.src) }

func (p *regexParser) has(prefix string) bool { return strings.HasPrefix(p.src[p.pos:], prefix) }

func (p *regexParser) take(prefix string) bool {
	if p.has(prefix) {
		p.pos += len(prefix)
		return true
	}
	return false
}

func (p *regexParser) rune() rune {
	r, n := utf8.DecodeRuneInString(p.src[p.pos:])
	if n == 0 {
		p.fail("the expression ends too early", "")
	}
	p.pos += n
	return r
}

func (p *regexParser) alternatives() *regexNode {
	if p.depth++; p.depth > patternDepthMax {
		p.fail(fmt.Sprintf("groups nest deeper than %d", patternDepthMax), "make the expression flatter")
	}
	defer func() { p.depth-- }()
	subs := []*regexNode{p.sequence()}
	for p.take("|") {
		subs = append(subs, p.sequence())
	}
	if len(subs) == 1 {
		return subs[0]
	}
	return &regexNode{kind: reAlt, subs: subs, pos: p.pos}
}

func (p *regexParser) sequence() *regexNode {
	var subs []*regexNode
	for p.more() && !p.has("|") && !p.has(")") {
		n := p.atom()
		for quantified := false; p.quantifier(&n, quantified); {
			quantified = true
		}
		subs = append(subs, n)
	}
	switch len(subs) {
	case 0:
		return &regexNode{kind: reEmpty}
	case 1:
		return subs[0]
	}
	return &regexNode{kind: reSeq, subs: subs, pos: p.pos}
}

// quantifier wraps n in the quantifier that follows, if one does.
func (p *regexParser) quantifier(n **regexNode, quantified bool) bool {
	start := p.pos
	lo, hi := 0, unbounded
	switch {
	case p.take("*"):
	case p.take("+"):
		lo = 1
	case p.take("?"):
		hi = 1
	case p.has("{"):
		var ok bool
		if lo, hi, ok = p.counts(); !ok {
			return false
		}
	default:
		return false
	}
	if quantified {
		p.pos = start
		p.fail("a quantifier after a quantifier", "group the first with (?:…)")
	}
	if (*n).kind == reStart || (*n).kind == reEnd {
		p.pos = start
		p.fail("a quantifier on an anchor", "remove it")
	}
	if p.take("+") {
		p.pos--
		p.fail("possessive quantifiers are not supported", "remove the second +")
	}
	p.take("?") // laziness does not change what matches
	*n = &regexNode{kind: reRepeat, subs: []*regexNode{*n}, min: lo, max: hi, pos: p.pos}
	return true
}

// counts reads {m}, {m,} or {m,n}. Other braces are literal, as in Python and ECMA-262 annex B.
func (p *regexParser) counts() (lo, hi int, ok bool) {
	i := p.pos + 1
	number := func() (int, bool) {
		start, n := i, 0
		for ; i < len(p.src) && p.src[i] >= '0' && p.src[i] <= '9'; i++ {
			n = min(n*10+int(p.src[i]-'0'), repeatMax+1)
		}
		return n, i > start
	}
	lo, ok = number()
	if !ok || i >= len(p.src) {
		return 0, 0, false
	}
	hi = lo
	if p.src[i] == ',' {
		i++
		if hi, ok = number(); !ok {
			hi = unbounded
		}
	}
	if i >= len(p.src) || p.src[i] != '}' {
		return 0, 0, false
	}
	if lo > repeatMax || hi > repeatMax {
		p.fail(fmt.Sprintf("a count above %d", repeatMax), "use a smaller one")
	}
	if hi != unbounded && hi < lo {
		p.fail(fmt.Sprintf("the counts {%d,%d} are out of order", lo, hi), "swap them")
	}
	p.pos = i + 1
	return lo, hi, true
}

func (p *regexParser) atom() *regexNode {
	at := p.pos
	switch c := p.src[p.pos]; c {
	case '(':
		p.pos++
		p.groupHead()
		n := p.alternatives()
		if !p.take(")") {
			p.fail("a group is not closed", "add )")
		}
		return n
	case '^':
		p.pos++
		return &regexNode{kind: reStart, pos: at}
	case '$':
		p.pos++
		return &regexNode{kind: reEnd, pos: at}
	case '*', '+', '?':
		p.fail(fmt.Sprintf("nothing for %q to repeat", string(c)), `write \`+string(c)+" for the character")
	case '.':
		p.pos++
		return &regexNode{kind: reClass, set: dotSet, pos: at}
	case '[':
		return &regexNode{kind: reClass, set: p.bracket().narrow, pos: at}
	case '\\':
		switch {
		case p.take(`\A`):
			return &regexNode{kind: reStart, pos: at}
		case p.take(`\Z`), p.take(`\z`):
			return &regexNode{kind: reEnd, pos: at}
		}
		return &regexNode{kind: reClass, set: p.escape(false).narrow, pos: at}
	}
	r := p.rune()
	return &regexNode{kind: reClass, set: runeSet{{r, r}}, pos: at}
}

// groupHead reads what follows the parenthesis of a group.
func (p *regexParser) groupHead() {
	switch {
	case !p.has("?"), p.take("?:"):
		return
	case p.has("?="), p.has("?!"), p.has("?<="), p.has("?<!"):
		p.fail("lookaround is not regular and not supported", "spell out what may match")
	case p.has("?P="):
		p.fail("backreferences are not regular and not supported", "spell out what may match")
	case p.take("?P<"), p.take("?<"):
		if end := strings.IndexByte(p.src[p.pos:], '>'); end > 0 {
			p.pos += end + 1
			return
		}
		p.fail("the name of a group is not closed", "add >")
	}
	p.fail("this kind of group is not supported", "use (?:…); for either case write both, as in [aA]")
}

// fullMatch is the language of the whole expression: anchors at its ends change nothing.
func (r *regex) fullMatch() *node {
	return r.lower(r.root, true, true, emptyNode, r.b.class)
}

// lower turns n into IR. left and right say that n is at that end of the expression; there, pad is added unless an
// anchor stands against it. char makes the node that reads a character of a set.
func (r *regex) lower(n *regexNode, left, right bool, pad *node, char func(runeSet) *node) *node {
	edge := func(is bool) *node {
		if is {
			return pad
		}
		return emptyNode
	}
	switch n.kind {
	case reStart, reEnd:
		if n.kind == reStart && left {
			return edge(right)
		}
		if n.kind == reEnd && right {
			return edge(left)
		}
		panic(&Error{At: character(r.src, n.pos), Problem: "an anchor inside the expression is not supported",
			Hint: "use ^ and $ only at the ends of the expression or of its alternatives"})
	case reAlt:
		subs := make([]*node, len(n.subs))
		for i, s := range n.subs {
			subs[i] = r.lower(s, left, right, pad, char)
		}
		return r.b.alt(subs...)
	case reSeq:
		subs := make([]*node, len(n.subs))
		for i, s := range n.subs {
			subs[i] = r.lower(s, left && i == 0, right && i == len(n.subs)-1, pad, char)
		}
		return r.b.seq(subs...)
	case reClass:
		return r.b.seq(edge(left), char(n.set), edge(right))
	case reRepeat:
		body := r.lower(n.subs[0], false, false, pad, char)
		return r.b.seq(edge(left), r.b.repeat(body, n.min, n.max), edge(right))
	}
	return edge(left || right)
}
