package jinja

import (
	"slices"
)

const (
	sourceBytesMax = 1 << 20
	nestingMax     = 100 // of statements and bracketed expressions
)

type parser struct {
	src     string
	tokens  []token
	i       int
	nesting int
	loops   int            // enclosing for loops, for break and continue
	uses    map[string]int // how often each implicit variable was mentioned so far
}

func parse(src string) ([]stmt, error) {
	if len(src) > sourceBytesMax {
		return nil, errorf(SyntaxError, "template has %d bytes: the limit is %d", len(src), sourceBytesMax)
	}
	tokens, err := lex(src)
	if err != nil {
		return nil, err
	}
	p := &parser{src: src, tokens: tokens, uses: map[string]int{}}
	body, _, err := p.body()
	return body, err
}

func (p *parser) peek() token { return p.tokens[p.i] }

func (p *parser) next() token {
	t := p.tokens[p.i]
	if t.kind != tokenEOF {
		p.i++
	}
	return t
}

func (p *parser) isOp(op string) bool {
	t := p.peek()
	return t.kind == tokenOp && t.val == op
}

func (p *parser) isName(name string) bool {
	t := p.peek()
	return t.kind == tokenName && t.val == name
}

func (p *parser) skipOp(op string) bool {
	if p.isOp(op) {
		p.i++
		return true
	}
	return false
}

func (p *parser) skipName(name string) bool {
	if p.isName(name) {
		p.i++
		return true
	}
	return false
}

func (p *parser) expectOp(op string) error {
	if !p.skipOp(op) {
		return p.unexpected("'" + op + "'")
	}
	return nil
}

func (p *parser) expectName() (token, error) {
	if p.peek().kind != tokenName {
		return token{}, p.unexpected("a name")
	}
	return p.next(), nil
}

func (p *parser) expectEnd() error {
	if p.peek().kind != tokenBlockEnd {
		return p.unexpected("'%}'")
	}
	p.i++
	return nil
}

func (p *parser) unexpected(want string) error {
	t := p.peek()
	return p.errorf(t.pos, "unexpected %s: expected %s", t.describe(), want)
}

func (p *parser) errorf(at pos, format string, args ...any) error {
	return locate(p.src, errorf(SyntaxError, format, args...), at)
}

func (p *parser) enter(at pos) error {
	p.nesting++
	if p.nesting > nestingMax {
		return p.errorf(at, "nested more than %d levels deep", nestingMax)
	}
	return nil
}

func (p *parser) leave() { p.nesting-- }

// body parses statements up to a tag in ends, whose name it consumes and returns,
// or to the end of the template if ends is empty.
func (p *parser) body(ends ...string) (body []stmt, end string, err error) {
	if err := p.enter(p.peek().pos); err != nil {
		return nil, "", err
	}
	defer p.leave()
	for {
		t := p.next()
		switch t.kind {
		case tokenEOF:
			if len(ends) > 0 {
				return nil, "", p.errorf(t.pos, "unexpected end of template: expected '{%% %s %%}'", ends[len(ends)-1])
			}
			return body, "", nil
		case tokenText:
			body = append(body, &textStmt{t.pos, t.val})
		case tokenVarBegin:
			x, err := p.tuple(true)
			if err != nil {
				return nil, "", err
			}
			if p.peek().kind != tokenVarEnd {
				return nil, "", p.unexpected("'}}'")
			}
			p.i++
			body = append(body, &outputStmt{x.at(), x})
		case tokenBlockBegin:
			if name := p.peek(); name.kind == tokenName && slices.Contains(ends, name.val) {
				p.i++
				return body, name.val, nil
			}
			s, err := p.statement()
			if err != nil {
				return nil, "", err
			}
			body = append(body, s)
		default:
			return nil, "", p.errorf(t.pos, "unexpected %s", t.describe())
		}
	}
}

// block parses '%}', a body and its closing tag.
func (p *parser) block(end string) ([]stmt, error) {
	if err := p.expectEnd(); err != nil {
		return nil, err
	}
	body, _, err := p.body(end)
	if err != nil {
		return nil, err
	}
	return body, p.expectEnd()
}

