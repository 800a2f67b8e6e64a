package onig

import (
	"fmt"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/troupe-engine/troupe/internal/tokenizers/ucd"
)

var (
	digits = ucd.Range{Lo: '0', Hi: '9'}
	hex    = ucd.Of(digits, ucd.Range{Lo: 'a', Hi: 'f'}, ucd.Range{Lo: 'A', Hi: 'F'})
)

// spaces is White_Space: \s and [[:space:]].
var spaces = sync.OnceValue(func() ucd.Set {
	z, _ := ucd.Category("Z")
	return z.Union(ucd.Of(ucd.Range{Lo: '\t', Hi: '\r'}, ucd.Range{Lo: 0x85, Hi: 0x85}))
})

// foldable is the set of code points with a simple case folding other than themselves.
var foldable = sync.OnceValue(func() ucd.Set {
	var ranges []ucd.Range
	for r := rune(0); r < 0x20000; r++ {
		if unicode.SimpleFold(r) != r {
			ranges = append(ranges, ucd.Range{Lo: r, Hi: r})
		}
	}
	return ucd.Of(ranges...)
})

// folded adds to a set all code points that differ from one of its members only in case.
func folded(set ucd.Set) ucd.Set {
	var ranges []ucd.Range
	for _, span := range set.Intersect(foldable()) {
		for r := span.Lo; r <= span.Hi; r++ {
			for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
				ranges = append(ranges, ucd.Range{Lo: f, Hi: f})
			}
		}
	}
	return set.Union(ucd.Of(ranges...))
}

// class reads a bracket class after its opening bracket.
func (p *parser) class() (ucd.Set, error) {
	if p.depth++; p.depth > maxNesting {
		return nil, fmt.Errorf("nested deeper than %d", maxNesting)
	}
	defer func() { p.depth-- }()
	negated := p.accept("^")
	var set, left ucd.Set
	intersecting := false
	for first := true; ; first = false {
		if !p.more() {
			return nil, fmt.Errorf("unclosed [")
		}
		if !first && p.accept("]") {
			break
		}
		if p.accept("&&") {
			if intersecting {
				set = left.Intersect(set)
			}
			left, set, intersecting = set, nil, true
			continue
		}
		part, err := p.classPart()
		if err != nil {
			return nil, err
		}
		set = set.Union(part)
	}
	if intersecting {
		set = left.Intersect(set)
	}
	if p.fold {
		set = folded(set)
	}
	if negated {
		set = set.Negate()
	}
	return set, nil
}

// classPart reads one member of a class: a nested class, an escape, a code point or a range.
func (p *parser) classPart() (ucd.Set, error) {
	if p.accept("[:") {
		return p.posix()
	}
	if p.accept("[") {
		return p.class()
	}
	var low rune
	if p.accept("\\") {
		set, literal, err := p.classEscape()
		if err != nil || literal < 0 {
			return set, err
		}
		low = literal
	} else {
		low = p.next()
	}
	rest := p.text[p.pos:]
	if !strings.HasPrefix(rest, "-") || strings.HasPrefix(rest, "-]") || strings.HasPrefix(rest, "-[") {
		return ucd.Rune(low), nil
	}
	p.next()
	if !p.more() {
		return nil, fmt.Errorf("unclosed [")
	}
	var high rune
	if p.accept("\\") {
		set, literal, err := p.classEscape()
		if err != nil {
			return nil, err
		}
		if literal < 0 { // as in [a-\d]: the hyphen stands for itself
			return set.Union(ucd.Rune(low), ucd.Rune('-')), nil
		}
		high = literal
	} else {
		high = p.next()
	}
	if high < low {
		return nil, fmt.Errorf("class range %q-%q is empty", low, high)
	}
	return ucd.Set{{Lo: low, Hi: high}}, nil
}

// classEscape reads what follows a backslash in a class. There \w is [:word:], which in Latin-1 has fewer
// characters than \w outside.
func (p *parser) classEscape() (ucd.Set, rune, error) {
	switch {
	case p.accept("b"):
		return nil, '\b', nil
	case p.accept("w"):
		return ucd.Named("onig.posixword"), -1, nil
	case p.accept("W"):
		return ucd.Named("onig.posixword").Negate(), -1, nil
	}
	return p.escapeSet()
}

