package jinja

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// nameBytesMax bounds identifiers, and with them the cost of a lookup.
const nameBytesMax = 255

type tokenKind uint8

const (
	tokenEOF tokenKind = iota
	tokenText
	tokenBlockBegin
	tokenBlockEnd
	tokenVarBegin
	tokenVarEnd
	tokenName
	tokenInt
	tokenFloat
	tokenString
	tokenOp
)

// pos is a byte offset in the normalized source.
type pos int32

func (p pos) at() pos { return p }

type token struct {
	kind tokenKind
	val  string // text, name, digits, decoded string or operator
	pos  pos
}

// describe names the token the way an error message should.
func (t token) describe() string {
	switch t.kind {
	case tokenEOF:
		return "end of template"
	case tokenText, tokenVarBegin, tokenBlockBegin:
		return "end of tag"
	case tokenBlockEnd:
		return "'%}'"
	case tokenVarEnd:
		return "'}}'"
	case tokenString:
		return "string"
	}
	return "'" + t.val + "'"
}

// lexer splits a template into tokens. Its whitespace rules are those of Jinja2
// with trim_blocks and lstrip_blocks: a newline after a block or comment tag goes,
// so does the indentation before one that starts its line, '-' strips everything on
// its side and '+' keeps everything.
type lexer struct {
	src         string
	i           int
	lineStart   bool // the text at i begins a line
	tokens      []token
	textPending strings.Builder
	textPos     pos
}

// normalizeSource gives every line a single '\n' and drops the final one, as
// Jinja2 does with keep_trailing_newline off.
func normalizeSource(src string) string {
	if strings.IndexByte(src, '\r') >= 0 {
		src = strings.ReplaceAll(strings.ReplaceAll(src, "\r\n", "\n"), "\r", "\n")
	}
	return strings.TrimSuffix(src, "\n")
}

func lex(src string) ([]token, error) {
	l := &lexer{src: src, lineStart: true}
	for l.i < len(src) {
		if err := l.root(); err != nil {
			return nil, err
		}
	}
	l.flushText()
	l.add(tokenEOF, "", len(src))
	return l.tokens, nil
}

func (l *lexer) add(kind tokenKind, val string, at int) {
	l.tokens = append(l.tokens, token{kind, val, pos(at)})
}

func (l *lexer) text(s string, at int) {
	if s == "" {
		return
	}
	if l.textPending.Len() == 0 {
		l.textPos = pos(at)
	}
	l.textPending.WriteString(s)
}

func (l *lexer) flushText() {
	if l.textPending.Len() > 0 {
		l.add(tokenText, l.textPending.String(), int(l.textPos))
		l.textPending.Reset()
	}
}

// root consumes text up to the next tag, and that tag.
func (l *lexer) root() error {
	start := l.i
	open := nextTag(l.src, start)
	if open < 0 {
		l.text(l.src[start:], start)
		l.i = len(l.src)
		return nil
	}
	kind := l.src[open+1]
	l.i = open + 2
	sign := l.sign()
	l.text(l.trimBefore(l.src[start:open], sign, kind != '{'), start)
	switch kind {
	case '#':
		return l.comment(open)
	case '{':
		l.flushText()
		l.add(tokenVarBegin, "{{", open)
		return l.tag(open, "}}", tokenVarEnd)
	}
	if body, ok := l.rawBegin(); ok {
		return l.raw(open, body)
	}
	l.flushText()
	l.add(tokenBlockBegin, "{%", open)
	return l.tag(open, "%}", tokenBlockEnd)
}

func nextTag(src string, from int) int {
	for i := from; i+1 < len(src); i++ {
		j := strings.IndexByte(src[i:], '{')
		if j < 0 || i+j+1 >= len(src) {
			return -1
		}
		i += j
		if c := src[i+1]; c == '{' || c == '%' || c == '#' {
			return i
		}
	}
	return -1
}

// sign consumes the whitespace-control character after an opening delimiter.
func (l *lexer) sign() byte {
	if l.i < len(l.src) && (l.src[l.i] == '-' || l.src[l.i] == '+') {
		l.i++
		return l.src[l.i-1]
	}
	return 0
}

// trimBefore applies whitespace control to the text before a tag.
func (l *lexer) trimBefore(text string, sign byte, isBlock bool) string {
	switch {
	case sign == '-':
		return strings.TrimRightFunc(text, isSpace)
	case sign == '+' || !isBlock:
		return text
	}
	line := strings.LastIndexByte(text, '\n') + 1
	if (line > 0 || l.lineStart) && strings.TrimLeftFunc(text[line:], isSpace) == "" {
		return text[:line]
	}
	return text
}

// closing reports the length of the closing delimiter at i, with its sign and the
// whitespace it swallows, or 0.
func (l *lexer) closing(i int, delim string) int {
	rest := l.src[i:]
	sign := byte(0)
	if rest != "" && (rest[0] == '-' || rest[0] == '+' && delim != "}}") {
		sign, rest = rest[0], rest[1:]
	}
	if !strings.HasPrefix(rest, delim) {
		return 0
	}
	rest = rest[len(delim):]
	switch {
	case sign == '-':
		rest = strings.TrimLeftFunc(rest, isSpace)
	case sign == 0 && delim != "}}":
		rest = strings.TrimPrefix(rest, "\n")
	}
	return len(l.src) - i - len(rest)
}

