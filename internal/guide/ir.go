package guide

import (
	"fmt"
	"slices"
	"sort"
	"strings"
)

// The grammar IR is what every frontend produces: rules whose bodies are expressions over Unicode characters.
// Expressions form a DAG; a node that is shared is compiled once per place it continues to.

type nodeKind uint8

const (
	nodeFail    nodeKind = iota // matches nothing
	nodeEmpty                   // the empty text
	nodeLiteral                 // text, as UTF-8
	nodeClass                   // one character out of set
	nodeSeq                     // subs one after the other
	nodeAlt                     // one of subs
	nodeRepeat                  // subs[0], min to max times
	nodeRule                    // the body of rule
	nodeString                  // min to max characters of a JSON string and its closing quote
)

// unbounded is the max of a repetition without one.
const unbounded = -1

type node struct {
	kind     nodeKind
	text     string
	set      runeSet
	subs     []*node
	min, max int
	rule     int
}

type rule struct {
	name string
	body *node
}

type grammarIR struct {
	rules []rule
	start int
	names bool // there may be JSON objects with names that no schema declares
}

// builder makes nodes and counts them. It panics with *Error when a limit is exceeded.
type builder struct {
	rules []rule
	nodes int
	names bool // see grammarIR
	// where says where in the source the frontend is, for errors about size.
	where func() string
}

func (b *builder) at() string {
	if b.where == nil {
		return ""
	}
	return b.where()
}

var (
	failNode  = &node{kind: nodeFail}
	emptyNode = &node{kind: nodeEmpty}
)

func (b *builder) node(n node) *node {
	if b.nodes++; b.nodes > nodesMax {
		panic(&Error{At: b.at(), Problem: fmt.Sprintf("the constraint needs more than %d grammar nodes", nodesMax),
			Hint: "make it smaller"})
	}
	return &n
}

func (b *builder) literal(text string) *node {
	if text == "" {
		return emptyNode
	}
	return b.node(node{kind: nodeLiteral, text: text})
}

func (b *builder) class(set runeSet) *node {
	if len(set) == 0 {
		return failNode
	}
	if len(set) == 1 && set[0].lo == set[0].hi {
		return b.literal(string(set[0].lo))
	}
	return b.node(node{kind: nodeClass, set: set})
}

func (b *builder) seq(subs ...*node) *node {
	var kept []*node
	for _, s := range subs {
		switch s.kind {
		case nodeFail:
			return failNode
		case nodeEmpty:
		default:
			kept = append(kept, s)
		}
	}
	switch len(kept) {
	case 0:
		return emptyNode
	case 1:
		return kept[0]
	}
	return b.node(node{kind: nodeSeq, subs: kept})
}

func (b *builder) alt(subs ...*node) *node {
	var kept []*node
	for _, s := range subs {
		if s.kind != nodeFail && !slices.Contains(kept[:min(len(kept), 8)], s) {
			kept = append(kept, s)
		}
	}
	switch len(kept) {
	case 0:
		return failNode
	case 1:
		return kept[0]
	}
	return b.node(node{kind: nodeAlt, subs: kept})
}

func (b *builder) optional(sub *node) *node { return b.repeat(sub, 0, 1) }

// repeat repeats sub lo to hi times; hi may be unbounded.
func (b *builder) repeat(sub *node, lo, hi int) *node {
	if lo > repeatMax || hi > repeatMax {
		panic(&Error{At: b.at(), Problem: fmt.Sprintf("repetition {%d,%d} exceeds the limit of %d", lo, hi, repeatMax),
			Hint: "use a smaller count"})
	}
	switch {
	case sub.kind == nodeFail && lo > 0, hi != unbounded && hi < lo:
		return failNode
	case hi == 0, sub.kind == nodeFail, sub.kind == nodeEmpty:
		return emptyNode
	case lo == 1 && hi == 1:
		return sub
	}
	return b.node(node{kind: nodeRepeat, subs: []*node{sub}, min: lo, max: hi})
}

// jsonString is the inside of a JSON string of lo to hi code points, with its closing quote.
func (b *builder) jsonString(lo, hi int) *node {
	if hi != unbounded && hi < lo {
		return failNode
	}
	return b.node(node{kind: nodeString, min: lo, max: hi})
}

// newRule reserves a rule, so that recursion can refer to it before its body is known.
func (b *builder) newRule(name string) int {
	if len(b.rules) >= rulesMax {
		panic(&Error{At: b.at(), Problem: fmt.Sprintf("the constraint needs more than %d rules", rulesMax),
			Hint: "make it smaller"})
	}
	b.rules = append(b.rules, rule{name: name, body: failNode})
	return len(b.rules) - 1
}

