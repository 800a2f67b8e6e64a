package guide

import (
	"container/heap"
	"math"
)

// costInfinite is the cost of what cannot be completed.
const costInfinite = math.MaxInt32 / 2

func addCost(a, b int32) int32 { return min(a+b, costInfinite) }

func mulCost(a, b int32) int32 {
	if c := int64(a) * int64(b); c < costInfinite {
		return int32(c)
	}
	return costInfinite
}

// costs says, for each state of a program, how many tokens complete the rule or repetition that the state is in,
// and how deep the stack grows on that way. The number is one that always suffices: it is exact in single-byte
// tokens, and runs of literal text count the fewest tokens that spell them. From a state with cost c > 0 there is
// always a token to a state with cost c-1 or less; masks keep the budget by this invariant.
type costs struct {
	tokens []int32
	depth  []int32
}

// costSolver finds the cheapest way out of each state, in Knuth's generalization of Dijkstra's algorithm to grammars
// (Information Processing Letters 6, 1977): states are settled in order of bytes, and a state's cost in tokens
// refers only to states settled before it.
type costSolver struct {
	*program
	v     *Vocabulary
	bytes []int32
	done  []bool
	// choice is the way that a settled split takes; choices never form a cycle.
	choice []int32
	users  [][]int32 // states whose cost depends on a state
	// edges[pc] lists the states that tokens of several bytes lead to, where single bytes may be missing.
	edges [][]int32
	queue stateHeap
	costs
}

func (p *program) solve(v *Vocabulary) costs {
	n := len(p.code)
	s := &costSolver{program: p, v: v, bytes: make([]int32, n), done: make([]bool, n), choice: make([]int32, n), users: make([][]int32, n),
		costs: costs{tokens: make([]int32, n), depth: make([]int32, n)}}
	for _, c := range p.classes {
		c.setCosts(&v.single)
	}
	if !v.complete {
		s.edges = s.tokenEdges()
	}
	for pc := range p.code {
		s.bytes[pc], s.tokens[pc] = costInfinite, costInfinite
		in := &p.code[pc]
		for _, out := range in.outs {
			s.users[out] = append(s.users[out], int32(pc))
		}
		switch in.op {
		case opByte, opClass, opString:
			s.users[in.next] = append(s.users[in.next], int32(pc))
		case opCall, opRepeat:
			s.users[in.next] = append(s.users[in.next], int32(pc))
			s.users[in.entry] = append(s.users[in.entry], int32(pc))
		case opReturn, opLoop:
			s.queue = append(s.queue, queued{0, int32(pc)})
		}
		if s.edges != nil {
			for _, to := range s.edges[pc] {
				s.users[to] = append(s.users[to], int32(pc))
			}
		}
	}
	for len(s.queue) > 0 {
		q := heap.Pop(&s.queue).(queued)
		if s.done[q.pc] {
			continue
		}
		s.bytes[q.pc] = q.cost
		s.settle(q.pc)
		s.done[q.pc] = true
		for _, user := range s.users[q.pc] {
			if c := s.byteCost(user); !s.done[user] && c < costInfinite {
				heap.Push(&s.queue, queued{c, user})
			}
		}
	}
	return s.costs
}

// byteCost is the cost of a state in single-byte tokens, as far as it is known.
func (s *costSolver) byteCost(pc int32) int32 {
	in := &s.code[pc]
	cost := int32(costInfinite)
	switch in.op {
	case opByte:
		if s.v.single[in.b] {
			cost = addCost(1, s.bytes[in.next])
		}
	case opClass:
		cost = addCost(s.classes[in.arg].cost[0], s.bytes[in.next])
	case opString:
		if s.v.single['"'] {
			cost = addCost(1+mulCost(in.lo, s.v.str.charCost), s.bytes[in.next])
		}
	case opSplit:
		for _, out := range in.outs {
			cost = min(cost, s.bytes[out])
		}
	case opCall:
		cost = addCost(s.bytes[in.entry], s.bytes[in.next])
	case opRepeat:
		cost = s.bytes[in.next]
		if in.lo > 0 {
			cost = addCost(mulCost(in.lo, s.bytes[in.entry]), cost)
		}
	}
	if s.edges != nil {
		for _, to := range s.edges[pc] {
			cost = min(cost, addCost(1, s.bytes[to]))
		}
	}
	return cost
}

