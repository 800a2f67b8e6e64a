package guide

import (
	"cmp"
	"slices"
)

// mask is what may come next in a state, by what it takes to complete the answer then. It is immutable. Levels come in
// the order of their costs, so a budget allows the first ones.
type mask struct{ levels []level }

// level has the tokens that lead to sets of one cost: few as a list, many as bits (XGrammar's adaptive storage). A
// token may be in several levels; the cheapest counts.
type level struct {
	cost int32
	ids  []int32
	bits []uint32
}

// endCost is the level of end tokens, which no budget forbids.
const endCost = -1

// copyTo overwrites bits with the tokens after which at most limit tokens complete the answer.
func (k *mask) copyTo(bits []uint32, limit int32) {
	clean := false
	for i := range k.levels {
		l := &k.levels[i]
		switch {
		case l.cost > limit:
		case !clean && l.bits != nil:
			copy(bits, l.bits)
			clean = true
			continue
		case l.bits != nil:
			orMask(bits, l.bits)
			continue
		}
		if !clean {
			clear(bits)
			clean = true
		}
		if l.cost > limit {
			return
		}
		for _, id := range l.ids {
			setBit(bits, id)
		}
	}
	if !clean {
		clear(bits)
	}
}

// maskBuilder collects the allowed tokens of one set.
type maskBuilder struct {
	*machine
	levels map[int32]*level
	last   *level // asked for last
	work   int
}

// maskOf returns the mask of s, from memory if possible.
func (m *machine) maskOf(s *set) *mask {
	if s.mask != nil {
		return s.mask
	}
	b := maskBuilder{machine: m, levels: map[int32]*level{}, work: walkWorkMax}
	b.fill(&m.v.lexicon, s)
	if s.complete {
		b.allow(endCost, m.v.end)
	}
	out := &mask{}
	for _, l := range b.levels {
		out.levels = append(out.levels, *l)
		m.bytes += 64 + 4*cap(l.ids) + 4*len(l.bits)
	}
	slices.SortFunc(out.levels, func(a, b level) int { return cmp.Compare(a.cost, b.cost) })
	s.mask = out
	return out
}

func (b *maskBuilder) level(cost int32) *level {
	if b.last != nil && b.last.cost == cost {
		return b.last
	}
	l := b.levels[cost]
	if l == nil {
		l = &level{cost: cost}
		b.levels[cost] = l
	}
	b.last = l
	return l
}

// allow adds tokens after which cost tokens complete the answer.
func (b *maskBuilder) allow(cost int32, ids []int32) {
	if cost >= costInfinite {
		return
	}
	l := b.level(cost)
	if l.bits == nil {
		l.ids = append(l.ids, ids...)
		if len(l.ids) <= b.v.MaskWords() {
			return
		}
		ids = l.ids
		l.bits, l.ids = make([]uint32, b.v.MaskWords()), nil
	}
	for _, id := range ids {
		setBit(l.bits, id)
	}
}

// fill adds the tokens of every item; what a set allows is the union of what its items do. Runs have tables, the
// other items are walked together.
func (b *maskBuilder) fill(l *lexicon, s *set) {
	var others []item
	for i := range s.items {
		it := &s.items[i]
		if b.code[it.pc].op == opString {
			b.allowString(l, it)
		} else if r, ok := b.classRun(l, it); ok {
			b.allowRun(r)
		} else {
			others = append(others, *it)
		}
	}
	if len(others) > 0 && !b.walk(l, b.setOf(others)) {
		b.cheapest(l, s)
	}
}

func (m *machine) setOf(items []item) *set {
	m.begin()
	m.out = append(m.out, items...)
	return m.finish()
}

// cheapest walks again from the cheapest item alone, for grammars so ambiguous that the walk was cut short: the
// mask then still has the token that leads to the end.
func (b *maskBuilder) cheapest(l *lexicon, s *set) {
	best := slices.MinFunc(s.items, func(x, y item) int { return cmp.Compare(b.cost(&x), b.cost(&y)) })
	b.work = walkWorkMax
	b.walk(l, b.setOf([]item{best}))
}

// walk tries every text of a lexicon from s, sharing prefixes. It returns false if it ran out of work.
func (b *maskBuilder) walk(l *lexicon, s *set) bool {
	return b.visit(l, l.trie, s, func(word int32, to *set) { b.allow(to.cost, l.same[word]) })
}

// visit calls found for each word of a trie that can be read from s. What stands behind a first byte is left to the
// lexicon that l has for it, if l is given and has one.
func (b *maskBuilder) visit(l *lexicon, t *trie, s *set, found func(word int32, to *set)) bool {
	stack := b.room(t)
	stack[0] = s
	for i := 0; i < len(t.nodes); {
		n := &t.nodes[i]
		to := b.step(stack[n.depth-1], n.b)
		if to == dead {
			i = int(n.end)
			continue
		}
		if b.work -= 1 + len(to.items); b.work < 0 {
			return false
		}
		stack[n.depth] = to
		if n.value >= 0 {
			found(n.value, to)
		}
		i++
		if n.depth == 1 && l != nil && l.behind[n.b] != nil {
			i = int(n.end)
			b.fill(l.behind[n.b], to)
			stack = b.room(t)
			stack[0] = s
		}
	}
	return true
}

// room returns a stack of sets for a walk of t.
func (m *machine) room(t *trie) []*set {
	if len(m.stack) <= t.depth {
		m.stack = make([]*set, t.depth+1)
	}
	return m.stack
}

// suffixCosts are the costs of the sets that the suffixes of a table lead to.
type suffixCosts struct {
	table *suffixTable
	costs []int32
}

// costsAfter returns the costs after each suffix from s.
func (b *maskBuilder) costsAfter(s *set, t *suffixTable) []int32 {
	for _, known := range s.suffixes {
		if known.table == t {
			return known.costs
		}
	}
	if s == dead {
		return t.none
	}
	costs := slices.Clone(t.none)
	b.visit(nil, t.trie, s, func(word int32, to *set) { costs[word] = to.cost })
	s.suffixes = append(s.suffixes, suffixCosts{t, costs})
	b.bytes += 4 * len(costs)
	return costs
}
