package jinja

import "slices"

const paramsMax = 255 // of one macro

func (p *parser) macroStmt(at pos) (stmt, error) {
	name, err := p.expectName()
	if err != nil {
		return nil, err
	}
	params, err := p.params()
	if err != nil {
		return nil, err
	}
	def, err := p.macroDef(name.val, params, "endmacro")
	return &macroStmt{at, def}, err
}

func (p *parser) callStmt(at pos) (stmt, error) {
	var params []param
	var err error
	if p.isOp("(") {
		if params, err = p.params(); err != nil {
			return nil, err
		}
	}
	x, err := p.expression()
	if err != nil {
		return nil, err
	}
	call, ok := x.(*callExpr)
	if !ok {
		return nil, p.errorf(x.at(), "expected a call, as in {%% call name(...) %%}")
	}
	def, err := p.macroDef("caller", params, "endcall")
	return &callStmt{at, def, call}, err
}

func (p *parser) params() ([]param, error) {
	if err := p.expectOp("("); err != nil {
		return nil, err
	}
	var params []param
	for !p.isOp(")") {
		if len(params) > 0 {
			if err := p.expectOp(","); err != nil {
				return nil, err
			}
		}
		t, err := p.targetItem(false)
		if err != nil {
			return nil, err
		}
		if t.items != nil {
			return nil, p.errorf(t.pos, "a parameter must be a name")
		}
		q := param{name: t.name}
		if p.skipOp("=") {
			if q.def, err = p.expression(); err != nil {
				return nil, err
			}
		} else if n := len(params); n > 0 && params[n-1].def != nil {
			return nil, p.errorf(t.pos, "parameter '%s' without a default follows one with a default", t.name)
		}
		if slices.ContainsFunc(params, func(o param) bool { return o.name == q.name }) {
			return nil, p.errorf(t.pos, "duplicate parameter '%s'", t.name)
		}
		if params = append(params, q); len(params) > paramsMax {
			return nil, p.errorf(t.pos, "more than %d parameters", paramsMax)
		}
	}
	return params, p.expectOp(")")
}

func (p *parser) macroDef(name string, params []param, end string) (*macroDef, error) {
	caller, args, kwargs := p.uses["caller"], p.uses["varargs"], p.uses["kwargs"]
	body, err := p.isolated(end)
	if err != nil {
		return nil, err
	}
	declared := func(name string) bool {
		return slices.ContainsFunc(params, func(q param) bool { return q.name == name })
	}
	return &macroDef{
		name: name, params: params, body: body,
		usesCaller:  p.uses["caller"] > caller && !declared("caller"),
		usesArgs:    p.uses["varargs"] > args && !declared("varargs"),
		usesKeyword: p.uses["kwargs"] > kwargs && !declared("kwargs"),
	}, nil
}

// isolated parses a block that break and continue cannot leave, because its output
// is captured.
func (p *parser) isolated(end string) ([]stmt, error) {
	loops := p.loops
	p.loops = 0
	body, err := p.block(end)
	p.loops = loops
	return body, err
}

// target parses 'a', 'a.b' if attributes are allowed, or 'a, (b, c)'.
func (p *parser) target(withAttr bool) (target, error) {
	at := p.peek().pos
	first, err := p.targetItem(withAttr)
	if err != nil || !p.isOp(",") {
		return first, err
	}
	items := []target{first}
	for p.skipOp(",") {
		if t := p.peek(); t.kind != tokenName && !p.isOp("(") || t.val == "in" {
			break
		}
		item, err := p.targetItem(withAttr)
		if err != nil {
			return target{}, err
		}
		items = append(items, item)
	}
	return target{pos: at, items: items}, nil
}

func (p *parser) targetItem(withAttr bool) (target, error) {
	at := p.peek().pos
	if p.skipOp("(") {
		if err := p.enter(at); err != nil {
			return target{}, err
		}
		defer p.leave()
		inner, err := p.target(withAttr)
		if err != nil {
			return target{}, err
		}
		return inner, p.expectOp(")")
	}
	name, err := p.expectName()
	if err != nil {
		return target{}, err
	}
	if _, isConst := constants[name.val]; isConst {
		return target{}, p.errorf(at, "cannot assign to '%s'", name.val)
	}
	t := target{pos: at, name: name.val}
	if withAttr && p.skipOp(".") {
		attr, err := p.expectName()
		t.attr = attr.val
		return t, err
	}
	return t, nil
}
