package jinja

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// formatWidthMax bounds widths and precisions in format strings.
const formatWidthMax = 1000

// formatSpec is what '%' conversions and str.format fields have in common.
type formatSpec struct {
	fill      string
	align     byte // '<', '>', '^', '=' or 0 for the default of the type
	sign      byte // '+', ' ' or 0
	alternate bool
	group     string // "," or "_" between thousands
	width     int
	precision int  // -1 if not given
	verb      byte // 0 for the default of the type
}

// percentFormat is Python's format % args.
func (e *evaluator) percentFormat(format string, args any) (any, error) {
	positional, isTuple := args.(tuple)
	if !isTuple {
		positional = tuple{args}
	}
	named, isMapping := args.(*Dict)
	switch args.(type) {
	case []any, undefined: // Python takes all that can be subscripted for a mapping
		isMapping = true
	}
	var out strings.Builder
	w := reprWriter{e: e, out: &out}
	next := 0
	for {
		before, rest, found := strings.Cut(format, "%")
		if err := w.put(before); err != nil {
			return nil, err
		}
		if !found {
			break
		}
		key, spec, rest, err := parsePercent(rest)
		if err != nil {
			return nil, err
		}
		format = rest
		if spec.verb == '%' {
			if err := w.put("%"); err != nil {
				return nil, err
			}
			continue
		}
		var v any
		switch {
		case key != "":
			if named == nil {
				return nil, errors.New("format requires a mapping")
			}
			var ok bool
			if v, ok = named.Get(key[1:]); !ok {
				return nil, fmt.Errorf("format has no value for '%s'", key[1:])
			}
		case next < len(positional):
			v = positional[next]
			next++
		default:
			return nil, errors.New("not enough arguments for format string")
		}
		text, err := e.formatPercent(spec, v)
		if err != nil {
			return nil, err
		}
		if err := w.put(text); err != nil {
			return nil, err
		}
	}
	if next < len(positional) && !isMapping {
		return nil, errors.New("not all arguments converted during string formatting")
	}
	return out.String(), nil
}

// parsePercent reads a conversion after its '%'. The key keeps its opening
// parenthesis, so that an empty one differs from none.
func parsePercent(s string) (key string, spec formatSpec, rest string, err error) {
	spec = formatSpec{fill: " ", align: '>', precision: -1}
	if strings.HasPrefix(s, "(") {
		end := strings.IndexByte(s, ')')
		if end < 0 {
			return "", spec, "", errors.New("incomplete format key")
		}
		key, s = s[:end], s[end+1:]
	}
	for ; s != "" && strings.IndexByte("-+ 0#", s[0]) >= 0; s = s[1:] {
		switch s[0] {
		case '-':
			spec.align, spec.fill = '<', " "
		case '0':
			if spec.align != '<' {
				spec.align, spec.fill = '=', "0"
			}
		case '#':
			spec.alternate = true
		case '+':
			spec.sign = '+'
		case ' ':
			if spec.sign == 0 {
				spec.sign = ' '
			}
		}
	}
	if s, err = spec.size(s); err != nil {
		return "", spec, "", err
	}
	s = strings.TrimLeft(s, "hlL")
	if s == "" {
		return "", spec, "", errors.New("incomplete format")
	}
	spec.verb = s[0]
	return key, spec, s[1:], nil
}

// size reads '[width][.precision]'.
func (f *formatSpec) size(s string) (rest string, err error) {
	f.width, s = leadingInt(s, 0)
	if strings.HasPrefix(s, ".") {
		f.precision, s = leadingInt(s[1:], 0)
	}
	if f.width > formatWidthMax || f.precision > formatWidthMax {
		return "", fmt.Errorf("format width exceeds %d", formatWidthMax)
	}
	return s, nil
}

func leadingInt(s string, def int) (int, string) {
	n := 0
	for n < len(s) && isDigit(s[n]) {
		n++
	}
	if n == 0 {
		return def, s
	}
	v, err := strconv.Atoi(s[:n])
	if err != nil {
		v = math.MaxInt32
	}
	return v, s[n:]
}

func (e *evaluator) formatPercent(f formatSpec, v any) (string, error) {
	switch f.verb {
	case 's', 'r', 'a':
		if f.align == '=' {
			f.align, f.fill = '>', " "
		}
		text, err := e.conversion(v, f.verb)
		return f.padText(text), err
	case 'd', 'i', 'u':
		f.verb = 'd'
		if i, fl, isInt, ok := number(v); ok && !isInt && math.Abs(fl) < 1<<63 {
			v = int64(fl)
		} else if isInt {
			v = i
		}
	case 'x', 'X', 'o', 'e', 'E', 'f', 'F', 'g', 'G':
	case 'c':
		if s, ok := v.(string); ok && runeCount(s) == 1 {
			return f.padText(s), nil
		}
	default:
		return "", fmt.Errorf("unsupported format character '%c'", f.verb)
	}
	return f.number(v)
}

