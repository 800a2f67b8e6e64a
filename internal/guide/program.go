package guide

import (
	"fmt"
	"slices"
)

// The program is the grammar as a nondeterministic pushdown automaton over bytes, one instruction per state
// (Thompson's construction with calls). Rule calls and counted repetitions push a frame.

type opcode uint8

const (
	opByte   opcode = iota // read byte b
	opClass                // read one character with classes[arg]
	opString               // read lo..hi characters of a JSON string and its quote
	opSplit                // go on at any of outs
	opCall                 // run entry, then next
	opReturn               // return to the caller; the answer is complete if there is none
	opRepeat               // run entry lo..hi times, then next
	opLoop                 // end of one round of the repetition in the top frame
	opFail                 // no way
)

type instruction struct {
	op    opcode
	b     byte
	arg   int32
	next  int32
	entry int32
	lo    int32
	hi    int32 // unbounded: -1
	outs  []int32
}

type program struct {
	code    []instruction
	classes []*classDFA
	start   int32
	returns int32
}

type compiled struct {
	n    *node
	next int32
}

// assembler compiles a grammar IR, from the last instruction to the first: every expression is compiled knowing
// where it continues.
type assembler struct {
	*program
	g          *grammarIR
	memo       map[compiled]int32
	classByKey map[string]int32
	// classBySlice finds a set that was seen before without looking at all of it.
	classBySlice map[*runeRange]int32
	rules        []int32 // entry of each rule
	nullable     []bool
	emptyMemo    map[*node]bool
	stripped     map[*node]*node
	// strippedRule maps a rule to its version without the empty text.
	strippedRule map[int]int
}

// assemble builds the program. It panics with *Error if it becomes too large.
func assemble(g *grammarIR) *program {
	a := &assembler{program: &program{}, g: g, memo: map[compiled]int32{}, classByKey: map[string]int32{}, classBySlice: map[*runeRange]int32{},
		nullable: g.nullable(), emptyMemo: map[*node]bool{}, stripped: map[*node]*node{}, strippedRule: map[int]int{}}
	a.returns = a.emit(instruction{op: opReturn})
	for range g.rules {
		// Each rule begins with a split that is filled in below, so that calls may precede their rule.
		a.rules = append(a.rules, a.emit(instruction{op: opSplit}))
	}
	for i, r := range g.rules {
		body := a.compile(r.body, a.returns)
		a.code[a.rules[i]].outs = []int32{body}
	}
	a.start = a.rules[g.start]
	return a.program
}

func (a *assembler) emit(in instruction) int32 {
	if len(a.code) >= instructionsMax {
		panic(&Error{Problem: fmt.Sprintf("the constraint needs an automaton of more than %d states", instructionsMax),
			Hint: "make it smaller, or move repeated parts into $defs or rules"})
	}
	a.code = append(a.code, in)
	return int32(len(a.code) - 1)
}

// compile returns the state from which n and then next are read.
func (a *assembler) compile(n *node, next int32) int32 {
	if n.kind == nodeEmpty {
		return next
	}
	key := compiled{n, next}
	if pc, ok := a.memo[key]; ok {
		return pc
	}
	pc := a.compileNew(n, next)
	a.memo[key] = pc
	return pc
}

func (a *assembler) compileNew(n *node, next int32) int32 {
	switch n.kind {
	case nodeLiteral:
		for i := len(n.text) - 1; i >= 0; i-- {
			next = a.emit(instruction{op: opByte, b: n.text[i], next: next})
		}
		return next
	case nodeClass:
		return a.emit(instruction{op: opClass, arg: a.class(n.set), next: next})
	case nodeString:
		return a.emit(instruction{op: opString, lo: int32(n.min), hi: int32(n.max), next: next})
	case nodeSeq:
		for i := len(n.subs) - 1; i >= 0; i-- {
			next = a.compile(n.subs[i], next)
		}
		return next
	case nodeAlt:
		outs := make([]int32, len(n.subs))
		for i, s := range n.subs {
			outs[i] = a.compile(s, next)
		}
		return a.emit(instruction{op: opSplit, outs: outs})
	case nodeRule:
		return a.emit(instruction{op: opCall, entry: a.rules[n.rule], next: next})
	case nodeRepeat:
		return a.compileRepeat(n, next)
	}
	return a.emit(instruction{op: opFail})
}

