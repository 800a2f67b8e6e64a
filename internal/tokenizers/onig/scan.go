package onig

import (
	"unicode/utf8"

	"github.com/troupe-engine/troupe/internal/tokenizers/ucd"
)

const (
	// stepsBase and stepsPerByte bound the work of all searches in one text.
	stepsBase    = 1 << 20
	stepsPerByte = 2000
	// maxInstructions bounds what counted repeats may unroll to.
	maxInstructions = 4096
	// maxBranches is the number of top-level alternatives that the first-byte table distinguishes.
	maxBranches = 64
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

type compiler struct {
	tables map[*ucd.Range]*ucd.Table
	sets   map[*inst]ucd.Set
	firsts map[*inst]firstSet
	count  int
}

type firstSet struct {
	set      ucd.Set
	nullable bool
}

// newScanner compiles the tree; ok is false if the scanner does not support something in it.
func newScanner(tree *node) (s *scanner, ok bool) {
	c := &compiler{tables: map[*ucd.Range]*ucd.Table{}, sets: map[*inst]ucd.Set{}, firsts: map[*inst]firstSet{}}
	for tree.op == opCat && len(tree.subs) == 1 {
		tree = tree.subs[0]
	}
	branches := []*node{tree}
	if tree.op == opAlt {
		branches = tree.subs
	}
	if len(branches) > maxBranches {
		return nil, false
	}
	s = &scanner{}
	end := &inst{kind: accept}
	for i, branch := range branches {
		code, ok := c.compile(branch, end)
		if !ok {
			return nil, false
		}
		s.branches = append(s.branches, code)
		set, nullable := c.first(code)
		if nullable {
			s.empty |= 1 << i
		}
		for b := range 256 {
			if nullable || startsWithByte(set, byte(b)) {
				s.first[b] |= 1 << i
			}
		}
	}
	return s, true
}

// startsWithByte reports whether the UTF-8 form of some code point in set begins with b.
func startsWithByte(set ucd.Set, b byte) bool {
	var span ucd.Range
	switch {
	case b < 0x80:
		span = ucd.Range{Lo: rune(b), Hi: rune(b)}
	case b < 0xC0:
		return false
	case b < 0xE0:
		span = ucd.Range{Lo: rune(b&0x1F) << 6, Hi: rune(b&0x1F)<<6 | 0x3F}
	case b < 0xF0:
		span = ucd.Range{Lo: rune(b&0x0F) << 12, Hi: rune(b&0x0F)<<12 | 0xFFF}
	default:
		span = ucd.Range{Lo: rune(b&0x07) << 18, Hi: rune(b&0x07)<<18 | 0x3FFFF}
	}
	return !set.Disjoint(ucd.Set{span})
}

// compile returns the code that matches n and then next.
func (c *compiler) compile(n *node, next *inst) (*inst, bool) {
	if c.count++; c.count > maxInstructions {
		return nil, false
	}
	switch n.op {
	case opEmpty:
		return next, true
	case opSet:
		return c.withSet(&inst{kind: single, next: next}, n.set), true
	case opCat:
		for i := len(n.subs) - 1; i >= 0; i-- {
			code, ok := c.compile(n.subs[i], next)
			if !ok {
				return nil, false
			}
			next = code
		}
		return next, true
	case opAlt:
		code := &inst{kind: choice}
		for _, sub := range n.subs {
			branch, ok := c.compile(sub, next)
			if !ok {
				return nil, false
			}
			code.branches = append(code.branches, branch)
		}
		return code, true
	case opRepeat:
		return c.repeat(n, next)
	case opAtomic:
		body, ok := c.compile(n.subs[0], &inst{kind: accept})
		return &inst{kind: atomic, body: body, next: next}, ok
	case opLook:
		return c.look(n, next)
	case opAssert:
		code := &inst{kind: position, assert: n.assert, next: next}
		if n.assert == assertWordBoundary || n.assert == assertNotWordBoundary {
			c.withSet(code, ucd.Named("onig.word"))
		}
		return code, true
	}
	return nil, false
}

// withSet gives code the table of set, shared between instructions of the same set.
func (c *compiler) withSet(code *inst, set ucd.Set) *inst {
	c.sets[code] = set
	if len(set) == 0 {
		code.table = set.Compile()
		return code
	}
	table, ok := c.tables[&set[0]]
	if !ok {
		table = set.Compile()
		c.tables[&set[0]] = table
	}
	code.table = table
	return code
}

func (c *compiler) repeat(n *node, next *inst) (*inst, bool) {
	body := n.subs[0]
	for body.op == opCat && len(body.subs) == 1 {
		body = body.subs[0]
	}
	if body.op == opSet {
		code := c.withSet(&inst{kind: loop, min: n.min, max: n.max, mode: n.mode, next: next}, body.set)
		if set, nullable := c.first(next); code.mode == greedy && !nullable && set.Disjoint(body.set) {
			code.mode = possessive // giving back what the loop took can never help next
		}
		return code, true
	}
	if n.max == infinite {
		return nil, false
	}
	if n.mode == possessive {
		greedyRepeat := *n
		greedyRepeat.mode = greedy
		inner, ok := c.repeat(&greedyRepeat, &inst{kind: accept})
		return &inst{kind: atomic, body: inner, next: next}, ok
	}
	code := next
	for i := n.max; i > 0; i-- {
		more, ok := c.compile(body, code)
		if !ok {
			return nil, false
		}
		switch {
		case i <= n.min:
			code = more
		case n.mode == lazy:
			code = &inst{kind: choice, branches: []*inst{next, more}}
		default:
			code = &inst{kind: choice, branches: []*inst{more, next}}
		}
	}
	return code, true
}

func (c *compiler) look(n *node, next *inst) (*inst, bool) {
	if !n.behind {
		body, ok := c.compile(n.subs[0], &inst{kind: accept})
		return &inst{kind: look, neg: n.neg, body: body, next: next}, ok
	}
	body := n.subs[0]
	for body.op == opCat && len(body.subs) == 1 {
		body = body.subs[0]
	}
	if body.op != opSet {
		return nil, false
	}
	return c.withSet(&inst{kind: lookBack, neg: n.neg, next: next}, body.set), true
}

// first returns the code points a match of code can begin with, and whether the match can be empty or its
// beginning is not decided by its first code point.
func (c *compiler) first(code *inst) (set ucd.Set, nullable bool) {
	known, ok := c.firsts[code]
	if !ok {
		known.set, known.nullable = c.findFirst(code)
		c.firsts[code] = known
	}
	return known.set, known.nullable
}

func (c *compiler) findFirst(code *inst) (set ucd.Set, nullable bool) {
	switch code.kind {
	case accept:
		return nil, true
	case single:
		return c.sets[code], false
	case loop:
		if code.min > 0 {
			return c.sets[code], false
		}
		rest, nullable := c.first(code.next)
		return rest.Union(c.sets[code]), nullable
	case choice:
		for _, branch := range code.branches {
			s, n := c.first(branch)
			set, nullable = set.Union(s), nullable || n
		}
		return set, nullable
	case look, lookBack, position:
		return c.first(code.next)
	case atomic:
		set, nullable = c.first(code.body)
		if nullable {
			rest, restNullable := c.first(code.next)
			return set.Union(rest), restNullable
		}
		return set, false
	}
	return ucd.Any(), true
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
