package onig

import "github.com/troupe-engine/troupe/internal/tokenizers/ucd"

const (
	// maxInstructions bounds what counted repeats may unroll to.
	maxInstructions = 4096
	// maxBranches is the number of top-level alternatives that the first-byte table distinguishes.
	maxBranches = 64
)

// compiler turns a tree into instructions, from its end to its beginning.
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