// closeTag moves behind a closing delimiter that closing measured.
func (l *lexer) closeTag(i, n int) {
	l.i = i + n
	l.lineStart = l.src[l.i-1] == '\n'
}

func (l *lexer) comment(open int) error {
	for i := l.i; i < len(l.src); i++ {
		if n := l.closing(i, "#}"); n > 0 {
			l.closeTag(i, n)
			return nil
		}
	}
	return l.errorf(open, "comment is never closed: expected '#}'")
}

// rawBegin reports where the verbatim text starts if the open tag is 'raw'.
func (l *lexer) rawBegin() (body int, ok bool) {
	i, ok := l.bareTag(l.i, "raw")
	if !ok {
		return 0, false
	}
	rest := l.src[i:]
	if trimmed, found := strings.CutPrefix(rest, "-%}"); found {
		return len(l.src) - len(strings.TrimLeftFunc(trimmed, isSpace)), true
	}
	return i + 2, strings.HasPrefix(rest, "%}")
}

// bareTag skips blanks, word and blanks.
func (l *lexer) bareTag(i int, word string) (end int, ok bool) {
	rest, ok := strings.CutPrefix(strings.TrimLeftFunc(l.src[i:], isSpace), word)
	return len(l.src) - len(strings.TrimLeftFunc(rest, isSpace)), ok
}

func (l *lexer) raw(open, body int) error {
	l.lineStart = l.src[body-1] == '\n'
	for from := body; ; {
		j := strings.Index(l.src[from:], "{%")
		if j < 0 {
			return l.errorf(open, "raw block is never closed: expected '{%% endraw %%}'")
		}
		end := from + j
		l.i = end + 2
		sign := l.sign()
		if i, ok := l.bareTag(l.i, "endraw"); ok {
			if n := l.closing(i, "%}"); n > 0 {
				l.text(l.trimBefore(l.src[body:end], sign, true), body)
				l.closeTag(i, n)
				return nil
			}
		}
		from = end + 2
	}
}

// tag consumes the tokens of an expression or statement through its closing
// delimiter, which only counts outside brackets.
func (l *lexer) tag(open int, delim string, end tokenKind) error {
	var brackets []byte
	for l.i < len(l.src) {
		c, size := utf8.DecodeRuneInString(l.src[l.i:])
		if isSpace(c) {
			l.i += size
			continue
		}
		if len(brackets) == 0 {
			if n := l.closing(l.i, delim); n > 0 {
				l.add(end, delim, l.i)
				l.closeTag(l.i, n)
				return nil
			}
		}
		var err error
		switch {
		case c >= '0' && c <= '9':
			l.number()
		case c == '_' || unicode.IsLetter(c):
			err = l.name()
		case c == '"' || c == '\'':
			err = l.string()
		default:
			brackets, err = l.operator(brackets)
		}
		if err != nil {
			return err
		}
	}
	return l.errorf(open, "tag is never closed: expected '%s'", delim)
}

func (l *lexer) name() error {
	start := l.i
	for l.i < len(l.src) {
		c, size := utf8.DecodeRuneInString(l.src[l.i:])
		if c != '_' && !unicode.IsLetter(c) && !unicode.IsDigit(c) && !unicode.Is(unicode.Mn, c) {
			break
		}
		l.i += size
	}
	if l.i-start > nameBytesMax {
		return l.errorf(start, "name is longer than %d bytes", nameBytesMax)
	}
	l.add(tokenName, l.src[start:l.i], start)
	return nil
}

func (l *lexer) operator(brackets []byte) ([]byte, error) {
	rest := l.src[l.i:]
	op := rest[:1]
	if len(rest) > 1 {
		switch rest[:2] {
		case "**", "//", "==", "!=", ">=", "<=":
			op = rest[:2]
		}
	}
	switch op {
	case "(", "[", "{":
		brackets = append(brackets, "([{)]}"[strings.Index("([{", op)+3])
	case ")", "]", "}":
		if len(brackets) == 0 {
			return nil, l.errorf(l.i, "unexpected '%s': nothing is open", op)
		}
		want := brackets[len(brackets)-1]
		if want != op[0] {
			return nil, l.errorf(l.i, "unexpected '%s': expected '%c'", op, want)
		}
		brackets = brackets[:len(brackets)-1]
	default:
		if !strings.Contains("+-/*%~.:|,;=<>", op[:1]) && op != "!=" {
			c, _ := utf8.DecodeRuneInString(rest)
			return nil, l.errorf(l.i, "unexpected character %q", c)
		}
	}
	l.add(tokenOp, op, l.i)
	l.i += len(op)
	return brackets, nil
}

func (l *lexer) errorf(at int, format string, args ...any) error {
	return locate(l.src, errorf(SyntaxError, format, args...), pos(at))
}

// isSpace is Python's str.isspace for one code point.
func isSpace(r rune) bool {
	return unicode.IsSpace(r) || r >= 0x1c && r <= 0x1f
}
