package jinja

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"math/bits"
	"strings"
)

var errOverflow = errors.New("integer exceeds 64 bits")

// number widens a bool, int or float; isInt tells which field holds it.
func number(v any) (i int64, f float64, isInt, ok bool) {
	switch v := v.(type) {
	case int64:
		return v, float64(v), true, true
	case float64:
		return 0, v, false, true
	case bool:
		if v {
			return 1, 1, true, true
		}
		return 0, 0, true, true
	}
	return 0, 0, false, false
}

func unary(op string, v any) (any, error) {
	i, f, isInt, ok := number(v)
	switch {
	case !ok:
		return nil, operandError("unary "+op, v)
	case op == "+" && isInt:
		return i, nil
	case op == "+":
		return f, nil
	case !isInt:
		return -f, nil
	case i == math.MinInt64:
		return nil, errOverflow
	}
	return -i, nil
}

func operandError(op string, operands ...any) error {
	for _, v := range operands {
		switch v := v.(type) {
		case undefined:
			return errors.New(v.why)
		case *big.Int:
			return errOverflow
		}
	}
	if len(operands) == 1 {
		return fmt.Errorf("bad operand for %s: '%s'", op, typeName(operands[0]))
	}
	return fmt.Errorf("unsupported operands for %s: '%s' and '%s'", op, typeName(operands[0]), typeName(operands[1]))
}

func (e *evaluator) binary(op string, l, r any) (any, error) {
	li, lf, lInt, lNum := number(l)
	ri, rf, rInt, rNum := number(r)
	if lNum && rNum {
		if lInt && rInt && op != "/" {
			return intOp(op, li, ri)
		}
		return floatOp(op, lf, rf)
	}
	switch op {
	case "+":
		return e.add(l, r)
	case "*":
		if rNum && rInt {
			return e.repeat(l, ri, r)
		}
		if lNum && lInt {
			return e.repeat(r, li, l)
		}
	case "%":
		if format, ok := l.(string); ok {
			return e.percentFormat(format, r)
		}
	}
	return nil, operandError(op, l, r)
}

func (e *evaluator) add(l, r any) (any, error) {
	switch lv := l.(type) {
	case string:
		if rv, ok := r.(string); ok {
			if err := e.made(len(lv) + len(rv)); err != nil {
				return nil, err
			}
			return lv + rv, nil
		}
	case []any:
		if rv, ok := r.([]any); ok {
			return joinLists(e, lv, rv)
		}
	case tuple:
		if rv, ok := r.(tuple); ok {
			return joinLists(e, lv, rv)
		}
	}
	if e.js && isScalarText(l) && isScalarText(r) {
		ls, err := e.str(l)
		if err != nil {
			return nil, err
		}
		rs, err := e.str(r)
		if err != nil {
			return nil, err
		}
		return e.add(ls, rs)
	}
	return nil, operandError("+", l, r)
}

// isScalarText reports whether huggingface.js joins v to a string.
func isScalarText(v any) bool {
	switch v.(type) {
	case string, int64, float64, bool:
		return true
	}
	return false
}

func joinLists[T ~[]any](e *evaluator, l, r T) (any, error) {
	if err := e.charge(len(l) + len(r)); err != nil {
		return nil, err
	}
	return append(append(make(T, 0, len(l)+len(r)), l...), r...), nil
}

func (e *evaluator) repeat(v any, n int64, count any) (any, error) {
	n = min(max(n, 0), math.MaxInt32)
	switch v := v.(type) {
	case string:
		if err := e.made(len(v) * int(n)); err != nil {
			return nil, err
		}
		return strings.Repeat(v, int(n)), nil
	case []any:
		return repeatList(e, v, int(n))
	case tuple:
		return repeatList(e, v, int(n))
	}
	return nil, operandError("*", v, count)
}

func repeatList[T ~[]any](e *evaluator, v T, n int) (any, error) {
	if err := e.charge(len(v) * n); err != nil {
		return nil, err
	}
	out := make(T, 0, len(v)*n)
	for range n {
		out = append(out, v...)
	}
	return out, nil
}

func intOp(op string, l, r int64) (any, error) {
	switch op {
	case "+":
		if sum := l + r; (sum > l) == (r > 0) {
			return sum, nil
		}
		return nil, errOverflow
	case "-":
		if diff := l - r; (diff < l) == (r > 0) {
			return diff, nil
		}
		return nil, errOverflow
	case "*":
		product, err := mulInt(l, r)
		return product, err
	case "//", "%":
		if r == 0 {
			return nil, errors.New("integer division by zero")
		}
		if l == math.MinInt64 && r == -1 {
			return nil, errOverflow
		}
		q, m := l/r, l%r
		if m != 0 && (m < 0) != (r < 0) { // Python rounds down, Go towards zero
			q, m = q-1, m+r
		}
		if op == "%" {
			return m, nil
		}
		return q, nil
	}
	if r < 0 {
		return floatOp("**", float64(l), float64(r))
	}
	return powInt(l, r)
}

func mulInt(l, r int64) (int64, error) {
	hi, lo := bits.Mul64(uint64(max(l, -l)), uint64(max(r, -r)))
	if hi != 0 || lo > math.MaxInt64 || l == math.MinInt64 || r == math.MinInt64 {
		return 0, errOverflow
	}
	return l * r, nil
}

func powInt(base, exp int64) (any, error) {
	if base >= -1 && base <= 1 {
		exp = min(exp, 2+exp%2) // only the parity matters
	}
	result := int64(1)
	for range exp { // overflows after at most 63 rounds
		var err error
		if result, err = mulInt(result, base); err != nil {
			return nil, err
		}
	}
	return result, nil
}

func floatOp(op string, l, r float64) (any, error) {
	switch op {
	case "+":
		return l + r, nil
	case "-":
		return l - r, nil
	case "*":
		return l * r, nil
	case "**":
		if l == 0 && r < 0 {
			return nil, errors.New("0.0 cannot be raised to a negative power")
		}
		if l < 0 && r != math.Trunc(r) {
			return nil, errors.New("a negative number has no real power of a fraction")
		}
		return math.Pow(l, r), nil
	}
	if r == 0 {
		return nil, errors.New("division by zero")
	}
	if op == "/" {
		return l / r, nil
	}
	m := math.Mod(l, r)
	if m != 0 && (m < 0) != (r < 0) {
		m += r
	}
	if op == "%" {
		return m, nil
	}
	return math.Floor((l-m)/r + 0.5), nil
}