func (p *parser) statement() (stmt, error) {
	t, err := p.expectName()
	if err != nil {
		return nil, err
	}
	switch t.val {
	case "if":
		return p.ifStmt(t.pos)
	case "for":
		return p.forStmt(t.pos)
	case "set":
		return p.setStmt(t.pos)
	case "macro":
		return p.macroStmt(t.pos)
	case "call":
		return p.callStmt(t.pos)
	case "filter":
		return p.filterStmt(t.pos)
	case "with":
		return p.withStmt(t.pos)
	case "generation":
		body, err := p.isolated("endgeneration")
		return &scopeStmt{t.pos, body}, err
	case "print":
		return p.printStmt(t.pos)
	case "break", "continue":
		if p.loops == 0 {
			return nil, p.errorf(t.pos, "'%s' outside of a for loop", t.val)
		}
		if t.val == "break" {
			return &breakStmt{t.pos}, p.expectEnd()
		}
		return &continueStmt{t.pos}, p.expectEnd()
	case "include", "import", "from", "extends", "block", "autoescape":
		return nil, p.errorf(t.pos, "'%s' is not supported: a chat template is a single self-contained file", t.val)
	}
	return nil, p.errorf(t.pos, "unknown tag '%s'", t.val)
}

func (p *parser) printStmt(at pos) (stmt, error) {
	joined := &concatExpr{pos: at}
	for {
		x, err := p.expression()
		if err != nil {
			return nil, err
		}
		joined.parts = append(joined.parts, x)
		if !p.skipOp(",") {
			return &outputStmt{at, joined}, p.expectEnd()
		}
	}
}

func (p *parser) ifStmt(at pos) (stmt, error) {
	s := &ifStmt{pos: at}
	for {
		cond, err := p.tuple(false)
		if err != nil {
			return nil, err
		}
		if err := p.expectEnd(); err != nil {
			return nil, err
		}
		body, end, err := p.body("elif", "else", "endif")
		if err != nil {
			return nil, err
		}
		s.branches = append(s.branches, branch{cond, body})
		switch end {
		case "endif":
			return s, p.expectEnd()
		case "else":
			s.other, err = p.block("endif")
			return s, err
		}
	}
}

func (p *parser) forStmt(at pos) (stmt, error) {
	s := &forStmt{pos: at}
	var err error
	if s.target, err = p.target(false); err != nil {
		return nil, err
	}
	if !p.skipName("in") {
		return nil, p.unexpected("'in'")
	}
	if s.iter, err = p.tuple(false); err != nil {
		return nil, err
	}
	loopUses := p.uses["loop"]
	if p.skipName("if") {
		if s.filter, err = p.expression(); err != nil {
			return nil, err
		}
	}
	if p.isName("recursive") {
		return nil, p.errorf(p.peek().pos, "recursive loops are not supported: use a macro that calls itself")
	}
	if err := p.expectEnd(); err != nil {
		return nil, err
	}
	p.loops++
	body, end, err := p.body("else", "endfor")
	p.loops--
	if err != nil {
		return nil, err
	}
	s.body, s.usesLoop = body, p.uses["loop"] > loopUses
	if end == "else" {
		s.other, err = p.block("endfor")
		return s, err
	}
	return s, p.expectEnd()
}

func (p *parser) setStmt(at pos) (stmt, error) {
	t, err := p.target(true)
	if err != nil {
		return nil, err
	}
	if p.skipOp("=") {
		x, err := p.tuple(true)
		if err != nil {
			return nil, err
		}
		return &setStmt{at, t, x}, p.expectEnd()
	}
	var filters []*filterExpr
	if p.skipOp("|") {
		if filters, err = p.filterChain(); err != nil {
			return nil, err
		}
	}
	body, err := p.isolated("endset")
	return &setBlockStmt{at, t, filters, body}, err
}

func (p *parser) filterStmt(at pos) (stmt, error) {
	filters, err := p.filterChain()
	if err != nil {
		return nil, err
	}
	body, err := p.isolated("endfilter")
	return &filterStmt{at, filters, body}, err
}

// filterChain parses 'upper | trim' without an input.
func (p *parser) filterChain() ([]*filterExpr, error) {
	var filters []*filterExpr
	for {
		f, err := p.filter(nil)
		if err != nil {
			return nil, err
		}
		filters = append(filters, f)
		if !p.skipOp("|") {
			return filters, nil
		}
	}
}

func (p *parser) withStmt(at pos) (stmt, error) {
	s := &withStmt{pos: at}
	for p.peek().kind != tokenBlockEnd {
		if len(s.targets) > 0 {
			if err := p.expectOp(","); err != nil {
				return nil, err
			}
		}
		t, err := p.targetItem(false)
		if err != nil {
			return nil, err
		}
		if err := p.expectOp("="); err != nil {
			return nil, err
		}
		x, err := p.expression()
		if err != nil {
			return nil, err
		}
		s.targets, s.values = append(s.targets, t), append(s.values, x)
	}
	var err error
	s.body, err = p.block("endwith")
	return s, err
}
