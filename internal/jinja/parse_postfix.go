package jinja

// postfix parses attributes, subscripts and calls.
func (p *parser) postfix(x expr) (expr, error) {
	var err error
	for err == nil && p.peek().kind == tokenOp {
		switch p.peek().val {
		case ".":
			x, err = p.attribute(x)
		case "[":
			x, err = p.subscript(x)
		case "(":
			x, err = p.call(x)
		default:
			return x, nil
		}
	}
	return x, err
}

func (p *parser) attribute(x expr) (expr, error) {
	p.i++
	t := p.peek()
	switch t.kind {
	case tokenName:
		p.i++
		return &attrExpr{t.pos, x, t.val}, nil
	case tokenInt:
		p.i++
		v, ok := parseInt(t.val, 10)
		if !ok {
			return nil, p.errorf(t.pos, "invalid index")
		}
		return &indexExpr{t.pos, x, &constExpr{t.pos, v}}, nil
	}
	return nil, p.unexpected("an attribute name")
}

func (p *parser) subscript(x expr) (expr, error) {
	open := p.next().pos
	var parts [3]expr
	n, colons := 0, 0
	for !p.isOp("]") {
		if p.skipOp(":") {
			if colons++; colons > 2 {
				return nil, p.errorf(open, "a slice has at most three parts")
			}
			n = colons
			continue
		}
		if parts[n] != nil {
			return nil, p.unexpected("']' or ':'")
		}
		var err error
		if parts[n], err = p.expression(); err != nil {
			return nil, err
		}
	}
	p.i++
	if colons > 0 {
		return &sliceExpr{open, x, parts[0], parts[1], parts[2]}, nil
	}
	if parts[0] == nil {
		return nil, p.errorf(open, "an index is missing")
	}
	return &indexExpr{open, x, parts[0]}, nil
}

func (p *parser) call(fn expr) (expr, error) {
	at := p.peek().pos
	args, err := p.args()
	return &callExpr{at, fn, args}, err
}

func (p *parser) args() (argList, error) {
	var a argList
	open := p.next().pos
	for !p.isOp(")") {
		var err error
		switch t := p.peek(); {
		case p.skipOp("**"):
			if a.starStar != nil {
				return a, p.errorf(t.pos, "only one '**' argument is allowed")
			}
			a.starStar, err = p.expression()
		case a.starStar != nil:
			return a, p.errorf(t.pos, "argument follows '**' argument")
		case p.skipOp("*"):
			if a.star != nil {
				return a, p.errorf(t.pos, "only one '*' argument is allowed")
			}
			a.star, err = p.expression()
		case t.kind == tokenName && p.tokens[p.i+1].kind == tokenOp && p.tokens[p.i+1].val == "=":
			p.i += 2
			var x expr
			x, err = p.expression()
			a.keywords = append(a.keywords, keyword{t.val, x})
		case a.star != nil || a.keywords != nil:
			return a, p.errorf(t.pos, "positional argument follows keyword argument")
		default:
			var x expr
			x, err = p.expression()
			a.positional = append(a.positional, x)
		}
		if err != nil {
			return a, err
		}
		if !p.skipOp(",") {
			break
		}
	}
	if !p.skipOp(")") {
		return a, p.errorf(open, "call is never closed: expected ')'")
	}
	return a, nil
}

// filters parses '| filter', 'is test' and calls of their results.
func (p *parser) filters(x expr) (expr, error) {
	var err error
	for err == nil {
		switch {
		case p.skipOp("|"):
			x, err = p.filter(x)
		case p.isName("is"):
			x, err = p.test(x)
		case p.isOp("("):
			x, err = p.call(x)
		default:
			return x, nil
		}
	}
	return x, err
}

func (p *parser) filter(x expr) (*filterExpr, error) {
	name, err := p.expectName()
	if err != nil {
		return nil, err
	}
	f := &filterExpr{pos: name.pos, x: x, name: name.val, fn: filters[name.val]}
	if p.isOp("(") {
		f.args, err = p.args()
	}
	return f, err
}

func (p *parser) test(x expr) (expr, error) {
	p.i++
	negate := p.skipName("not")
	name, err := p.expectName()
	if err != nil {
		return nil, err
	}
	t := &testExpr{pos: name.pos, x: x, name: name.val, fn: tests[name.val], negate: negate}
	switch arg := p.peek(); {
	case p.isOp("("):
		t.args, err = p.args()
	case p.isName("is"):
		return nil, p.errorf(arg.pos, "tests cannot be chained with 'is'")
	case arg.kind == tokenName && arg.val != "else" && arg.val != "or" && arg.val != "and" && arg.val != "if",
		arg.kind == tokenString, arg.kind == tokenInt, arg.kind == tokenFloat, p.isOp("["), p.isOp("{"):
		var operand expr
		if operand, err = p.primary(); err == nil {
			operand, err = p.postfix(operand)
		}
		t.args.positional = []expr{operand}
	}
	return t, err
}
