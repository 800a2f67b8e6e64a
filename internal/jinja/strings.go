package jinja

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/cases"
	"golang.org/x/text/language"
)

var stringMethods map[string]method

func init() {
	stringMethods = map[string]method{
		"upper":        caseMethod(upper),
		"lower":        caseMethod(lower),
		"casefold":     caseMethod(func(s string) string { return cases.Fold().String(s) }),
		"capitalize":   caseMethod(capitalize),
		"title":        caseMethod(title),
		"swapcase":     caseMethod(swapcase),
		"strip":        stripMethod("strip", true, true),
		"lstrip":       stripMethod("lstrip", true, false),
		"rstrip":       stripMethod("rstrip", false, true),
		"split":        splitMethod("split", false),
		"rsplit":       splitMethod("rsplit", true),
		"splitlines":   stringMethod(splitLinesMethod),
		"partition":    partitionMethod("partition", strings.Index),
		"rpartition":   partitionMethod("rpartition", strings.LastIndex),
		"replace":      stringMethod(replaceMethod),
		"join":         stringMethod(joinMethod),
		"startswith":   affixMethod("startswith", strings.HasPrefix),
		"endswith":     affixMethod("endswith", strings.HasSuffix),
		"removeprefix": cutMethod("removeprefix", strings.TrimPrefix),
		"removesuffix": cutMethod("removesuffix", strings.TrimSuffix),
		"find":         findMethod("find", strings.Index, false),
		"rfind":        findMethod("rfind", strings.LastIndex, false),
		"index":        findMethod("index", strings.Index, true),
		"rindex":       findMethod("rindex", strings.LastIndex, true),
		"count":        stringMethod(countMethod),
		"center":       padMethod("center", centered),
		"ljust":        padMethod("ljust", func(int, int) int { return 0 }),
		"rjust":        padMethod("rjust", func(n, _ int) int { return n }),
		"zfill":        stringMethod(zfillMethod),
		"format":       stringMethod(formatMethod),
		"isupper":      predicate(isUpper),
		"islower":      predicate(isLower),
		"isdigit":      predicate(everyRune(unicode.IsDigit)),
		"isdecimal":    predicate(everyRune(unicode.IsDigit)),
		"isnumeric":    predicate(everyRune(unicode.IsNumber)),
		"isalpha":      predicate(everyRune(unicode.IsLetter)),
		"isalnum":      predicate(everyRune(func(r rune) bool { return unicode.IsLetter(r) || unicode.IsNumber(r) })),
		"isspace":      predicate(everyRune(isSpace)),
		"isascii":      predicate(isASCII),
	}
}

// stringMethod charges for reading the receiver, which every method does at most a
// constant number of times.
func stringMethod(f func(e *evaluator, s string, a callArgs) (any, error)) method {
	return func(e *evaluator, recv any, a callArgs) (any, error) {
		s := recv.(string)
		if err := e.scanned(len(s)); err != nil {
			return nil, err
		}
		return f(e, s, a)
	}
}

func caseMethod(f func(string) string) method {
	return stringMethod(func(e *evaluator, s string, a callArgs) (any, error) {
		if _, err := a.bind("case conversion", 0); err != nil {
			return nil, err
		}
		return f(s), e.made(len(s))
	})
}