// escapeSet reads what follows a backslash when it stands for a set, or for a single code point, which it
// then returns as literal; otherwise literal is -1.
func (p *parser) escapeSet() (set ucd.Set, literal rune, err error) {
	if !p.more() {
		return nil, -1, fmt.Errorf("pattern ends with a backslash")
	}
	switch r := p.next(); r {
	case 't':
		return nil, '\t', nil
	case 'n':
		return nil, '\n', nil
	case 'v':
		return nil, '\v', nil
	case 'f':
		return nil, '\f', nil
	case 'r':
		return nil, '\r', nil
	case 'a':
		return nil, '\a', nil
	case 'e':
		return nil, 0x1B, nil
	case 'x':
		literal, err = p.hexEscape(2, true)
		return nil, literal, err
	case 'u':
		literal, err = p.hexEscape(4, false)
		return nil, literal, err
	case '0':
		return nil, p.octal(), nil
	case 's':
		return spaces(), -1, nil
	case 'S':
		return spaces().Negate(), -1, nil
	case 'd':
		return ucd.Named("gc.Nd"), -1, nil
	case 'D':
		return ucd.Named("gc.Nd").Negate(), -1, nil
	case 'w':
		return ucd.Named("onig.word"), -1, nil
	case 'W':
		return ucd.Named("onig.word").Negate(), -1, nil
	case 'N':
		return ucd.Rune('\n').Negate(), -1, nil
	case 'O':
		return ucd.Any(), -1, nil
	case 'h':
		return hex, -1, nil
	case 'H':
		return hex.Negate(), -1, nil
	case 'p', 'P':
		set, err = p.property(r == 'P')
		return set, -1, err
	default:
		if r < utf8.RuneSelf && (unicode.IsLetter(r) || unicode.IsDigit(r)) {
			return nil, -1, fmt.Errorf(`\%c is not supported`, r)
		}
		return nil, r, nil
	}
}

// octal reads up to two octal digits after \0.
func (p *parser) octal() rune {
	value := rune(0)
	for range 2 {
		if !p.more() || p.peek() < '0' || p.peek() > '7' {
			break
		}
		value = value<<3 | (p.next() - '0')
	}
	return value
}

// hexEscape reads up to width hexadecimal digits, or any number in braces.
func (p *parser) hexEscape(width int, braces bool) (rune, error) {
	inBraces := braces && p.accept("{")
	if inBraces {
		width = 8
	}
	value, count := rune(0), 0
	for count < width && p.more() {
		digit := strings.IndexRune("0123456789abcdef", unicode.ToLower(p.peek()))
		if digit < 0 {
			break
		}
		p.next()
		value = value<<4 | rune(digit)
		count++
	}
	if inBraces && !p.accept("}") {
		return 0, fmt.Errorf("malformed hexadecimal escape")
	}
	if count == 0 || !utf8.ValidRune(value) || !braces && count != width {
		return 0, fmt.Errorf("malformed hexadecimal escape")
	}
	if braces && !inBraces && value >= utf8.RuneSelf {
		return 0, fmt.Errorf(`\x%X is a raw byte; write \x{%X} for the code point`, value, value)
	}
	return value, nil
}

// property reads {Name} or {^Name} after \p or \P.
func (p *parser) property(negated bool) (ucd.Set, error) {
	if !p.accept("{") {
		return nil, fmt.Errorf(`\p without {`)
	}
	name, rest, ok := strings.Cut(p.text[p.pos:], "}")
	if !ok {
		return nil, fmt.Errorf(`unclosed \p{`)
	}
	p.pos = len(p.text) - len(rest)
	if positive, inverse := strings.CutPrefix(name, "^"); inverse {
		name, negated = positive, !negated
	}
	set, ok := lookup(name)
	if !ok {
		return nil, fmt.Errorf(`unknown property \p{%s}`, name)
	}
	if negated {
		set = set.Negate()
	}
	return set, nil
}