// settle computes tokens and depth of a state along the way that gave its cost in bytes.
func (s *costSolver) settle(pc int32) {
	in := &s.code[pc]
	switch in.op {
	case opReturn, opLoop:
		s.tokens[pc] = 0
	case opByte, opClass:
		s.settleReading(pc)
	case opString:
		s.tokens[pc] = addCost(s.bytes[pc]-s.bytes[in.next], s.tokens[in.next])
		s.depth[pc] = s.depth[in.next]
	case opSplit:
		for _, out := range in.outs {
			if s.done[out] && s.bytes[out] == s.bytes[pc] {
				s.tokens[pc], s.depth[pc], s.choice[pc] = s.tokens[out], s.depth[out], out
				return
			}
		}
	case opCall:
		s.tokens[pc] = addCost(s.tokens[in.entry], s.tokens[in.next])
		s.depth[pc] = max(1+s.depth[in.entry], s.depth[in.next])
	case opRepeat:
		s.tokens[pc], s.depth[pc] = s.tokens[in.next], s.depth[in.next]
		if in.lo > 0 {
			s.tokens[pc] = addCost(mulCost(in.lo, s.tokens[in.entry]), s.tokens[pc])
			s.depth[pc] = max(1+s.depth[in.entry], s.depth[pc])
		}
	}
}

// settleReading finds the fewest tokens from a state that reads: one token spells the next byte, or the longest way
// through literal text that the vocabulary has.
func (s *costSolver) settleReading(pc int32) {
	in := &s.code[pc]
	if in.op == opClass {
		if first := s.classes[in.arg].cost[0]; s.done[in.next] && addCost(first, s.bytes[in.next]) == s.bytes[pc] {
			s.tokens[pc], s.depth[pc] = addCost(first, s.tokens[in.next]), s.depth[in.next]
		}
	} else {
		s.settleLiteral(pc)
	}
	if s.edges == nil || s.tokens[pc] < costInfinite {
		return
	}
	for _, to := range s.edges[pc] {
		if c := addCost(1, s.tokens[to]); s.done[to] && c < s.tokens[pc] {
			s.tokens[pc], s.depth[pc] = c, s.depth[to]
		}
	}
}

// settleLiteral follows the trie along the cheapest way from pc for as long as that is literal text.
func (s *costSolver) settleLiteral(pc int32) {
	nodes, i, limit := s.v.trie.nodes, int32(0), int32(len(s.v.trie.nodes))
	best, depth := int32(costInfinite), int32(0)
	for at := pc; s.code[at].op == opByte; {
		b := s.code[at].b
		for i < limit && nodes[i].b != b {
			i = nodes[i].end
		}
		if i >= limit {
			break
		}
		at = s.code[at].next
		if !s.done[at] {
			break
		}
		if nodes[i].value >= 0 {
			if c := addCost(1, s.tokens[at]); c <= best {
				best, depth = c, s.depth[at]
			}
		}
		limit = nodes[i].end
		i++
		at = s.through(at)
	}
	s.tokens[pc], s.depth[pc] = best, depth
}

// through follows settled splits along the cheapest way.
func (s *costSolver) through(pc int32) int32 {
	for s.code[pc].op == opSplit {
		pc = s.choice[pc]
	}
	return pc
}

// tokenEdges lists where tokens of several bytes lead from each reading state without leaving its rule. Only
// vocabularies that lack single bytes need them.
func (s *costSolver) tokenEdges() [][]int32 {
	edges := make([][]int32, len(s.code))
	left := tokenEdgesMax
	for pc := range s.code {
		if op := s.code[pc].op; op != opByte && op != opClass {
			continue
		}
		seen := map[int32]bool{}
		s.reach(0, int32(len(s.v.trie.nodes)), int32(pc), 0, splitsMax, &left, func(to int32) {
			if !seen[to] {
				seen[to] = true
				edges[pc] = append(edges[pc], to)
			}
		})
	}
	return edges
}

// reach calls found for each state after a token among the trie's nodes from i to limit, read from state pc. q is
// the state of the class automaton within a character; splits bounds the splits passed without reading.
func (s *costSolver) reach(i, limit, pc int32, q int16, splits int, left *int, found func(int32)) {
	if *left--; *left < 0 || splits < 0 {
		return
	}
	in := &s.code[pc]
	if in.op == opSplit {
		for _, out := range in.outs {
			s.reach(i, limit, out, 0, splits-1, left, found)
		}
		return
	}
	if in.op != opByte && in.op != opClass {
		return
	}
	for ; i < limit; i = s.v.trie.nodes[i].end {
		n := &s.v.trie.nodes[i]
		to, next := int16(byteReject), int16(0)
		if in.op == opClass {
			to = s.classes[in.arg].next[q][n.b]
			next = to
		} else if n.b == in.b {
			to = byteAccept
		}
		switch {
		case to == byteReject:
		case to == byteAccept:
			if n.value >= 0 {
				found(in.next)
			}
			s.reach(i+1, n.end, in.next, 0, splitsMax, left, found)
		default:
			s.reach(i+1, n.end, pc, next, splitsMax, left, found)
		}
	}
}

// splitsMax bounds the splits that reach passes without reading; loops of empty rounds would never end.
const splitsMax = 32

type queued struct{ cost, pc int32 }

type stateHeap []queued

func (h stateHeap) Len() int           { return len(h) }
func (h stateHeap) Less(i, j int) bool { return h[i].cost < h[j].cost }
func (h stateHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *stateHeap) Push(x any)        { *h = append(*h, x.(queued)) }
func (h *stateHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}
