package onig

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/troupe-engine/troupe/internal/tokenizers/ucd"
)

type op uint8

const (
	opEmpty  op = iota
	opSet       // one code point of set
	opCat       // subs one after another
	opAlt       // the first of subs that leads to a match
	opRepeat    // subs[0], min to max times
	opAtomic    // subs[0], its first match only
	opLook      // subs[0] must (or, if neg, must not) match here, or end here if behind
	opAssert    // a position
)

type assertion uint8

const (
	assertBeginLine assertion = iota
	assertEndLine
	assertBeginText
	assertEndText
	assertEndTextOrFinalNewline
	assertWordBoundary
	assertNotWordBoundary
)

type mode uint8

const (
	greedy mode = iota
	lazy
	possessive
)

const (
	infinite = int(^uint(0) >> 1)
	// maxNesting bounds the parser's recursion.
	maxNesting = 100
	// maxPatternBytes bounds a pattern's length; the longest in known tokenizers has about 3 KB.
	maxPatternBytes = 64 << 10
	// maxRepeat bounds the numbers in {n,m}, as Oniguruma does.
	maxRepeat = 100_000
)

type node struct {
	op          op
	set         ucd.Set
	subs        []*node
	min, max    int
	mode        mode
	neg, behind bool
	assert      assertion
}

// parser reads Oniguruma's Ruby syntax, with UTF-8 text and Unicode classes.
type parser struct {
	text  string
	pos   int
	fold  bool // (?i)
	dot   bool // (?m): . matches a newline too
	ext   bool // (?x)
	depth int
}

func parse(pattern string) (n *node, err error) {
	if len(pattern) > maxPatternBytes {
		return nil, fmt.Errorf("pattern has %d bytes, more than the %d supported", len(pattern), maxPatternBytes)
	}
	if !utf8.ValidString(pattern) {
		return nil, fmt.Errorf("pattern is not valid UTF-8")
	}
	p := &parser{text: pattern}
	n, err = p.alternation()
	if err == nil && p.pos < len(p.text) {
		err = fmt.Errorf("unmatched )")
	}
	if err != nil {
		return nil, fmt.Errorf("at byte %d: %w", p.pos, err)
	}
	return n, nil
}

func (p *parser) more() bool { return p.pos < len(p.text) }

func (p *parser) peek() rune {
	r, _ := utf8.DecodeRuneInString(p.text[p.pos:])
	return r
}

func (p *parser) next() rune {
	r, w := utf8.DecodeRuneInString(p.text[p.pos:])
	p.pos += w
	return r
}

func (p *parser) accept(s string) bool {
	if strings.HasPrefix(p.text[p.pos:], s) {
		p.pos += len(s)
		return true
	}
	return false
}

// alternation reads up to the end of the pattern or a closing parenthesis. Options set inside it, as in
// a(?i)b|c, hold to its end.
func (p *parser) alternation() (*node, error) {
	if p.depth++; p.depth > maxNesting {
		return nil, fmt.Errorf("nested deeper than %d", maxNesting)
	}
	defer func(fold, dot, ext bool) { p.depth--; p.fold, p.dot, p.ext = fold, dot, ext }(p.fold, p.dot, p.ext)
	var branches []*node
	for {
		branch, err := p.sequence()
		if err != nil {
			return nil, err
		}
		branches = append(branches, branch)
		if !p.accept("|") {
			break
		}
	}
	if len(branches) == 1 {
		return branches[0], nil
	}
	return &node{op: opAlt, subs: branches}, nil
}

func (p *parser) sequence() (*node, error) {
	cat := &node{op: opCat}
	for p.more() && p.peek() != '|' && p.peek() != ')' {
		if p.ext && p.skipExtended() {
			continue
		}
		item, err := p.item()
		if err != nil {
			return nil, err
		}
		if item == nil {
			continue
		}
		if item, err = p.quantified(item); err != nil {
			return nil, err
		}
		cat.subs = append(cat.subs, item)
	}
	return cat, nil
}

// skipExtended skips white space and comments under (?x).
func (p *parser) skipExtended() bool {
	switch p.peek() {
	case ' ', '\t', '\n', '\r', '\v', '\f':
		p.next()
		return true
	case '#':
		for p.more() && p.next() != '\n' {
		}
		return true
	}
	return false
}

// quantified reads the quantifiers after an item.
func (p *parser) quantified(item *node) (*node, error) {
	for stacked := 0; p.more(); stacked++ {
		n := &node{op: opRepeat, subs: []*node{item}}
		braces := false
		switch p.peek() {
		case '*':
			n.min, n.max = 0, infinite
		case '+':
			n.min, n.max = 1, infinite
		case '?':
			n.min, n.max = 0, 1
		case '{':
			start := p.pos
			if !p.braces(n) {
				p.pos = start
				return item, nil
			}
			if n.max < n.min || n.min > maxRepeat || n.max != infinite && n.max > maxRepeat {
				return nil, fmt.Errorf("repeat {%d,%d} is out of order or above %d", n.min, n.max, maxRepeat)
			}
			braces = true
		default:
			return item, nil
		}
		if stacked >= 4 {
			return nil, fmt.Errorf("more than 4 quantifiers in a row")
		}
		if item.op == opAssert || item.op == opLook {
			return nil, fmt.Errorf("a quantifier after an assertion is not supported")
		}
		if !braces {
			p.next()
		}
		if p.accept("?") {
			n.mode = lazy
		} else if !braces && p.accept("+") { // in Ruby's syntax {n,m}+ repeats the repeat instead
			n.mode = possessive
		}
		item = n
	}
	return item, nil
}

