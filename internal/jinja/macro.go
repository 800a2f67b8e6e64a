package jinja

import "fmt"

// macro is a macro definition with the scope it closes over.
type macro struct {
	def   *macroDef
	scope *scope
}

func (e *evaluator) execCall(st *callStmt, s *scope) error {
	fn, err := e.eval(st.call.fn, s)
	if err != nil {
		return err
	}
	args, err := e.args(st.call.args, s)
	if err != nil {
		return err
	}
	args.keywords = append(args.keywords, kwArg{"caller", &macro{st.caller, s}})
	v, err := e.call(fn, args)
	if err != nil {
		return locate(e.src, err, st.call.pos)
	}
	text, err := e.str(v)
	if err != nil {
		return err
	}
	return e.write(text)
}

func (e *evaluator) callMacro(m *macro, a callArgs) (any, error) {
	inner := &scope{parent: m.scope}
	if err := e.bindMacro(m.def, a, inner); err != nil {
		return nil, err
	}
	return e.capture(m.def.body, inner)
}

// bindMacro gives the parameters of a macro their arguments. A default may refer to
// the parameters before it; without one a missing argument is undefined.
func (e *evaluator) bindMacro(def *macroDef, a callArgs, inner *scope) error {
	extra := NewDict(0)
	given := make([]any, len(def.params))
	for i := copy(given, a.positional); i < len(given); i++ {
		given[i] = absent{}
	}
next:
	for _, kw := range a.keywords {
		for i, q := range def.params {
			if q.name == kw.name {
				if given[i] != (absent{}) {
					return fmt.Errorf("macro '%s' got argument '%s' twice", def.name, kw.name)
				}
				given[i] = kw.val
				continue next
			}
		}
		switch {
		case kw.name == "caller" && def.usesCaller:
			inner.vars.Set("caller", kw.val)
		case def.usesKeyword:
			extra.Set(kw.name, kw.val)
		default:
			return fmt.Errorf("macro '%s' has no argument '%s'", def.name, kw.name)
		}
	}
	for i, q := range def.params {
		v := given[i]
		if v == (absent{}) {
			v = undefined{fmt.Sprintf("parameter '%s' was not provided", q.name)}
			if q.def != nil {
				var err error
				if v, err = e.eval(q.def, inner); err != nil {
					return err
				}
			}
		}
		inner.vars.Set(q.name, v)
	}
	if def.usesCaller && inner.vars.findString("caller") < 0 {
		inner.vars.Set("caller", undefined{"no caller: the macro was not called with a call block"})
	}
	if def.usesKeyword {
		inner.vars.Set("kwargs", extra)
	}
	rest := a.positional[min(len(a.positional), len(def.params)):]
	if def.usesArgs {
		inner.vars.Set("varargs", tuple(rest))
	} else if len(rest) > 0 {
		return fmt.Errorf("macro '%s' takes at most %d arguments, got %d", def.name, len(def.params), len(a.positional))
	}
	return nil
}