func (a *assembler) compileRepeat(n *node, next int32) int32 {
	body, lo, hi := n.subs[0], n.min, n.max
	if a.matchesEmpty(body) {
		// Rounds that read nothing only multiply the ways to the same text.
		body, lo = a.nonEmpty(body), 0
	}
	switch {
	case hi == unbounded && lo <= 1:
		loop := a.emit(instruction{op: opSplit})
		entry := a.compile(body, loop)
		a.code[loop].outs = []int32{entry, next}
		if lo == 1 {
			return entry
		}
		return loop
	case hi == 1, hi != unbounded && hi*nodeSize(body, unrollMax) <= unrollMax && !isRun(body):
		end := next
		for i := hi; i > 0; i-- {
			next = a.compile(body, next)
			if i > lo {
				// Leaving out round i leaves out all later ones, so it skips to the end.
				next = a.emit(instruction{op: opSplit, outs: []int32{next, end}})
			}
		}
		return next
	}
	loop := a.emit(instruction{op: opLoop})
	entry := a.compile(body, loop)
	return a.emit(instruction{op: opRepeat, entry: entry, lo: int32(lo), hi: int32(hi), next: next})
}

// isRun reports whether a large class is among the alternatives of a repetition's body: masks have tables for such
// runs if the rounds are counted.
func isRun(body *node) bool {
	return body.kind == nodeClass && body.set.size() >= runRunesMin || body.kind == nodeAlt && slices.ContainsFunc(body.subs, isRun)
}

// nodeSize counts the nodes and bytes of n, up to limit.
func nodeSize(n *node, limit int) int {
	size := 1 + len(n.text)
	for _, s := range n.subs {
		if size > limit {
			break
		}
		size += nodeSize(s, limit-size)
	}
	if n.kind == nodeRepeat && n.max > 1 {
		size *= n.max
	}
	return min(size, limit+1)
}

func (a *assembler) class(set runeSet) int32 {
	if i, ok := a.classBySlice[&set[0]]; ok && a.classes[i].set.sameSlice(set) {
		return i
	}
	id := set.key()
	i, ok := a.classByKey[id]
	if !ok {
		i = int32(len(a.classes))
		a.classes = append(a.classes, newClassDFA(set))
		a.classByKey[id] = i
	}
	a.classBySlice[&set[0]] = i
	return i
}

func (a *assembler) matchesEmpty(n *node) bool { return matchesEmpty(n, a.nullable, a.emptyMemo) }

// nonEmpty returns an expression for the texts of n but the empty one.
func (a *assembler) nonEmpty(n *node) *node {
	if !a.matchesEmpty(n) {
		return n
	}
	if out, ok := a.stripped[n]; ok {
		return out
	}
	out := failNode
	a.stripped[n] = out
	switch n.kind {
	case nodeAlt:
		var subs []*node
		for _, s := range n.subs {
			subs = append(subs, a.nonEmpty(s))
		}
		out = &node{kind: nodeAlt, subs: subs}
	case nodeSeq:
		// The first part that is not empty decides: A B C = A' B C | B' C | C'.
		var subs []*node
		for i, s := range n.subs {
			rest := append([]*node{a.nonEmpty(s)}, n.subs[i+1:]...)
			subs = append(subs, &node{kind: nodeSeq, subs: rest})
		}
		out = &node{kind: nodeAlt, subs: subs}
	case nodeRepeat:
		out = &node{kind: nodeRepeat, subs: []*node{a.nonEmpty(n.subs[0])}, min: 1, max: n.max}
	case nodeRule:
		out = &node{kind: nodeRule, rule: a.nonEmptyRule(n.rule)}
	}
	a.stripped[n] = out
	return out
}

// nonEmptyRule returns the rule for the texts of a rule but the empty one. It is a rule of its own, as the rule may
// be recursive.
func (a *assembler) nonEmptyRule(of int) int {
	if index, ok := a.strippedRule[of]; ok {
		return index
	}
	index := len(a.rules)
	a.strippedRule[of] = index
	a.nullable = append(a.nullable, false)
	entry := a.emit(instruction{op: opSplit})
	a.rules = append(a.rules, entry)
	body := a.compile(a.nonEmpty(a.g.rules[of].body), a.returns)
	a.code[entry].outs = []int32{body}
	return index
}
