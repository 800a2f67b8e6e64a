package guide

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
)

// classPair is a character class as two sets, because dialects differ on \d, \w and \s: narrow has the characters
// that are in it everywhere, wide those that are in it somewhere. What is generated comes from narrow, so that it
// matches under ECMA-262 and Python alike.
type classPair struct{ narrow, wide runeSet }

func exactly(s runeSet) classPair { return classPair{s, s} }

func (c classPair) negate() classPair {
	return classPair{narrow: c.wide.complement(), wide: c.narrow.complement()}
}

func (c classPair) union(d classPair) classPair {
	return classPair{narrow: c.narrow.union(d.narrow), wide: c.wide.union(d.wide)}
}

var (
	// dotSet is what . matches in both dialects.
	dotSet = runesOf("\n\r\u2028\u2029").complement()

	digitClass = classPair{narrow: runeSet{{'0', '9'}}, wide: fromTable(unicode.Nd)}
	wordClass  = classPair{narrow: newRuneSet(runeRange{'0', '9'}, runeRange{'A', 'Z'}, runeRange{'_', '_'},
		runeRange{'a', 'z'}),
		wide: fromTable(unicode.L).union(fromTable(unicode.N)).union(fromTable(unicode.M)).union(runesOf("_"))}
	spaceClass = classPair{narrow: runesOf(" \t\n\r\f\v"),
		wide: fromTable(unicode.White_Space).union(runesOf("\x1C\x1D\x1E\x1F\uFEFF"))}
)

// bracket reads a class in brackets.
func (p *regexParser) bracket() classPair {
	start := p.pos
	p.pos++
	negated := p.take("^")
	out := classPair{}
	for first := true; !p.take("]"); first = false {
		if !p.more() {
			p.pos = start
			p.fail("a character class is not closed", "add ]")
		}
		if first && p.has("]") {
			p.fail("an empty character class", `write \] for the character`)
		}
		if p.has("[:") || p.has("&&") || p.has("--") && !first {
			p.fail("set operations and POSIX names in classes are not supported", "list the characters")
		}
		out = out.union(p.classItem())
	}
	if negated {
		return out.negate()
	}
	return out
}

// classItem reads a character, an escape or a range.
func (p *regexParser) classItem() classPair {
	low := p.classAtom()
	if !p.has("-") || strings.HasPrefix(p.src[p.pos:], "-]") {
		return low
	}
	start := p.pos
	p.pos++
	if !p.more() {
		p.fail("a character class is not closed", "add ]")
	}
	high := p.classAtom()
	lo, okLo := single(low)
	hi, okHi := single(high)
	if !okLo || !okHi || lo > hi {
		p.pos = start
		p.fail("a range in a character class is out of order or has a class as an end", `write \- for the character`)
	}
	return exactly(newRuneSet(runeRange{lo, hi}))
}

func single(c classPair) (rune, bool) {
	if len(c.narrow) != 1 || c.narrow[0].lo != c.narrow[0].hi {
		return 0, false
	}
	return c.narrow[0].lo, true
}

func (p *regexParser) classAtom() classPair {
	if p.has(`\`) {
		return p.escape(true)
	}
	r := p.rune()
	return exactly(runeSet{{r, r}})
}

// escape reads a backslash and what belongs to it.
func (p *regexParser) escape(inClass bool) classPair {
	start := p.pos
	p.pos++
	if !p.more() {
		p.fail("the expression ends with a backslash", `write \\ for the character`)
	}
	r := p.rune()
	switch r {
	case 'd':
		return digitClass
	case 'D':
		return digitClass.negate()
	case 'w':
		return wordClass
	case 'W':
		return wordClass.negate()
	case 's':
		return spaceClass
	case 'S':
		return spaceClass.negate()
	case 'p', 'P':
		set := p.unicodeClass()
		if r == 'P' {
			set = set.complement()
		}
		return exactly(set)
	case 'n', 'r', 't', 'f', 'v', 'a':
		return exactly(runesOf(map[rune]string{'n': "\n", 'r': "\r", 't': "\t", 'f': "\f", 'v': "\v", 'a': "\a"}[r]))
	case '0':
		return exactly(runeSet{{0, 0}})
	case 'x':
		return exactly(p.hex(2))
	case 'u':
		if p.take("{") {
			end := strings.IndexByte(p.src[p.pos:], '}')
			if end < 1 || end > 6 {
				p.fail(`\u{…} needs one to six hexadecimal digits`, "")
			}
			set := p.hex(end)
			p.pos++
			return exactly(set)
		}
		return exactly(p.hex(4))
	case 'U':
		return exactly(p.hex(8))
	case 'b':
		if inClass {
			return exactly(runeSet{{8, 8}})
		}
		fallthrough
	case 'B':
		p.pos = start
		p.fail("word boundaries are not supported", "spell out what may stand there")
	case 'k', '1', '2', '3', '4', '5', '6', '7', '8', '9':
		p.pos = start
		p.fail("backreferences are not regular and not supported", "spell out what may match")
	}
	if r < 0x80 && (r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z') {
		p.pos = start
		p.fail(fmt.Sprintf(`the escape \%c is not supported`, r), "")
	}
	return exactly(runeSet{{r, r}})
}

// hex reads digits hexadecimal digits.
func (p *regexParser) hex(digits int) runeSet {
	if p.pos+digits > len(p.src) {
		p.fail(fmt.Sprintf("the escape needs %d hexadecimal digits", digits), "")
	}
	n, err := strconv.ParseUint(p.src[p.pos:p.pos+digits], 16, 32)
	if err != nil || n > unicode.MaxRune {
		p.fail(fmt.Sprintf("the escape needs %d hexadecimal digits", digits), "")
	}
	p.pos += digits
	set := newRuneSet(runeRange{rune(n), rune(n)})
	if len(set) == 0 {
		p.fail("the escape names half of a surrogate pair", `write the character itself or \u{…}`)
	}
	return set
}

// unicodeClass reads what follows \p: {Name}, {Script=Name}, {General_Category=Name} or one letter.
func (p *regexParser) unicodeClass() runeSet {
	if !p.more() {
		p.fail(`\p needs a name`, `as in \p{L}`)
	}
	name := string(p.rune())
	if name == "{" {
		end := strings.IndexByte(p.src[p.pos:], '}')
		if end < 0 {
			p.fail(`the name of \p{…} is not closed`, "add }")
		}
		name = p.src[p.pos : p.pos+end]
		p.pos += end + 1
	}
	for _, prefix := range []string{"Script=", "sc=", "General_Category=", "gc="} {
		name = strings.TrimPrefix(name, prefix)
	}
	long := map[string]string{"Letter": "L", "Uppercase_Letter": "Lu", "Lowercase_Letter": "Ll", "Mark": "M",
		"Number": "N", "Decimal_Number": "Nd", "Punctuation": "P", "Symbol": "S", "Separator": "Z"}
	if short, ok := long[name]; ok {
		name = short
	}
	for _, tables := range []map[string]*unicode.RangeTable{unicode.Categories, unicode.Scripts, unicode.Properties} {
		if table, ok := tables[name]; ok {
			set, ok := p.unicode[name]
			if !ok {
				set = fromTable(table)
				p.unicode[name] = set
			}
			return set
		}
	}
	p.fail(fmt.Sprintf("unknown Unicode class %q", name), `use a category (\p{L}) or a script (\p{Greek})`)
	return nil
}
