package onig

import (
	"fmt"
	"strings"
	"time"

	"github.com/dlclark/regexp2/v2"
	"github.com/troupe-engine/troupe/internal/tokenizers/ucd"
)

// fallbackTimeout bounds one search by regexp2, and all searches in a text together with fallbackPerByte.
const (
	fallbackTimeout = 2 * time.Second
	fallbackPerByte = 20 * time.Microsecond
)

// fallback runs the pattern on regexp2.
type fallback struct{ re *regexp2.Regexp }

func newFallback(tree *node) (*fallback, error) {
	var b strings.Builder
	if err := printNode(&b, tree); err != nil {
		return nil, err
	}
	re, err := regexp2.Compile(b.String())
	if err != nil {
		return nil, err
	}
	re.MatchTimeout = fallbackTimeout
	return &fallback{re}, nil
}

// fallbackSearcher works on runes, as regexp2 does.
type fallbackSearcher struct {
	re    *regexp2.Regexp
	runes []rune
	// offset[i] is the byte position of rune i, and of the end for i = len(runes).
	offset   []int
	deadline time.Time
	// at is the rune position of the last search's start; searches only move forward.
	at int
}

func (f *fallback) searcher(text string) searcher {
	s := &fallbackSearcher{re: f.re, runes: []rune(text), offset: make([]int, 0, len(text)+1)}
	s.deadline = time.Now().Add(fallbackTimeout + time.Duration(len(text))*fallbackPerByte)
	for i := range text {
		s.offset = append(s.offset, i)
	}
	s.offset = append(s.offset, len(text))
	return s
}

func (s *fallbackSearcher) find(from int) (start, end int, ok bool, err error) {
	for s.offset[s.at] < from {
		s.at++
	}
	if time.Now().After(s.deadline) {
		return 0, 0, false, ErrBudget
	}
	m, err := s.re.FindRunesMatchStartingAt(s.runes, s.at)
	if err != nil {
		return 0, 0, false, fmt.Errorf("%w (%v)", ErrBudget, err)
	}
	if m == nil {
		return 0, 0, false, nil
	}
	return s.offset[m.RuneIndex], s.offset[m.RuneIndex+m.RuneLength], true, nil
}

// printNode writes the tree in regexp2's syntax, with explicit character classes only.
func printNode(b *strings.Builder, n *node) error {
	switch n.op {
	case opEmpty:
	case opSet:
		printSet(b, n.set)
	case opCat:
		b.WriteString("(?:")
		for _, sub := range n.subs {
			if err := printNode(b, sub); err != nil {
				return err
			}
		}
		b.WriteByte(')')
	case opAlt:
		b.WriteString("(?:")
		for i, sub := range n.subs {
			if i > 0 {
				b.WriteByte('|')
			}
			if err := printNode(b, sub); err != nil {
				return err
			}
		}
		b.WriteByte(')')
	case opRepeat:
		return printRepeat(b, n)
	case opAtomic:
		return printGroup(b, "(?>", n.subs[0])
	case opLook:
		open := map[[2]bool]string{
			{false, false}: "(?=", {false, true}: "(?!", {true, false}: "(?<=", {true, true}: "(?<!",
		}[[2]bool{n.behind, n.neg}]
		return printGroup(b, open, n.subs[0])
	case opAssert:
		word := ucd.Named("onig.word")
		switch n.assert {
		case assertBeginLine:
			b.WriteString(`(?:\A|(?<=\n)(?!\z))`)
		case assertEndLine:
			b.WriteString(`(?=\n|\z)`)
		case assertBeginText:
			b.WriteString(`\A`)
		case assertEndText:
			b.WriteString(`\z`)
		case assertEndTextOrFinalNewline:
			b.WriteString(`(?=\n?\z)`)
		case assertWordBoundary, assertNotWordBoundary:
			var w strings.Builder
			printSet(&w, word)
			in, out := w.String(), w.String()
			if n.assert == assertWordBoundary {
				fmt.Fprintf(b, "(?:(?<=%s)(?!%s)|(?<!%s)(?=%s))", in, out, in, out)
			} else {
				fmt.Fprintf(b, "(?:(?<=%s)(?=%s)|(?<!%s)(?!%s))", in, out, in, out)
			}
		}
	}
	return nil
}

func printGroup(b *strings.Builder, open string, body *node) error {
	b.WriteString(open)
	err := printNode(b, body)
	b.WriteByte(')')
	return err
}

func printRepeat(b *strings.Builder, n *node) error {
	open := "(?:"
	if n.mode == possessive {
		open = "(?>"
	}
	b.WriteString(open)
	if err := printGroup(b, "(?:", n.subs[0]); err != nil {
		return err
	}
	if n.max == infinite {
		fmt.Fprintf(b, "{%d,}", n.min)
	} else {
		fmt.Fprintf(b, "{%d,%d}", n.min, n.max)
	}
	if n.mode == lazy {
		b.WriteByte('?')
	}
	b.WriteByte(')')
	return nil
}

func printSet(b *strings.Builder, set ucd.Set) {
	if len(set) == 0 {
		b.WriteString(`(?!)`)
		return
	}
	b.WriteString("[" + ClassText(set) + "]")
}

// ClassText writes a set as the inside of a bracket class.
func ClassText(set ucd.Set) string {
	var b strings.Builder
	for _, r := range set {
		fmt.Fprintf(&b, `\x{%X}-\x{%X}`, r.Lo, r.Hi)
	}
	return b.String()
}
