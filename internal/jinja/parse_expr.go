package jinja

import (
	"strconv"
	"strings"
)

// constants are the names that cannot be assigned to.
var constants = map[string]any{
	"true": true, "True": true, "false": false, "False": false, "none": nil, "None": nil,
}

// tuple parses 'a' or 'a, b'; a conditional expression only if withCond is set, since
// 'if' means something else after 'for x in y'.
func (p *parser) tuple(withCond bool) (expr, error) {
	item := p.or
	if withCond {
		item = p.expression
	}
	at := p.peek().pos
	first, err := item()
	if err != nil || !p.isOp(",") {
		return first, err
	}
	items := []expr{first}
	for p.skipOp(",") {
		if t := p.peek(); t.kind == tokenVarEnd || t.kind == tokenBlockEnd || p.isOp(")") {
			break
		}
		x, err := item()
		if err != nil {
			return nil, err
		}
		items = append(items, x)
	}
	return &listExpr{at, items, true}, nil
}

func (p *parser) expression() (expr, error) {
	if err := p.enter(p.peek().pos); err != nil {
		return nil, err
	}
	defer p.leave()
	x, err := p.or()
	for err == nil && p.isName("if") {
		c := &condExpr{pos: p.next().pos, then: x}
		if c.cond, err = p.or(); err == nil && p.skipName("else") {
			c.other, err = p.expression()
		}
		x = c
	}
	return x, err
}

func (p *parser) or() (expr, error) {
	l, err := p.and()
	for err == nil && p.isName("or") {
		x := &logicExpr{pos: p.next().pos, l: l}
		x.r, err = p.and()
		l = x
	}
	return l, err
}

func (p *parser) and() (expr, error) {
	l, err := p.not()
	for err == nil && p.isName("and") {
		x := &logicExpr{pos: p.next().pos, isAnd: true, l: l}
		x.r, err = p.not()
		l = x
	}
	return l, err
}

func (p *parser) not() (expr, error) {
	if !p.isName("not") {
		return p.compare()
	}
	at := p.next().pos
	if err := p.enter(at); err != nil {
		return nil, err
	}
	defer p.leave()
	x, err := p.not()
	return &notExpr{at, x}, err
}

func (p *parser) compare() (expr, error) {
	first, err := p.sum()
	if err != nil {
		return nil, err
	}
	c := &compareExpr{first: first}
	for {
		t := p.peek()
		op := p.comparisonOp()
		if op == "" {
			break
		}
		if c.rest == nil {
			c.pos = t.pos
		}
		x, err := p.sum()
		if err != nil {
			return nil, err
		}
		c.rest = append(c.rest, comparison{op, x})
	}
	if c.rest == nil {
		return first, nil
	}
	return c, nil
}

func (p *parser) comparisonOp() string {
	t := p.peek()
	switch {
	case t.kind == tokenOp:
		switch t.val {
		case "==", "!=", "<", "<=", ">", ">=":
			p.i++
			return t.val
		}
	case p.skipName("in"):
		return "in"
	case p.isName("not"):
		if after := p.tokens[p.i+1]; after.kind == tokenName && after.val == "in" {
			p.i += 2
			return "not in"
		}
	}
	return ""
}

// binary parses a left-associative chain of the operators.
func (p *parser) binary(operand func() (expr, error), ops ...string) (expr, error) {
	l, err := operand()
next:
	for err == nil && p.peek().kind == tokenOp {
		for _, op := range ops {
			if p.isOp(op) {
				x := &binaryExpr{pos: p.next().pos, op: op, l: l}
				x.r, err = operand()
				l = x
				continue next
			}
		}
		break
	}
	return l, err
}

func (p *parser) sum() (expr, error)     { return p.binary(p.concat, "+", "-") }
func (p *parser) product() (expr, error) { return p.binary(p.power, "*", "/", "//", "%") }
func (p *parser) power() (expr, error)   { return p.binary(p.unary, "**") }

func (p *parser) concat() (expr, error) {
	first, err := p.product()
	if err != nil || !p.isOp("~") {
		return first, err
	}
	c := &concatExpr{p.peek().pos, []expr{first}}
	for p.skipOp("~") {
		x, err := p.product()
		if err != nil {
			return nil, err
		}
		c.parts = append(c.parts, x)
	}
	return c, nil
}

func (p *parser) unary() (expr, error) {
	x, err := p.signed()
	if err != nil {
		return nil, err
	}
	return p.filters(x)
}

// signed binds a sign tighter than filters: -1 | abs is (-1) | abs.
func (p *parser) signed() (expr, error) {
	if !p.isOp("-") && !p.isOp("+") {
		x, err := p.primary()
		if err != nil {
			return nil, err
		}
		return p.postfix(x)
	}
	op := p.next()
	if err := p.enter(op.pos); err != nil {
		return nil, err
	}
	defer p.leave()
	x, err := p.signed()
	return &unaryExpr{op.pos, op.val, x}, err
}

func (p *parser) primary() (expr, error) {
	t := p.peek()
	switch t.kind {
	case tokenName:
		p.i++
		if v, ok := constants[t.val]; ok {
			return &constExpr{t.pos, v}, nil
		}
		switch t.val {
		case "loop", "caller", "varargs", "kwargs":
			p.uses[t.val]++
		}
		return &nameExpr{t.pos, t.val}, nil
	case tokenString:
		p.i++
		if p.peek().kind != tokenString {
			return &constExpr{t.pos, t.val}, nil
		}
		var joined strings.Builder // adjacent literals are one string
		joined.WriteString(t.val)
		for p.peek().kind == tokenString {
			joined.WriteString(p.next().val)
		}
		return &constExpr{t.pos, joined.String()}, nil
	case tokenInt:
		p.i++
		v, ok := parseInt(t.val, 0)
		if !ok {
			if v, ok = parseInt(t.val, 10); !ok {
				return nil, p.errorf(t.pos, "invalid integer")
			}
		}
		return &constExpr{t.pos, v}, nil
	case tokenFloat:
		p.i++
		f, _ := strconv.ParseFloat(t.val, 64) // out of range is infinite, as in Python
		return &constExpr{t.pos, f}, nil
	case tokenOp:
		switch t.val {
		case "(", "[", "{":
			if err := p.enter(t.pos); err != nil {
				return nil, err
			}
			defer p.leave()
			p.i++
			return p.bracketed(t)
		}
	}
	return nil, p.unexpected("an expression")
}

// bracketed parses what follows an opening bracket.
func (p *parser) bracketed(open token) (expr, error) {
	switch open.val {
	case "(":
		if p.skipOp(")") {
			return &listExpr{open.pos, nil, true}, nil
		}
		x, err := p.tuple(true)
		if err != nil {
			return nil, err
		}
		return x, p.expectOp(")")
	case "[":
		list := &listExpr{pos: open.pos}
		for !p.isOp("]") {
			x, err := p.expression()
			if err != nil {
				return nil, err
			}
			list.items = append(list.items, x)
			if !p.skipOp(",") {
				break
			}
		}
		return list, p.expectOp("]")
	}
	d := &dictExpr{pos: open.pos}
	for !p.isOp("}") {
		k, err := p.expression()
		if err != nil {
			return nil, err
		}
		if err := p.expectOp(":"); err != nil {
			return nil, err
		}
		v, err := p.expression()
		if err != nil {
			return nil, err
		}
		d.keys, d.vals = append(d.keys, k), append(d.vals, v)
		if !p.skipOp(",") {
			break
		}
	}
	return d, p.expectOp("}")
}
