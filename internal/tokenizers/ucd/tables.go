package ucd

import (
	_ "embed"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"unicode"
)

//go:embed tables.txt
var tablesText string

// lines maps a table's name to its text, unparsed: most programs need only a few of the tables.
var lines = sync.OnceValue(func() map[string]string {
	m := map[string]string{}
	for line := range strings.Lines(tablesText) {
		if name, rest, ok := strings.Cut(strings.TrimSpace(line), " "); ok && name != "#" {
			m[name] = rest
		}
	}
	return m
})

var parsed sync.Map // name → Set

// Named returns a set of tables.txt, such as "gc.Lu", "script.Han", "numeric" or "onig.word". It panics if
// there is none of that name; names come from this program, not from input.
func Named(name string) Set {
	s, ok := Lookup(name)
	if !ok {
		panic(fmt.Sprintf("ucd: no table named %q", name))
	}
	return s
}

// Lookup returns a set of tables.txt if there is one of that name.
func Lookup(name string) (Set, bool) {
	if s, ok := parsed.Load(name); ok {
		return s.(Set), true
	}
	text, ok := lines()[name]
	if !ok {
		return nil, false
	}
	var set Set
	next := int64(0)
	numbers := strings.Fields(text)
	for i := 0; i+1 < len(numbers); i += 2 {
		lo := next + mustBase36(numbers[i])
		next = lo + mustBase36(numbers[i+1])
		set = append(set, Range{rune(lo), rune(next - 1)})
	}
	s, _ := parsed.LoadOrStore(name, set)
	return s.(Set), true
}

func mustBase36(s string) int64 {
	n, err := strconv.ParseInt(s, 36, 64)
	if err != nil {
		panic("ucd: corrupt tables.txt: " + err.Error())
	}
	return n
}

// Category returns a general category such as "Lu", or the union of a major one such as "L". The surrogates
// (Cs) are empty, as text never holds them. ok is false for an unknown name.
func Category(name string) (s Set, ok bool) {
	if s, ok := Lookup("gc." + name); ok {
		return s, true
	}
	switch name {
	case "L", "M", "N", "P", "S", "Z":
		for full := range lines() {
			if strings.HasPrefix(full, "gc."+name) {
				s = s.Union(Named(full))
			}
		}
	case "LC":
		s = Named("gc.Lu").Union(Named("gc.Ll"), Named("gc.Lt"))
	case "C":
		unassigned, _ := Category("Cn")
		s = unassigned.Union(Named("gc.Cc"), Named("gc.Cf"), Named("gc.Co"))
	case "Cn":
		s = Set{{0xD800, 0xDFFF}}
		for full := range lines() {
			if strings.HasPrefix(full, "gc.") {
				s = s.Union(Named(full))
			}
		}
		s = s.Negate()
	case "Cs":
		s = Set{}
	default:
		return nil, false
	}
	stored, _ := parsed.LoadOrStore("gc."+name, s)
	return stored.(Set), true
}

// Script returns the code points of a Unicode script by its full name, such as "Han". Scripts that
// tables.txt does not list come from Go's unicode package.
func Script(name string) (Set, bool) {
	if s, ok := Lookup("script." + name); ok {
		return s, true
	}
	table, ok := unicode.Scripts[name]
	if !ok {
		return nil, false
	}
	return fromTable(table), true
}

// Property returns a binary Unicode property such as "White_Space" from Go's unicode package.
func Property(name string) (Set, bool) {
	table, ok := unicode.Properties[name]
	if !ok {
		return nil, false
	}
	return fromTable(table), true
}

func fromTable(table *unicode.RangeTable) Set {
	var ranges []Range
	for _, r := range table.R16 {
		for c := rune(r.Lo); c <= rune(r.Hi); c += rune(r.Stride) {
			ranges = append(ranges, Range{c, c})
		}
	}
	for _, r := range table.R32 {
		for c := rune(r.Lo); c <= rune(r.Hi); c += rune(r.Stride) {
			ranges = append(ranges, Range{c, c})
		}
	}
	return Of(ranges...)
}

// lowerMap holds the lower-case mappings of single code points.
var lowerMap = sync.OnceValue(func() map[rune]rune {
	m := map[rune]rune{}
	at := rune(0)
	numbers := strings.Fields(lines()["lower"])
	for i := 0; i+1 < len(numbers); i += 2 {
		at += rune(mustBase36(numbers[i]))
		m[at] = at + rune(mustBase36(numbers[i+1]))
	}
	return m
})

// Lower returns text in lower case by the context-free mappings: a final capital sigma becomes σ, and İ
// becomes i followed by U+0307.
func Lower(text string) string {
	m := lowerMap()
	var b strings.Builder
	b.Grow(len(text))
	for _, r := range text {
		switch {
		case r < 0x80:
			if 'A' <= r && r <= 'Z' {
				r += 'a' - 'A'
			}
			b.WriteByte(byte(r))
		case r == 'İ':
			b.WriteString("i\u0307")
		default:
			if l, ok := m[r]; ok {
				r = l
			}
			b.WriteRune(r)
		}
	}
	return b.String()
}