var longCategories = map[string]string{
	"letter": "L", "casedletter": "LC", "uppercaseletter": "Lu", "lowercaseletter": "Ll", "titlecaseletter": "Lt",
	"modifierletter": "Lm", "otherletter": "Lo", "mark": "M", "nonspacingmark": "Mn", "spacingmark": "Mc",
	"enclosingmark": "Me", "number": "N", "decimalnumber": "Nd", "letternumber": "Nl", "othernumber": "No",
	"punctuation": "P", "connectorpunctuation": "Pc", "dashpunctuation": "Pd", "openpunctuation": "Ps",
	"closepunctuation": "Pe", "initialpunctuation": "Pi", "finalpunctuation": "Pf", "otherpunctuation": "Po",
	"symbol": "S", "mathsymbol": "Sm", "currencysymbol": "Sc", "modifiersymbol": "Sk", "othersymbol": "So",
	"separator": "Z", "spaceseparator": "Zs", "lineseparator": "Zl", "paragraphseparator": "Zp",
	"other": "C", "control": "Cc", "format": "Cf", "surrogate": "Cs", "privateuse": "Co", "unassigned": "Cn",
}

// lookup finds a property by name; case, spaces, hyphens and underscores do not count.
func lookup(name string) (ucd.Set, bool) {
	simple := func(s string) string {
		return strings.ToLower(strings.NewReplacer(" ", "", "-", "", "_", "").Replace(s))
	}
	want := simple(name)
	switch want {
	case "punct":
		return ucd.Category("P")
	case "word":
		return ucd.Named("onig.word"), true
	case "alphabetic":
		want = "alpha"
	case "lowercase", "uppercase":
		want = want[:len("lower")]
	case "whitespace":
		want = "space"
	case "assigned":
		unassigned, ok := ucd.Category("Cn")
		return unassigned.Negate(), ok
	case "emoji", "extendedpictographic":
		return ucd.Named("onig." + want), true
	}
	if set, ok := posixClass(want); ok {
		return set, true
	}
	if short, ok := longCategories[want]; ok {
		return ucd.Category(short)
	}
	for _, short := range longCategories {
		if strings.EqualFold(short, want) {
			return ucd.Category(short)
		}
	}
	for full := range unicode.Scripts {
		if simple(full) == want {
			return ucd.Script(full)
		}
	}
	for full := range unicode.Properties {
		if simple(full) == want {
			return ucd.Property(full)
		}
	}
	return nil, false
}

// posix reads the rest of [:name:] or [:^name:].
func (p *parser) posix() (ucd.Set, error) {
	negated := p.accept("^")
	name, rest, ok := strings.Cut(p.text[p.pos:], ":]")
	if !ok {
		return nil, fmt.Errorf("unclosed [:")
	}
	set, known := posixClass(name)
	if !known {
		return nil, fmt.Errorf("unknown class [:%s:]", name)
	}
	p.pos = len(p.text) - len(rest)
	if negated {
		set = set.Negate()
	}
	return set, nil
}

func posixClass(name string) (ucd.Set, bool) {
	category := func(name string) ucd.Set { s, _ := ucd.Category(name); return s }
	switch name {
	case "alpha":
		return ucd.Named("onig.alphabetic"), true
	case "alnum":
		return ucd.Named("onig.alphabetic").Union(category("Nd")), true
	case "digit":
		return category("Nd"), true
	case "word":
		return ucd.Named("onig.posixword"), true
	case "space":
		return spaces(), true
	case "blank":
		return category("Zs").Union(ucd.Rune('\t')), true
	case "cntrl":
		return category("Cc"), true
	case "punct":
		return category("P").Union(category("S")), true
	case "graph":
		return spaces().Union(category("Cc"), category("Cn")).Negate(), true
	case "print":
		return spaces().Union(category("Cc"), category("Cn")).Negate().Union(category("Zs")), true
	case "lower", "upper":
		other, _ := ucd.Property("Other_" + strings.ToUpper(name[:1]) + name[1:] + "case")
		return category("L" + name[:1]).Union(other), true
	case "xdigit":
		return hex, true
	case "ascii":
		return ucd.Set{{Lo: 0, Hi: 0x7F}}, true
	case "any":
		return ucd.Any(), true
	}
	return nil, false
}
