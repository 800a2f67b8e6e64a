package guide

// run is an item that is inside a run, with what a mask needs to know of it.
type run struct {
	tokens   *runState
	suffixes *suffixTable
	lo, hi   int32 // characters that the run must and can still have
	exit     *set  // after the run has ended
	// cost of the set after chars more characters, in state end of the run's automaton.
	cost func(end int16, chars int32) int32
}

// allowRun adds the tokens that stay inside a run, and those that leave it and go on behind.
func (b *maskBuilder) allowRun(r run) {
	// Where no token changes the cost, as without a least length, those that end between characters are one mask.
	settled := len(r.tokens.inside) > 0 && r.tokens.inside[0].chars >= r.lo && r.cost(0, r.lo) == r.cost(0, r.hi)
	if settled {
		l := b.level(r.cost(0, r.lo))
		if l.bits == nil {
			l.bits = make([]uint32, b.v.MaskWords())
			for _, id := range l.ids {
				setBit(l.bits, id)
			}
			l.ids = nil
		}
		r.tokens.orSettled(l.bits, r.hi)
	}
	for i := range r.tokens.inside {
		g := &r.tokens.inside[i]
		if g.chars > r.hi {
			break
		}
		if !settled || g.end != 0 {
			b.allow(r.cost(g.end, g.chars), g.ids)
		}
	}
	var costs []int32
	for _, g := range r.tokens.leave {
		if g.chars < r.lo || g.chars > r.hi {
			continue
		}
		cost := r.exit.cost
		if g.suffix >= 0 {
			if costs == nil {
				costs = b.costsAfter(r.exit, r.suffixes)
			}
			cost = costs[g.suffix]
		}
		b.allow(cost, g.ids)
	}
}

// allowString adds the tokens for an item inside a JSON string.
func (b *maskBuilder) allowString(it *item) {
	in := &b.code[it.pc]
	after := int32(0)
	if it.frame != nil {
		after = it.frame.cost
	}
	r := run{tokens: &b.v.str.states[it.q], suffixes: b.v.str.suffixes, lo: max(in.lo-it.n, 0), hi: costInfinite}
	if in.hi != unbounded {
		r.hi = in.hi - it.n
	}
	r.cost = func(end int16, chars int32) int32 { return addCost(b.stringCost(in, int(end), it.n+chars), after) }
	b.begin()
	b.enter(in.next, it.frame)
	r.exit = b.finish()
	b.allowRun(r)
}

// exitItemsMax bounds the items behind a run of a class for which a table is used.
const exitItemsMax = 64

// classRun reports whether an item is in a run of a class: a repetition of the class whose end is recognized by a
// character that is not in it. Then, and only then, the items after a character of the class are the same again.
func (b *maskBuilder) classRun(it *item) (run, bool) {
	in := &b.code[it.pc]
	if in.op != opClass || it.q != 0 {
		return run{}, false
	}
	class := b.classes[in.arg]
	if class.set.size() < runRunesMin {
		return run{}, false
	}
	r := run{lo: 1, hi: costInfinite}
	b.begin()
	if f := it.frame; b.code[in.next].op == opLoop && f != nil && b.code[f.pc].entry == it.pc {
		b.countedRun(&r, it, in, f)
	} else {
		b.enter(in.next, it.frame)
		again := -1
		for i := range b.out {
			if b.out[i] == *it {
				again = i
			}
		}
		if again < 0 {
			return run{}, false
		}
		b.out[again] = b.out[len(b.out)-1]
		b.out = b.out[:len(b.out)-1]
		within, own := b.withinClass(class, in, it.frame), b.cost(it)
		r.cost = func(end int16, _ int32) int32 {
			if end != 0 {
				return within(end)
			}
			return min(own, r.exit.cost)
		}
	}
	if len(b.out) > exitItemsMax || !b.apart(class) {
		return run{}, false
	}
	r.exit = b.finish()
	t := b.v.runTable(class)
	r.tokens, r.suffixes = &t.state, t.suffixes
	return r, true
}

// countedRun describes a run whose characters are the rounds of a repetition, and collects the items behind it.
func (b *maskBuilder) countedRun(r *run, it *item, in *instruction, f *frame) {
	repeat := &b.code[f.pc]
	r.lo = max(repeat.lo-f.count+1, 1)
	if repeat.hi != unbounded {
		r.hi = repeat.hi - f.count + 1
	}
	class := b.classes[in.arg]
	pc, parent, count, hi, lo := f.pc, f.parent, f.count, r.hi, r.lo
	r.cost = func(end int16, chars int32) int32 {
		if end != 0 { // within the last of the characters
			return addCost(class.cost[end], b.frameCost(pc, parent, count+chars-1))
		}
		cost := int32(costInfinite)
		if chars < hi {
			cost = addCost(b.costs.tokens[it.pc], b.frameCost(pc, parent, count+chars))
		}
		if chars >= lo {
			cost = min(cost, r.exit.cost)
		}
		return cost
	}
	b.enter(repeat.next, f.parent)
}

// withinClass returns the cost from within a character of a class.
func (b *maskBuilder) withinClass(class *classDFA, in *instruction, f *frame) func(end int16) int32 {
	after := b.costs.tokens[in.next]
	if f != nil {
		after = addCost(after, f.cost)
	}
	return func(end int16) int32 { return addCost(class.cost[end], after) }
}

// apart reports whether none of the items collected can begin with a character of the class.
func (b *maskBuilder) apart(class *classDFA) bool {
	for i := range b.out {
		in := &b.code[b.out[i].pc]
		switch {
		case in.op == opByte && in.b < 0x80:
			if class.set.contains(rune(in.b)) {
				return false
			}
		case in.op == opByte:
			if class.set[len(class.set)-1].hi >= 0x80 {
				return false
			}
		case in.op != opClass || len(b.classes[in.arg].set.intersect(class.set)) > 0:
			return false
		}
	}
	return true
}