func (b *builder) ref(rule int) *node { return b.node(node{kind: nodeRule, rule: rule}) }

// literals matches one of the words. Words share their prefixes, so that no state has to follow thousands at once.
func (b *builder) literals(words []string) *node {
	sorted := slices.Clone(words)
	sort.Strings(sorted)
	return b.wordTrie(slices.Compact(sorted))
}

func (b *builder) wordTrie(words []string) *node {
	if len(words) == 0 {
		return failNode
	}
	if len(words) == 1 {
		return b.literal(words[0])
	}
	first, last := words[0], words[len(words)-1]
	common := 0
	for common < len(first) && common < len(last) && first[common] == last[common] {
		common++
	}
	var alts []*node
	for i := 0; i < len(words); {
		if len(words[i]) == common {
			alts = append(alts, emptyNode)
			i++
			continue
		}
		j, c := i, words[i][common]
		for j < len(words) && words[j][common] == c {
			j++
		}
		tails := make([]string, j-i)
		for k := range tails {
			tails[k] = words[i+k][common:]
		}
		alts = append(alts, b.wordTrie(tails))
		i = j
	}
	return b.seq(b.literal(first[:common]), b.alt(alts...))
}

// finish makes root the start rule and checks that the automaton can be built: no rule may call itself before it
// has consumed anything.
func (b *builder) finish(root *node) *grammarIR {
	start := b.newRule("the start")
	b.rules[start].body = root
	g := &grammarIR{rules: b.rules, start: start, names: b.names}
	if cycle := g.leftRecursion(); cycle != nil {
		panic(&Error{At: "rule " + cycle[0], Problem: "left recursion: " + strings.Join(cycle, " → "),
			Hint: "write the repetition with * or + (a ::= b (op b)*)"})
	}
	return g
}

// nullable returns, for each rule, whether it matches the empty text.
func (g *grammarIR) nullable() []bool {
	out := make([]bool, len(g.rules))
	for changed := true; changed; {
		changed = false
		memo := map[*node]bool{}
		for i := range g.rules {
			if !out[i] && matchesEmpty(g.rules[i].body, out, memo) {
				out[i], changed = true, true
			}
		}
	}
	return out
}

// matchesEmpty reports whether n matches the empty text, given what is known of the rules.
func matchesEmpty(n *node, rules []bool, memo map[*node]bool) bool {
	if known, ok := memo[n]; ok {
		return known
	}
	var out bool
	switch n.kind {
	case nodeEmpty:
		out = true
	case nodeSeq:
		out = true
		for _, s := range n.subs {
			out = out && matchesEmpty(s, rules, memo)
		}
	case nodeAlt:
		for _, s := range n.subs {
			out = out || matchesEmpty(s, rules, memo)
		}
	case nodeRepeat:
		out = n.min == 0 || matchesEmpty(n.subs[0], rules, memo)
	case nodeRule:
		out = rules[n.rule]
	}
	memo[n] = out
	return out
}

// leftRecursion returns the names along a cycle of rules that call each other first, or nil.
func (g *grammarIR) leftRecursion() []string {
	nullable := g.nullable()
	memo := map[*node]bool{}
	first := make([][]int, len(g.rules))
	for i := range g.rules {
		seen := map[*node]bool{}
		var visit func(n *node)
		visit = func(n *node) {
			if seen[n] {
				return
			}
			seen[n] = true
			switch n.kind {
			case nodeRule:
				first[i] = append(first[i], n.rule)
			case nodeAlt, nodeRepeat:
				for _, s := range n.subs {
					visit(s)
				}
			case nodeSeq:
				for _, s := range n.subs {
					visit(s)
					if !matchesEmpty(s, nullable, memo) {
						return
					}
				}
			}
		}
		visit(g.rules[i].body)
	}
	return g.findCycle(first)
}

// findCycle returns the names along a cycle in a graph of rules, or nil.
func (g *grammarIR) findCycle(edges [][]int) []string {
	state := make([]uint8, len(g.rules)) // 0 new, 1 on the path, 2 done
	var path []int
	var visit func(i int) []string
	visit = func(i int) []string {
		state[i] = 1
		path = append(path, i)
		for _, j := range edges[i] {
			if state[j] == 1 {
				var names []string
				for _, k := range path[slices.Index(path, j):] {
					names = append(names, g.rules[k].name)
				}
				return append(names, g.rules[j].name)
			}
			if state[j] == 0 {
				if cycle := visit(j); cycle != nil {
					return cycle
				}
			}
		}
		path = path[:len(path)-1]
		state[i] = 2
		return nil
	}
	for i := range g.rules {
		if state[i] == 0 {
			if cycle := visit(i); cycle != nil {
				return cycle
			}
		}
	}
	return nil
}
