package onig

import (
	"unicode/utf8"

	"github.com/troupe-engine/troupe/internal/tokenizers/ucd"
)

const (
	// stepsBase and stepsPerByte bound the work of all searches in one text.
	stepsBase    = 1 << 20
	stepsPerByte = 200
)

type kind uint8

const (
	accept   kind = iota
	single        // one code point of table
	loop          // min to max code points of table
	choice        // the first of branches that leads to a match
	look          // body must (not) match here
	lookBack      // the code point before must (not) be in table
	atomic        // body, then next; the body's first match only
	position      // assert holds
)

// inst is one instruction. Its continuation is part of it: a match of inst is a match of everything after it.
type inst struct {
	kind     kind
	table    *ucd.Table
	min, max int
	mode     mode
	neg      bool
	assert   assertion
	branches []*inst
	body     *inst
	next     *inst
}

// scanner is the compiled form of a pattern.
type scanner struct {
	branches []*inst
	// first[b] has bit i set if branch i can match at a byte b; empty says which can match the empty string.
	first [256]uint64
	empty uint64
}

// matcher is the state of the searches in one text.
type matcher struct {
	scanner *scanner
	text    string
	steps   int
}

func (s *scanner) searcher(text string) searcher {
	return &matcher{scanner: s, text: text, steps: stepsBase + stepsPerByte*len(text)}
}

func (m *matcher) find(from int) (start, end int, ok bool, err error) {
	for at := from; ; {
		mask := m.scanner.empty
		if at < len(m.text) {
			mask = m.scanner.first[m.text[at]]
		}
		for i := 0; mask != 0; i, mask = i+1, mask>>1 {
			if mask&1 == 0 {
				continue
			}
			if end := m.match(m.scanner.branches[i], at); end >= 0 {
				return at, end, true, nil
			}
		}
		if m.steps < 0 {
			return 0, 0, false, ErrBudget
		}
		if at >= len(m.text) {
			return 0, 0, false, nil
		}
		at++
		for at < len(m.text) && !utf8.RuneStart(m.text[at]) {
			at++
		}
	}
}

// match returns the end of the match of code at pos, or -1.
func (m *matcher) match(code *inst, pos int) int {
	for {
		if m.steps--; m.steps < 0 {
			return -1
		}
		switch code.kind {
		case accept:
			return pos
		case single:
			end := m.consume(code.table, pos, 1)
			if end == pos {
				return -1
			}
			pos = end
		case loop:
			end, done := m.loop(code, pos)
			if done {
				return end
			}
			pos = end
		case choice:
			for _, branch := range code.branches {
				if end := m.match(branch, pos); end >= 0 {
					return end
				}
			}
			return -1
		case look:
			if (m.match(code.body, pos) >= 0) == code.neg {
				return -1
			}
		case lookBack:
			r, width := utf8.DecodeLastRuneInString(m.text[:pos])
			if (width > 0 && code.table.Has(r)) == code.neg {
				return -1
			}
		case atomic:
			if pos = m.match(code.body, pos); pos < 0 {
				return -1
			}
		case position:
			if !m.holds(code, pos) {
				return -1
			}
		}
		code = code.next
	}
}

// consume takes up to limit code points of table and returns where it stopped.
func (m *matcher) consume(table *ucd.Table, pos, limit int) int {
	text := m.text
	for ; pos < len(text) && limit > 0; limit-- {
		if b := text[pos]; b < utf8.RuneSelf {
			if !table.ASCII[b] {
				return pos
			}
			pos++
			continue
		}
		r, width := utf8.DecodeRuneInString(text[pos:])
		if !table.Has(r) {
			return pos
		}
		pos += width
	}
	return pos
}

// loop matches a repeat. If done, end is the end of the whole match, or -1; otherwise the match goes on at
// end with the next instruction.
func (m *matcher) loop(code *inst, pos int) (end int, done bool) {
	least := pos
	if code.min == 1 { // by far the most frequent
		if least = m.consume(code.table, pos, 1); least == pos {
			return -1, true
		}
	} else if code.min > 1 {
		for range code.min {
			step := m.consume(code.table, least, 1)
			if step == least {
				return -1, true
			}
			least = step
		}
	}
	if code.mode == lazy {
		for count := code.min; ; count++ {
			if end := m.match(code.next, least); end >= 0 {
				return end, true
			}
			step := m.consume(code.table, least, 1)
			if m.steps < 0 || step == least || count >= code.max {
				return -1, true
			}
			least = step
		}
	}
	most := m.consume(code.table, least, code.max-code.min)
	m.steps -= (most - pos) >> 3
	if code.mode == possessive || most == least {
		return most, false
	}
	for {
		if end := m.match(code.next, most); end >= 0 {
			return end, true
		}
		if most == least || m.steps < 0 {
			return -1, true
		}
		for most--; !utf8.RuneStart(m.text[most]); most-- {
		}
	}
}

// holds evaluates a position assertion.
func (m *matcher) holds(code *inst, pos int) bool {
	text := m.text
	switch code.assert {
	case assertBeginLine:
		return pos == 0 || text[pos-1] == '\n' && pos < len(text)
	case assertEndLine:
		return pos == len(text) || text[pos] == '\n'
	case assertBeginText:
		return pos == 0
	case assertEndText:
		return pos == len(text)
	case assertEndTextOrFinalNewline:
		return pos == len(text) || pos == len(text)-1 && text[pos] == '\n'
	}
	before, width := utf8.DecodeLastRuneInString(text[:pos])
	in := width > 0 && code.table.Has(before)
	after, width := utf8.DecodeRuneInString(text[pos:])
	boundary := in != (width > 0 && code.table.Has(after))
	return boundary == (code.assert == assertWordBoundary)
}
