package guide

import "slices"

// run is an item that is inside a run, with what a mask needs to know of it.
type run struct {
	tokens   *runState
	suffixes *suffixTable
	lo, hi   int32 // characters that the run must and can still have
	// exit is what can follow chars more characters, other than another one.
	exit func(chars int32) *set
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
	b.allowLeaving(&r)
}

// allowLeaving adds the tokens that leave a run. There are thousands of groups, but few lengths: what depends on the
// length only is computed once.
func (b *maskBuilder) allowLeaving(r *run) {
	type after struct {
		exit  *set
		costs []int32 // by suffix
	}
	lengths := make([]after, 0, atMostCount)
	for i := range r.tokens.leave {
		g := &r.tokens.leave[i]
		if g.chars > r.hi {
			continue
		}
		for int(g.chars) >= len(lengths) {
			lengths = append(lengths, after{})
		}
		a := &lengths[g.chars]
		if a.exit == nil {
			a.exit = r.exit(g.chars)
			a.costs = b.costsAfter(a.exit, r.suffixes)
		}
		cost := a.exit.cost
		if g.suffix >= 0 {
			cost = a.costs[g.suffix]
		}
		if cost < costInfinite {
			b.allow(cost, g.ids)
		}
	}
}

// allowString adds the tokens for an item inside a JSON string.
func (b *maskBuilder) allowString(l *lexicon, it *item) {
	in := &b.code[it.pc]
	after := int32(0)
	if it.frame != nil {
		after = it.frame.cost
	}
	r := run{tokens: &l.str.states[it.q], suffixes: l.str.suffixes, lo: max(in.lo-it.n, 0), hi: costInfinite}
	if in.hi != unbounded {
		r.hi = in.hi - it.n
	}
	r.cost = func(end int16, chars int32) int32 { return addCost(b.stringCost(in, int(end), it.n+chars), after) }
	b.begin()
	b.enter(in.next, it.frame)
	closed := b.finish()
	r.exit = func(chars int32) *set {
		if chars < r.lo {
			return dead
		}
		return closed
	}
	b.allowRun(r)
}

// exitItemsMax bounds the items behind a run of a class for which a table is used.
const exitItemsMax = 64

// classRun reports whether an item is in a run of a class: a repetition whose rounds may be a character of the class,
// and in which everything else begins with a character that is not in it. Then a character of the class leads to the
// same items again, but for the count of rounds.
func (b *maskBuilder) classRun(l *lexicon, it *item) (run, bool) {
	in := &b.code[it.pc]
	if in.op != opClass || it.q != 0 {
		return run{}, false
	}
	class := b.classes[in.arg]
	if class.set.size() < runRunesMin {
		return run{}, false
	}
	var r run
	var ok bool
	if f := it.frame; b.code[in.next].op == opLoop && f != nil {
		r, ok = b.countedRun(it, in, f)
	} else {
		r, ok = b.endlessRun(it, in)
	}
	if !ok {
		return run{}, false
	}
	t := l.runTable(class)
	r.tokens, r.suffixes = &t.state, t.suffixes
	return r, true
}

// endlessRun describes the run of an item that is reached again after each character.
func (b *maskBuilder) endlessRun(it *item, in *instruction) (run, bool) {
	b.begin()
	b.enter(in.next, it.frame)
	exit, again := b.without(it)
	if !again || !b.apart(exit, in) {
		return run{}, false
	}
	after, own := b.costs.tokens[in.next], min(b.cost(it), exit.cost)
	if it.frame != nil {
		after = addCost(after, it.frame.cost)
	}
	class := b.classes[in.arg]
	return run{lo: 1, hi: costInfinite,
		exit: func(int32) *set { return exit },
		cost: func(end int16, _ int32) int32 {
			if end != 0 {
				return addCost(class.cost[end], after)
			}
			return own
		}}, true
}

// countedRun describes the run of an item whose character is a round of a counted repetition.
func (b *maskBuilder) countedRun(it *item, in *instruction, f *frame) (run, bool) {
	repeat := &b.code[f.pc]
	r := run{lo: max(repeat.lo-f.count+1, 1), hi: costInfinite}
	if repeat.hi != unbounded {
		r.hi = repeat.hi - f.count + 1
	}
	exits := map[int32]*set{}
	r.exit = func(chars int32) *set {
		rounds := f.count + chars - 1 // that have ended
		if repeat.hi == unbounded {
			rounds = min(rounds, repeat.lo)
		}
		exit, ok := exits[rounds]
		if !ok {
			b.begin()
			b.round(f.pc, f.parent, rounds)
			next := *it
			next.frame = b.roundFrame(f, rounds)
			exit, _ = b.without(&next)
			exits[rounds] = exit
		}
		return exit
	}
	// Every exit has the other ways to read a round, the items behind the repetition, or both.
	b.begin()
	b.round(f.pc, f.parent, f.count-1)
	if _, again := b.without(it); !again || !b.apart(r.exit(1), in) || !b.apart(r.exit(r.lo), in) {
		return run{}, false
	}
	class := b.classes[in.arg]
	r.cost = func(end int16, chars int32) int32 {
		if end != 0 { // within the last of the characters
			return addCost(class.cost[end], b.frameCost(f.pc, f.parent, f.count+chars-1))
		}
		cost := r.exit(chars).cost
		if chars < r.hi {
			cost = min(cost, addCost(b.costs.tokens[it.pc], b.frameCost(f.pc, f.parent, f.count+chars)))
		}
		return cost
	}
	return r, true
}

// roundFrame is the frame of the round that begins after rounds have ended, or nil if there is none.
func (b *maskBuilder) roundFrame(f *frame, rounds int32) *frame {
	repeat := &b.code[f.pc]
	if repeat.hi != unbounded && rounds >= repeat.hi {
		return nil
	}
	if repeat.hi != unbounded || rounds < repeat.lo {
		rounds++
	}
	return b.push(f.parent, f.pc, rounds)
}

// without ends a step like finish, but leaves out one item; it reports whether that was there.
func (b *maskBuilder) without(it *item) (*set, bool) {
	count := len(b.out)
	b.out = slices.DeleteFunc(b.out, func(x item) bool { return x == *it })
	there := len(b.out) < count
	return b.finish(), there
}

// apart reports whether none of the items of a set can begin with a character of the class that in reads.
func (b *maskBuilder) apart(s *set, in *instruction) bool {
	class := b.classes[in.arg].set
	if len(s.items) > exitItemsMax {
		return false
	}
	for i := range s.items {
		other := &b.code[s.items[i].pc]
		switch {
		case other.op == opByte && other.b < 0x80:
			if class.contains(rune(other.b)) {
				return false
			}
		case other.op == opByte:
			if class[len(class)-1].hi >= 0x80 {
				return false
			}
		case other.op != opClass || len(b.classes[other.arg].set.intersect(class)) > 0:
			return false
		}
	}
	return true
}
