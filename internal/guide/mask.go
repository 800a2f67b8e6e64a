package guide

// mask is what may come next in a state, for answers with budget to spare. It is immutable.
type mask struct {
	// Few tokens are kept as a list, many as bits (XGrammar's adaptive storage).
	ids  []int32
	bits []uint32
	// costMax bounds the cost of the sets that allowed tokens lead to: a budget that covers it forbids nothing.
	costMax int32
}

// maskBuilder collects the allowed tokens of one set.
type maskBuilder struct {
	*machine
	bits  []uint32
	limit int32 // cost up to which the set after a token may be
	worst int32 // greatest cost that was let in
	work  int
}

// maskOf returns the mask of s without a limit on cost, from memory if possible.
func (m *machine) maskOf(s *set) *mask {
	if s.mask != nil {
		return s.mask
	}
	b := maskBuilder{machine: m, bits: make([]uint32, m.v.MaskWords()), limit: costInfinite - 1}
	b.fill(s)
	s.mask = b.pack()
	m.bytes += 64 + 4*len(s.mask.ids) + 4*len(s.mask.bits)
	return s.mask
}

// fillLimited overwrites bits with the tokens after which at most limit tokens complete the answer.
func (m *machine) fillLimited(bits []uint32, s *set, limit int32) {
	clear(bits)
	b := maskBuilder{machine: m, bits: bits, limit: limit}
	b.fill(s)
}

func (b *maskBuilder) fill(s *set) {
	b.work = walkWorkMax
	readers := b.readers(s)
	for i := range s.items {
		if b.code[s.items[i].pc].op == opString {
			b.insideString(&s.items[i])
		}
	}
	if len(readers.items) > 0 && !b.walk(readers) {
		b.cheapest(s)
	}
	if s.complete {
		for _, id := range b.v.end {
			setBit(b.bits, id)
		}
	}
}

// cheapest walks again from the cheapest item alone, for grammars so ambiguous that the walk was cut short: the
// mask then still has the token that leads to the end.
func (b *maskBuilder) cheapest(s *set) {
	best := 0
	for i := range s.items {
		if b.cost(&s.items[i]) < b.cost(&s.items[best]) {
			best = i
		}
	}
	b.begin()
	b.out = append(b.out, s.items[best])
	b.work = walkWorkMax
	b.walk(b.finish())
}

// readers returns s without the items inside strings, for which the vocabulary knows more than a walk finds out.
func (m *machine) readers(s *set) *set {
	if s.readers != nil {
		return s.readers
	}
	m.begin()
	for _, it := range s.items {
		if m.code[it.pc].op != opString {
			m.out = append(m.out, it)
		}
	}
	if len(m.out) == len(s.items) {
		s.readers = s
	} else {
		s.readers = m.finish()
	}
	return s.readers
}

// walk tries every token of the vocabulary from s, sharing prefixes. It returns false if it ran out of work.
func (b *maskBuilder) walk(s *set) bool {
	nodes := b.v.trie.nodes
	stack := b.stackFor(b.v.trie)
	stack[0] = s
	for i := 0; i < len(nodes); {
		n := &nodes[i]
		to := b.step(stack[n.depth-1], n.b)
		if to == dead {
			i = int(n.end)
			continue
		}
		if b.work -= 1 + len(to.items); b.work < 0 {
			return false
		}
		stack[n.depth] = to
		if n.value >= 0 && to.cost <= b.limit {
			b.worst = max(b.worst, to.cost)
			for _, id := range b.v.same[n.value] {
				setBit(b.bits, id)
			}
		}
		i++
	}
	return true
}

func (m *machine) stackFor(t *trie) []*set {
	if len(m.stack) <= t.depth {
		m.stack = make([]*set, t.depth+1)
	}
	return m.stack
}

// insideString adds the tokens for one item inside a JSON string.
func (b *maskBuilder) insideString(it *item) {
	in := &b.code[it.pc]
	tokens := &b.v.str.states[it.q]
	room := int32(costInfinite)
	if in.hi != unbounded {
		room = in.hi - it.n
	}
	after := int32(0)
	if it.frame != nil {
		after = it.frame.cost
	}
	worst := int32(0)
	for _, g := range tokens.inside {
		if g.chars <= room {
			worst = max(worst, addCost(b.stringCost(in, int(g.end), it.n+g.chars), after))
		}
	}
	if worst <= b.limit {
		b.worst = max(b.worst, worst)
		tokens.orInside(b.bits, room)
	} else {
		for _, g := range tokens.inside {
			if cost := addCost(b.stringCost(in, int(g.end), it.n+g.chars), after); g.chars <= room && cost <= b.limit {
				b.worst = max(b.worst, cost)
				b.set(g.ids)
			}
		}
	}
	b.closeString(it, in, tokens, room)
}

func (b *maskBuilder) set(ids []int32) {
	for _, id := range ids {
		setBit(b.bits, id)
	}
}

// closeString adds the tokens that end the string and go on behind it.
func (b *maskBuilder) closeString(it *item, in *instruction, tokens *stringState, room int32) {
	if len(tokens.quoted) == 0 {
		return
	}
	b.begin()
	b.enter(in.next, it.frame)
	closed := b.finish()
	costs := b.suffixCosts(closed)
	for _, g := range tokens.quoted {
		if g.chars > room || it.n+g.chars < in.lo {
			continue
		}
		cost := closed.cost
		if g.suffix >= 0 {
			cost = costs[g.suffix]
		}
		if cost <= b.limit {
			b.worst = max(b.worst, cost)
			b.set(g.ids)
		}
	}
}

// suffixCosts returns the cost of the set that each suffix leads to from s.
func (b *maskBuilder) suffixCosts(s *set) []int32 {
	if s.suffixes != nil {
		return s.suffixes
	}
	t := b.v.str.suffixes
	costs := make([]int32, b.v.str.suffixCount)
	for i := range costs {
		costs[i] = costInfinite
	}
	if s != dead {
		stack := b.stackFor(t)
		stack[0] = s
		for i := 0; i < len(t.nodes) && b.work >= 0; {
			n := &t.nodes[i]
			to := b.step(stack[n.depth-1], n.b)
			if to == dead {
				i = int(n.end)
				continue
			}
			b.work -= 1 + len(to.items)
			stack[n.depth] = to
			if n.value >= 0 {
				costs[n.value] = to.cost
			}
			i++
		}
		s.suffixes = costs
		b.bytes += 4 * len(costs)
	}
	return costs
}

// pack stores the mask in the smaller form.
func (b *maskBuilder) pack() *mask {
	out := &mask{costMax: b.worst}
	var ids []int32
	for w, bits := range b.bits {
		for bit := int32(0); bits != 0; bit, bits = bit+1, bits>>1 {
			if bits&1 == 0 {
				continue
			}
			if len(ids) >= len(b.bits)/4 {
				out.bits = b.bits
				return out
			}
			ids = append(ids, int32(w)*32+bit)
		}
	}
	out.ids = ids
	return out
}

// copyTo overwrites bits with the mask.
func (k *mask) copyTo(bits []uint32) {
	if k.bits != nil {
		copy(bits, k.bits)
		return
	}
	clear(bits)
	for _, id := range k.ids {
		setBit(bits, id)
	}
}