// conversion renders v by the 's' or 'r' conversion.
func (e *evaluator) conversion(v any, verb byte) (string, error) {
	if verb == 's' {
		return e.str(v)
	}
	var b strings.Builder
	w := reprWriter{e: e, out: &b, js: e.js}
	err := w.repr(v, 0)
	return b.String(), err
}

func (f formatSpec) padText(s string) string {
	if f.precision >= 0 {
		s = runeSlice(s, 0, f.precision)
	}
	return f.pad("", s, '<')
}

// pad fills up to the width; '=' puts the fill between sign and digits.
func (f formatSpec) pad(sign, s string, align byte) string {
	if f.align != 0 {
		align = f.align
	}
	n := f.width - runeCount(sign) - runeCount(s)
	if n <= 0 {
		return sign + s
	}
	fill := func(n int) string { return strings.Repeat(f.fill, n) }
	switch align {
	case '<':
		return sign + s + fill(n)
	case '=':
		return sign + fill(n) + s
	case '^':
		return fill(n/2) + sign + s + fill(n-n/2)
	}
	return fill(n) + sign + s
}

// number formats an int or float.
func (f formatSpec) number(v any) (string, error) {
	i, fl, isInt, ok := number(v)
	if !ok {
		return "", fmt.Errorf("format '%c' needs a number, not '%s'", max(f.verb, 'd'), typeName(v))
	}
	verb, precision := f.verb, f.precision
	negative := math.Signbit(fl)
	var digits, prefix string
	switch verb {
	case 'd', 'x', 'X', 'o', 'b', 'c':
		if !isInt {
			return "", fmt.Errorf("format '%c' needs an integer, not 'float'", verb)
		}
		digits, prefix = intDigits(i, verb)
		negative = i < 0
	case 0:
		if isInt {
			digits, negative = strings.TrimPrefix(strconv.FormatInt(i, 10), "-"), i < 0
			break
		}
		if precision < 0 {
			digits = formatFloat(math.Abs(fl))
			break
		}
		verb = 'g'
		fallthrough
	case 'e', 'E', 'f', 'F', 'g', 'G', '%':
		digits = floatDigits(math.Abs(fl), verb, precision)
	default:
		return "", fmt.Errorf("unsupported format character '%c'", verb)
	}
	if f.group != "" {
		digits = groupThousands(digits, f.group)
	}
	if f.alternate {
		digits = prefix + digits
	}
	sign := ""
	if negative {
		sign = "-"
	} else if f.sign != 0 {
		sign = string(f.sign)
	}
	return f.pad(sign, digits, '>'), nil
}

func intDigits(i int64, verb byte) (digits, prefix string) {
	base := map[byte]int{'d': 10, 'x': 16, 'X': 16, 'o': 8, 'b': 2}[verb]
	if base == 0 { // 'c'
		if i < 0 || i > utf8.MaxRune {
			i = utf8.RuneError
		}
		return string(rune(i)), ""
	}
	digits = strings.TrimPrefix(strconv.FormatInt(i, base), "-")
	if verb == 'X' {
		digits = strings.ToUpper(digits)
	}
	if base != 10 {
		prefix = "0" + string(verb)
	}
	return digits, prefix
}

func floatDigits(f float64, verb byte, precision int) string {
	if precision < 0 {
		precision = 6
	}
	switch verb {
	case '%':
		return strconv.FormatFloat(f*100, 'f', precision, 64) + "%"
	case 'F':
		verb = 'f'
	case 'g', 'G':
		precision = max(precision, 1)
		s := fmt.Sprintf("%.*g", precision, f)
		if verb == 'G' {
			s = strings.ToUpper(s)
		}
		return s
	}
	return strconv.FormatFloat(f, verb, precision, 64)
}

func groupThousands(digits, sep string) string {
	whole, rest := digits, ""
	if i := strings.IndexAny(digits, ".e%"); i >= 0 {
		whole, rest = digits[:i], digits[i:]
	}
	var b strings.Builder
	for i, c := range whole {
		if i > 0 && (len(whole)-i)%3 == 0 {
			b.WriteString(sep)
		}
		b.WriteRune(c)
	}
	return b.String() + rest
}
