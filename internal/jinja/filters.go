package jinja

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
)

type filterFunc func(e *evaluator, v any, a callArgs) (any, error)

var filters map[string]filterFunc

func init() { // map and select refer to the table
	filters = map[string]filterFunc{
		"abs": filterAbs, "attr": filterAttr, "default": filterDefault, "d": filterDefault,
		"float": filterFloat, "int": filterInt, "items": filterItems, "length": filterLength,
		"count": filterLength, "list": filterList, "round": filterRound, "string": filterString,
		"safe": filterString, "tojson": filterToJSON,

		"batch": filterBatch, "dictsort": filterDictSort, "first": filterFirst, "groupby": filterGroupBy,
		"join": filterJoin, "last": filterLast, "map": filterMap, "max": extreme(">"), "min": extreme("<"),
		"reverse": filterReverse, "slice": filterSlice, "sort": filterSort, "sum": filterSum,
		"unique": filterUnique, "select": pickBy("select", false, true), "reject": pickBy("reject", false, false),
		"selectattr": pickBy("selectattr", true, true), "rejectattr": pickBy("rejectattr", true, false),

		"capitalize": textFilter(capitalize), "center": filterCenter, "e": textFilter(escapeHTML),
		"escape": textFilter(escapeHTML), "forceescape": textFilter(escapeHTML), "format": filterFormat,
		"indent": filterIndent, "lower": textFilter(lower), "replace": filterReplace,
		"title": textFilter(titleWords), "trim": filterTrim, "truncate": filterTruncate,
		"upper": textFilter(upper), "wordcount": filterWordCount,
	}
}

func filterAbs(_ *evaluator, v any, _ callArgs) (any, error) {
	i, f, isInt, ok := number(v)
	switch {
	case !ok:
		return nil, operandError("abs", v)
	case !isInt:
		return math.Abs(f), nil
	case i == math.MinInt64:
		return nil, errOverflow
	}
	return max(i, -i), nil
}

func filterAttr(e *evaluator, v any, a callArgs) (any, error) {
	b, err := a.bindTo("attr", 1, "name")
	if err != nil {
		return nil, err
	}
	name := b.string(0, "")
	if b.err != nil {
		return nil, b.err
	}
	if m := methodOf(v, name); m != nil {
		return bindMethod(v, name, m), nil
	}
	if x, ok := attrOf(v, name); ok {
		return x, nil
	}
	return noItem(v, name), nil
}

func filterDefault(_ *evaluator, v any, a callArgs) (any, error) {
	b, err := a.bindTo("default", 0, "default_value", "boolean")
	if err != nil {
		return nil, err
	}
	if _, missing := v.(undefined); missing || b.bool(1, false) && !truthy(v) {
		return b.any(0, ""), nil
	}
	return v, nil
}

func parsePythonFloat(s string) (float64, bool) {
	s = strings.TrimFunc(s, isSpace)
	if strings.ContainsAny(s, "xX_pP") {
		return 0, false
	}
	f, err := strconv.ParseFloat(s, 64)
	return f, err == nil || errors.Is(err, strconv.ErrRange)
}

func filterFloat(_ *evaluator, v any, a callArgs) (any, error) {
	b, err := a.bindTo("float", 0, "default")
	if err != nil {
		return nil, err
	}
	if _, f, _, ok := number(v); ok {
		return f, nil
	}
	if u, ok := v.(undefined); ok {
		return nil, errors.New(u.why)
	}
	if s, ok := v.(string); ok {
		if f, ok := parsePythonFloat(s); ok {
			return f, nil
		}
	}
	return b.any(0, 0.0), nil
}

func filterInt(_ *evaluator, v any, a callArgs) (any, error) {
	b, err := a.bindTo("int", 0, "default", "base")
	if err != nil {
		return nil, err
	}
	base := b.int(1, 10)
	if b.err != nil {
		return nil, b.err
	}
	f := math.NaN()
	switch x := v.(type) {
	case undefined:
		return nil, errors.New(x.why)
	case int64, *big.Int:
		return x, nil
	case string:
		if i, ok := parsePythonInt(x, base); ok {
			return i, nil
		}
		if parsed, ok := parsePythonFloat(x); ok {
			f = parsed
		}
	default:
		if i, parsed, isInt, ok := number(v); isInt {
			return i, nil
		} else if ok {
			f = parsed
		}
	}
	switch {
	case f != f || math.IsInf(f, 0):
		return b.any(0, int64(0)), nil
	case math.Abs(f) >= 1<<63:
		return nil, errOverflow
	}
	return int64(f), nil
}

