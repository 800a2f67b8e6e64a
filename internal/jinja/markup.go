package jinja

// isMarkup reports whether an expression yields what Jinja2 calls Markup, if it yields a string: text that is marked as
// safe or was escaped, and a sum with such text.
func isMarkup(x expr) bool {
	switch x := x.(type) {
	case *filterExpr:
		switch x.name {
		case "safe", "e", "escape", "forceescape":
			return true
		}
	case *binaryExpr:
		return x.op == "+" && (isMarkup(x.l) || isMarkup(x.r))
	}
	return false
}

// joinMarkup escapes plain text that is added to Markup, as Markup itself does, whatever autoescape says.
func (e *evaluator) joinMarkup(x *binaryExpr, l, r any) (any, any, error) {
	ls, lText := l.(string)
	rs, rText := r.(string)
	left, right := isMarkup(x.l), isMarkup(x.r)
	if !lText || !rText || left == right {
		return l, r, nil
	}
	if err := e.made(2 * (len(ls) + len(rs))); err != nil {
		return nil, nil, err
	}
	if left {
		return l, escapeHTML(rs), nil
	}
	return escapeHTML(ls), r, nil
}