func predicate(f func(string) bool) method {
	return stringMethod(func(_ *evaluator, s string, a callArgs) (any, error) {
		_, err := a.bind("string predicate", 0)
		return f(s), err
	})
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// upper and lower apply Unicode's full case mappings, as Python does: ß becomes SS.
func upper(s string) string {
	if isASCII(s) {
		return strings.ToUpper(s)
	}
	return cases.Upper(language.Und).String(s)
}

func lower(s string) string {
	if isASCII(s) {
		return strings.ToLower(s)
	}
	return cases.Lower(language.Und).String(s)
}

func capitalize(s string) string {
	_, size := utf8.DecodeRuneInString(s)
	return titleRune(s[:size]) + lower(s[size:])
}

func titleRune(s string) string {
	if isASCII(s) {
		return strings.ToUpper(s)
	}
	return cases.Title(language.Und, cases.NoLower).String(s)
}

// centered is where CPython puts the odd fill character.
func centered(n, width int) int { return n/2 + n&width&1 }

func isCased(r rune) bool { return unicode.IsUpper(r) || unicode.IsLower(r) || unicode.IsTitle(r) }

// title starts a word after every code point without case, as str.title does.
func title(s string) string {
	return titleBy(s, func(r rune) bool { return !isCased(r) }, titleRune, func(rest string) string {
		return lower("a" + rest)[1:] // with a letter before it, a last sigma becomes final
	})
}

// titleBy cuts s after the code points that end a word, and applies first to the first
// code point of each word and rest to the others.
func titleBy(s string, ends func(rune) bool, first, rest func(string) string) string {
	var b strings.Builder
	for s != "" {
		_, size := utf8.DecodeRuneInString(s)
		end := len(s)
		if i := strings.IndexFunc(s, ends); i >= 0 {
			_, last := utf8.DecodeRuneInString(s[i:])
			end = i + last
		}
		b.WriteString(first(s[:size]))
		b.WriteString(rest(s[size:end]))
		s = s[end:]
	}
	return b.String()
}

func swapcase(s string) string {
	var b strings.Builder
	for _, r := range s {
		if unicode.IsUpper(r) {
			b.WriteString(lower(string(r)))
		} else {
			b.WriteString(upper(string(r)))
		}
	}
	return b.String()
}

func isUpper(s string) bool {
	return strings.ContainsFunc(s, unicode.IsUpper) && !strings.ContainsFunc(s, unicode.IsLower)
}

func isLower(s string) bool {
	return strings.ContainsFunc(s, unicode.IsLower) && !strings.ContainsFunc(s, unicode.IsUpper)
}

func everyRune(is func(rune) bool) func(string) bool {
	return func(s string) bool {
		return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return !is(r) })
	}
}

// strip removes the code points of chars, or whitespace if chars is nil.
func strip(s string, chars any, left, right bool) (string, error) {
	in := isSpace
	switch c := chars.(type) {
	case nil:
	case string:
		set := make(map[rune]bool, len(c))
		for _, r := range c {
			set[r] = true
		}
		in = func(r rune) bool { return set[r] }
	default:
		return "", fmt.Errorf("strip: characters must be a string, not '%s'", typeName(chars))
	}
	if left {
		s = strings.TrimLeftFunc(s, in)
	}
	if right {
		s = strings.TrimRightFunc(s, in)
	}
	return s, nil
}

func stripMethod(name string, left, right bool) method {
	return stringMethod(func(_ *evaluator, s string, a callArgs) (any, error) {
		b, err := a.bindTo(name, 0, "chars")
		if err != nil {
			return nil, err
		}
		return strip(s, b.any(0, nil), left, right)
	})
}

// pieces charges for a list of n+1 strings, before it is made.
func (e *evaluator) pieces(n int) error { return e.charge(3 * (n + 1)) }

func countRunes(s string, is func(rune) bool) int {
	n := 0
	for _, r := range s {
		if is(r) {
			n++
		}
	}
	return n
}

func stringList(pieces []string) []any {
	list := make([]any, len(pieces))
	for i, p := range pieces {
		list[i] = p
	}
	return list
}

func splitLinesMethod(e *evaluator, s string, a callArgs) (any, error) {
	b, err := a.bindTo("splitlines", 0, "keepends")
	if err != nil {
		return nil, err
	}
	if err := e.pieces(countRunes(s, isLineEnd)); err != nil {
		return nil, err
	}
	return stringList(splitLines(s, b.bool(0, false))), nil
}

// splitLines splits at every line boundary that Python knows.
func splitLines(s string, keepEnds bool) []string {
	var lines []string
	for s != "" {
		i := strings.IndexFunc(s, isLineEnd)
		if i < 0 {
			return append(lines, s)
		}
		_, size := utf8.DecodeRuneInString(s[i:])
		if strings.HasPrefix(s[i:], "\r\n") {
			size = 2
		}
		if keepEnds {
			lines = append(lines, s[:i+size])
		} else {
			lines = append(lines, s[:i])
		}
		s = s[i+size:]
	}
	return lines
}

func isLineEnd(r rune) bool {
	return r >= '\n' && r <= '\r' || r >= 0x1c && r <= 0x1e || r == 0x85 || r == 0x2028 || r == 0x2029
}

func partitionMethod(name string, index func(s, sep string) int) method {
	return stringMethod(func(_ *evaluator, s string, a callArgs) (any, error) {
		b, err := a.bindTo(name, 1, "sep")
		if err != nil {
			return nil, err
		}
		sep := b.string(0, "")
		switch i := index(s, sep); {
		case b.err != nil:
			return nil, b.err
		case sep == "":
			return nil, errors.New("empty separator")
		case i >= 0:
			return tuple{s[:i], sep, s[i+len(sep):]}, nil
		case name == "partition":
			return tuple{s, "", ""}, nil
		}
		return tuple{"", "", s}, nil
	})
}
