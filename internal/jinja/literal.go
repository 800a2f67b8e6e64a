package jinja

import (
	"math/big"
	"strconv"
	"strings"
	"unicode/utf8"
)

// intDigitsMax is CPython's default bound on converting digits to an int, which
// takes quadratic time.
const intDigitsMax = 4300

// number consumes an int or float literal. After a dot digits are an index, as in
// matrix.0.1, never a fraction.
func (l *lexer) number() {
	start := l.i
	if n := prefixedIntLen(l.src[start:]); n > 0 {
		l.i += n
		l.add(tokenInt, l.src[start:l.i], start)
		return
	}
	kind := tokenInt
	l.digits()
	if start == 0 || l.src[start-1] != '.' {
		if l.fraction('.') {
			kind = tokenFloat
		}
		if l.fraction('e') {
			kind = tokenFloat
		}
	}
	l.add(kind, l.src[start:l.i], start)
}

func prefixedIntLen(s string) int {
	if len(s) < 3 || s[0] != '0' {
		return 0
	}
	digits := map[byte]string{'x': "0123456789abcdefABCDEF_", 'o': "01234567_", 'b': "01_"}[s[1]|0x20]
	if digits == "" {
		return 0
	}
	n := 2
	for n < len(s) && strings.IndexByte(digits, s[n]) >= 0 {
		n++
	}
	if n == 2 {
		return 0
	}
	return n
}

func (l *lexer) digits() {
	for l.i < len(l.src) && (isDigit(l.src[l.i]) || l.src[l.i] == '_' && l.i+1 < len(l.src) && isDigit(l.src[l.i+1])) {
		l.i++
	}
}

// fraction consumes '.digits' or 'e[+-]digits' and reports whether there was one.
func (l *lexer) fraction(mark byte) bool {
	rest := l.src[l.i:]
	if rest == "" || rest[0] != mark && !(mark == 'e' && rest[0] == 'E') {
		return false
	}
	n := 1
	if mark == 'e' && len(rest) > 1 && (rest[1] == '+' || rest[1] == '-') {
		n = 2
	}
	if len(rest) <= n || !isDigit(rest[n]) {
		return false
	}
	l.i += n
	l.digits()
	return true
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// parseInt reads an integer literal: an int64, or a *big.Int beyond its range.
func parseInt(s string, base int) (any, bool) {
	s = strings.ReplaceAll(s, "_", "")
	if v, err := strconv.ParseInt(s, base, 64); err == nil {
		return v, true
	}
	if len(s) > intDigitsMax {
		return nil, false
	}
	v, ok := new(big.Int).SetString(s, base)
	if !ok {
		return nil, false
	}
	return v, true
}

// string consumes a quoted literal and decodes its escapes as Python's
// 'unicode-escape' does: an unknown escape keeps its backslash.
func (l *lexer) string() error {
	start, quote := l.i, l.src[l.i]
	var b strings.Builder
	for i := start + 1; i < len(l.src); {
		switch c := l.src[i]; {
		case c == quote:
			l.i = i + 1
			l.add(tokenString, b.String(), start)
			return nil
		case c == '\\' && i+1 < len(l.src):
			n, ok := decodeEscape(&b, l.src[i:])
			if !ok {
				return l.errorf(i, "invalid escape sequence in string")
			}
			i += n
		default:
			b.WriteByte(c)
			i++
		}
	}
	return l.errorf(start, "string is never closed: expected %c", quote)
}

var simpleEscapes = map[byte]string{
	'n': "\n", 't': "\t", 'r': "\r", 'a': "\a", 'b': "\b", 'f': "\f", 'v': "\v",
	'\\': "\\", '\'': "'", '"': "\"", '\n': "",
}

// decodeEscape writes what the escape at the start of s stands for and returns its length.
func decodeEscape(b *strings.Builder, s string) (n int, ok bool) {
	if plain, found := simpleEscapes[s[1]]; found {
		b.WriteString(plain)
		return 2, true
	}
	width := map[byte]int{'x': 2, 'u': 4, 'U': 8}[s[1]]
	switch {
	case width > 0:
		if len(s) < 2+width {
			return 0, false
		}
		code, err := strconv.ParseUint(s[2:2+width], 16, 32)
		if err != nil || code > utf8.MaxRune {
			return 0, false
		}
		b.WriteRune(rune(code))
		return 2 + width, true
	case s[1] >= '0' && s[1] <= '7':
		code, n := rune(0), 1
		for n < 4 && n < len(s) && s[n] >= '0' && s[n] <= '7' {
			code = code*8 + rune(s[n]-'0')
			n++
		}
		b.WriteRune(code)
		return n, true
	case s[1] == 'N':
		return 0, false // named characters need the Unicode name table
	}
	b.WriteByte('\\')
	return 1, true
}