// parsePythonInt reads digits as Python's int() does: blanks around, one sign, and a
// prefix that fits the base.
func parsePythonInt(s string, base int) (any, bool) {
	s = strings.TrimFunc(s, isSpace)
	if base != 0 && (base < 2 || base > 36) || strings.Contains(s, "_") {
		return nil, false
	}
	if prefix := map[int]string{2: "0b", 8: "0o", 16: "0x"}[base]; prefix != "" {
		digits := strings.TrimLeft(s, "+-")
		if len(digits) > 2 && strings.EqualFold(digits[:2], prefix) {
			s = s[:len(s)-len(digits)] + digits[2:]
		}
	}
	return parseInt(s, base)
}

func filterItems(e *evaluator, v any, _ callArgs) (any, error) {
	switch v := v.(type) {
	case undefined:
		return e.generated(nil), nil
	case *Dict:
		items, err := e.dictItems(v)
		return e.generated(items), err
	}
	return nil, fmt.Errorf("items: expected a dict, not '%s'", typeName(v))
}

func filterLength(e *evaluator, v any, _ callArgs) (any, error) {
	if n, ok := length(v); ok {
		if s, isString := v.(string); isString {
			return int64(n), e.scanned(len(s))
		}
		return int64(n), nil
	}
	if _, ok := v.(*generator); ok {
		return nil, errors.New("a generator has no length: apply the list filter first")
	}
	return nil, fmt.Errorf("'%s' has no length", typeName(v))
}

func filterList(e *evaluator, v any, _ callArgs) (any, error) {
	items, err := e.seq(v)
	if items == nil {
		items = []any{}
	}
	return items, err
}

func filterRound(_ *evaluator, v any, a callArgs) (any, error) {
	b, err := a.bindTo("round", 0, "precision", "method")
	if err != nil {
		return nil, err
	}
	precision, method := b.int(0, 0), b.string(1, "common")
	if b.err != nil {
		return nil, b.err
	}
	i, f, isInt, ok := number(v)
	if !ok {
		return nil, operandError("round", v)
	}
	scale := math.Pow10(precision)
	switch method {
	case "common":
		switch {
		case isInt && precision >= 0:
			return i, nil
		case isInt:
			return int64(math.RoundToEven(float64(i)*scale) / scale), nil
		case math.Abs(f) >= 1<<52 || f != f || precision > 22:
			return f, nil
		case precision >= 0: // correctly rounded decimals, as CPython does
			r, err := strconv.ParseFloat(strconv.FormatFloat(f, 'f', precision, 64), 64)
			return r, err
		}
		return math.RoundToEven(f*scale) / scale, nil
	case "ceil":
		return math.Ceil(f*scale) / scale, nil
	case "floor":
		return math.Floor(f*scale) / scale, nil
	}
	return nil, errors.New("round: method must be common, ceil or floor")
}

func filterString(e *evaluator, v any, _ callArgs) (any, error) {
	return e.str(v)
}

// filterToJSON is transformers' tojson: json.dumps without Jinja2's HTML escaping.
func filterToJSON(e *evaluator, v any, a callArgs) (any, error) {
	b, err := a.bindTo("tojson", 0, "ensure_ascii", "indent", "separators", "sort_keys")
	if err != nil {
		return nil, err
	}
	var out strings.Builder
	w := jsonWriter{
		reprWriter: reprWriter{e: e, out: &out, js: e.js},
		ascii:      b.bool(0, false), sorted: b.bool(3, false),
		itemSep: ", ", pairSep: ": ",
	}
	switch indent := b.any(1, nil).(type) {
	case nil:
	case string:
		w.indent = &indent
	default:
		n := max(0, b.int(1, 0))
		if err := e.made(n); err != nil {
			return nil, err
		}
		spaces := strings.Repeat(" ", n)
		w.indent = &spaces
	}
	if w.indent != nil {
		w.itemSep = ","
	}
	if separators := b.any(2, nil); separators != nil {
		pair, err := e.seq(separators)
		if err != nil {
			return nil, err
		}
		if len(pair) != 2 {
			return nil, errors.New("tojson: separators must be (item, key)")
		}
		var okItem, okPair bool
		w.itemSep, okItem = pair[0].(string)
		w.pairSep, okPair = pair[1].(string)
		if !okItem || !okPair {
			return nil, errors.New("tojson: separators must be strings")
		}
	}
	if b.err != nil {
		return nil, b.err
	}
	err = w.value(v, 0)
	return out.String(), err
}