// braces reads {n}, {n,}, {,m} or {n,m}; anything else is a literal brace.
func (p *parser) braces(n *node) bool {
	p.next()
	low, hasLow := p.number()
	n.min, n.max = low, low
	if p.accept(",") {
		high, hasHigh := p.number()
		if !hasLow && !hasHigh {
			return false
		}
		n.max = high
		if !hasHigh {
			n.max = infinite
		}
	} else if !hasLow {
		return false
	}
	return p.accept("}")
}

func (p *parser) number() (n int, ok bool) {
	for p.more() && '0' <= p.peek() && p.peek() <= '9' {
		n = min(n*10+int(p.next()-'0'), maxRepeat+1)
		ok = true
	}
	return n, ok
}

// item reads one atom. It returns nil for a comment or an option group.
func (p *parser) item() (*node, error) {
	switch r := p.next(); r {
	case '(':
		return p.group()
	case '[':
		set, err := p.class()
		if err != nil {
			return nil, err
		}
		return &node{op: opSet, set: set}, nil
	case '.':
		if p.dot {
			return &node{op: opSet, set: ucd.Any()}, nil
		}
		return &node{op: opSet, set: ucd.Rune('\n').Negate()}, nil
	case '^':
		return &node{op: opAssert, assert: assertBeginLine}, nil
	case '$':
		return &node{op: opAssert, assert: assertEndLine}, nil
	case '*', '+', '?':
		return nil, fmt.Errorf("nothing to repeat before %q", r)
	case '\\':
		return p.escape()
	default:
		return &node{op: opSet, set: p.foldRune(r)}, nil
	}
}

func (p *parser) foldRune(r rune) ucd.Set {
	set := ucd.Rune(r)
	if p.fold {
		for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
			set = set.Union(ucd.Rune(f))
		}
	}
	return set
}

// escape reads what follows a backslash outside a class.
func (p *parser) escape() (*node, error) {
	if !p.more() {
		return nil, fmt.Errorf("pattern ends with a backslash")
	}
	assertions := map[rune]assertion{
		'A': assertBeginText, 'z': assertEndText, 'Z': assertEndTextOrFinalNewline,
		'b': assertWordBoundary, 'B': assertNotWordBoundary,
	}
	r := p.peek()
	if a, ok := assertions[r]; ok {
		p.next()
		return &node{op: opAssert, assert: a}, nil
	}
	if r == 'R' { // a line break; \r\n is not taken apart
		p.next()
		breaks := ucd.Of(ucd.Range{Lo: '\n', Hi: '\r'}, ucd.Range{Lo: 0x85, Hi: 0x85}, ucd.Range{Lo: 0x2028, Hi: 0x2029})
		crlf := &node{op: opCat, subs: []*node{
			{op: opSet, set: ucd.Rune('\r')}, {op: opSet, set: ucd.Rune('\n')},
		}}
		return &node{op: opAtomic, subs: []*node{{op: opAlt, subs: []*node{crlf, {op: opSet, set: breaks}}}}}, nil
	}
	set, literal, err := p.escapeSet()
	if err != nil {
		return nil, err
	}
	if literal >= 0 {
		set = p.foldRune(literal)
	}
	return &node{op: opSet, set: set}, nil
}

// group reads what follows an opening parenthesis.
func (p *parser) group() (*node, error) {
	wrap := &node{op: opCat}
	switch {
	case p.accept("?#"):
		for p.more() {
			if p.next() == ')' {
				return nil, nil
			}
		}
		return nil, fmt.Errorf("unclosed comment")
	case p.accept("?:"):
	case p.accept("?>"):
		wrap = &node{op: opAtomic}
	case p.accept("?="):
		wrap = &node{op: opLook}
	case p.accept("?!"):
		wrap = &node{op: opLook, neg: true}
	case p.accept("?<="):
		wrap = &node{op: opLook, behind: true}
	case p.accept("?<!"):
		wrap = &node{op: opLook, behind: true, neg: true}
	case p.accept("?<"), p.accept("?P<"): // a named group captures what nobody asks for
		for p.more() && p.next() != '>' {
		}
	case p.accept("?"):
		return p.options()
	}
	body, err := p.alternation()
	if err != nil {
		return nil, err
	}
	if !p.accept(")") {
		return nil, fmt.Errorf("unclosed group")
	}
	wrap.subs = []*node{body}
	return wrap, nil
}

// options reads (?imx-imx) and (?imx-imx:...).
func (p *parser) options() (*node, error) {
	fold, dot, ext := p.fold, p.dot, p.ext
	on := true
	for p.more() {
		switch r := p.next(); r {
		case '-':
			on = false
		case 'i':
			fold = on
		case 'm':
			dot = on
		case 'x':
			ext = on
		case ')':
			p.fold, p.dot, p.ext = fold, dot, ext
			return nil, nil
		case ':':
			oldFold, oldDot, oldExt := p.fold, p.dot, p.ext
			p.fold, p.dot, p.ext = fold, dot, ext
			body, err := p.alternation()
			p.fold, p.dot, p.ext = oldFold, oldDot, oldExt
			if err == nil && !p.accept(")") {
				err = fmt.Errorf("unclosed group")
			}
			return &node{op: opCat, subs: []*node{body}}, err
		default:
			return nil, fmt.Errorf("group option %q is not supported", r)
		}
	}
	return nil, fmt.Errorf("unclosed group")
}
