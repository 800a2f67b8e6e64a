package guide

import (
	"cmp"
	"encoding/binary"
	"slices"
)

// frame is an element of the pushdown stack: where to go on when a rule or a round of a repetition ends. Frames are
// hash-consed, so that stacks share their lower parts and equal stacks are equal pointers.
type frame struct {
	parent *frame
	pc     int32 // return state of a call, or the opRepeat of a round
	count  int32 // rounds begun, this one included; 0 for a call
	depth  int32
	cost   int32 // tokens that complete the answer after this frame ends
	id     uint32
}

// item is one derivation in progress: the state that reads next and its stack.
type item struct {
	frame *frame
	pc    int32
	n     int32 // opString: characters begun
	q     int16 // state of the class or string automaton
}

// set is a state of the lazily determinized automaton: all derivations that fit the text so far. Sets are interned;
// their items do not change, their caches do, under the machine's lock.
type set struct {
	items    []item
	cost     int32 // least tokens to a complete answer
	complete bool
	age      uint32
	next     [16]*[16]*set // by byte, high half first
	mask     *mask
	suffixes []suffixCosts
}

// dead is the set without items: the text cannot be continued to an answer.
var dead = &set{cost: costInfinite}

type frameKey struct {
	parent uint32
	pc     int32
	count  int32
}

// machine runs the automaton and remembers the sets it has seen.
type machine struct {
	*program
	costs  costs
	v      *Vocabulary
	sets   map[string]*set
	frames map[frameKey]*frame
	bytes  int
	age    uint32 // counts how often the memory was dropped
	ids    uint32
	// Scratch of one step.
	out      []item
	accepted bool
	visited  []visit
	seen     map[visit]bool
	key      []byte
	stack    []*set
}

type visit struct {
	pc    int32
	frame *frame
}

// frameBytes and setBytes estimate what an entry costs, its map entry included.
const (
	frameBytes = 120
	setBytes   = 360
	itemBytes  = 56
	blockBytes = 144
)

func newMachine(p *program, c costs, v *Vocabulary) *machine {
	m := &machine{program: p, costs: c, v: v}
	m.forget()
	return m
}

// forget drops everything remembered. Sets that matchers hold stay valid; adopt brings them back.
func (m *machine) forget() {
	m.sets, m.frames = map[string]*set{}, map[frameKey]*frame{}
	m.seen = map[visit]bool{}
	m.bytes, m.ids = 0, 0
	m.age++
}

// start returns the set before any text.
func (m *machine) start() *set {
	m.begin()
	m.enter(m.program.start, nil)
	return m.finish()
}

// adopt returns s, or its equal if s is of a memory that was dropped.
func (m *machine) adopt(s *set) *set {
	if s.age == m.age || s == dead {
		return s
	}
	m.begin()
	for _, it := range s.items {
		it.frame = m.adoptFrame(it.frame)
		m.out = append(m.out, it)
	}
	m.accepted = s.complete
	return m.finish()
}

func (m *machine) adoptFrame(f *frame) *frame {
	if f == nil {
		return nil
	}
	return m.push(m.adoptFrame(f.parent), f.pc, f.count)
}

// push returns the frame, or nil if completing it would need a deeper stack than allowed.
func (m *machine) push(parent *frame, pc, count int32) *frame {
	key := frameKey{pc: pc, count: count}
	f := &frame{parent: parent, pc: pc, count: count, depth: 1}
	if parent != nil {
		key.parent = parent.id
		f.depth = parent.depth + 1
	}
	if known, ok := m.frames[key]; ok {
		return known
	}
	rest := pc
	if in := &m.code[pc]; in.op == opRepeat {
		rest = in.next
		if in.lo > count && f.depth+m.costs.depth[in.entry] > stackDepthMax {
			return nil
		}
	}
	f.cost = m.frameCost(pc, parent, count)
	if f.cost >= costInfinite && m.v.complete || f.depth-1+m.costs.depth[rest] > stackDepthMax {
		return nil
	}
	m.ids++
	f.id = m.ids
	m.frames[key] = f
	m.bytes += frameBytes
	return f
}

// frameCost is the number of tokens that complete the answer after a frame ends.
func (m *machine) frameCost(pc int32, parent *frame, count int32) int32 {
	cost := int32(0)
	if parent != nil {
		cost = parent.cost
	}
	in := &m.code[pc]
	if in.op != opRepeat {
		return addCost(cost, m.costs.tokens[pc])
	}
	if in.lo > count {
		cost = addCost(cost, mulCost(in.lo-count, m.costs.tokens[in.entry]))
	}
	return addCost(cost, m.costs.tokens[in.next])
}

// step returns the set after one more byte.
func (m *machine) step(s *set, b byte) *set {
	block := s.next[b>>4]
	if block == nil {
		block = new([16]*set)
		s.next[b>>4] = block
		m.bytes += blockBytes
	}
	if to := block[b&15]; to != nil {
		return to
	}
	m.begin()
	for i := range s.items {
		m.read(&s.items[i], b)
	}
	to := m.finish()
	block[b&15] = to
	return to
}

// read advances one item by one byte.
func (m *machine) read(it *item, b byte) {
	in := &m.code[it.pc]
	switch in.op {
	case opByte:
		if in.b == b {
			m.enter(in.next, it.frame)
		}
	case opClass:
		switch to := m.classes[in.arg].next[it.q][b]; to {
		case byteReject:
		case byteAccept:
			m.enter(in.next, it.frame)
		default:
			m.out = append(m.out, item{frame: it.frame, pc: it.pc, q: to})
		}
	case opString:
		to, n := stringDFA[it.q][b], it.n
		if to == byteAccept {
			if n >= in.lo {
				m.enter(in.next, it.frame)
			}
			return
		}
		if to == byteReject {
			return
		}
		if it.q == strBoundary {
			if in.hi != unbounded && n >= in.hi {
				return
			}
			if n < max(in.lo, in.hi) { // without an upper limit, only the way to the lower one counts
				n++
			}
		}
		m.out = append(m.out, item{frame: it.frame, pc: it.pc, q: int16(to), n: n})
	}
}

func (m *machine) begin() {
	m.out, m.visited, m.accepted = m.out[:0], m.visited[:0], false
	clear(m.seen)
}

// visitedMany is the number of visits from which a map finds them faster than a scan.
const visitedMany = 16

// enter adds what is reached from a state without reading: the items that read next, and whether the answer is
// complete.
func (m *machine) enter(pc int32, f *frame) {
	in := &m.code[pc]
	if in.op <= opString {
		m.out = append(m.out, item{frame: f, pc: pc})
		return
	}
	v := visit{pc, f}
	if len(m.visited) < visitedMany {
		if slices.Contains(m.visited, v) {
			return
		}
	} else if len(m.seen) == 0 {
		for _, old := range m.visited {
			m.seen[old] = true
		}
	}
	if len(m.visited) >= visitedMany {
		if m.seen[v] {
			return
		}
		m.seen[v] = true
	}
	m.visited = append(m.visited, v)
	switch in.op {
	case opSplit:
		for _, out := range in.outs {
			m.enter(out, f)
		}
	case opCall:
		if m.code[in.next].op != opReturn { // a tail call reuses the frame
			if f = m.push(f, in.next, 0); f == nil {
				return
			}
		}
		m.enter(in.entry, f)
	case opReturn:
		if f == nil {
			m.accepted = true
			return
		}
		m.enter(f.pc, f.parent)
	case opRepeat:
		m.round(pc, f, 0)
	case opLoop:
		m.round(f.pc, f.parent, f.count)
	}
}

// round is reached after count rounds of the repetition at pc.
func (m *machine) round(pc int32, parent *frame, count int32) {
	in := &m.code[pc]
	if count >= in.lo {
		m.enter(in.next, parent)
	}
	if in.hi != unbounded && count >= in.hi {
		return
	}
	if in.hi != unbounded || count < in.lo {
		count++
	}
	if f := m.push(parent, pc, count); f != nil {
		m.enter(in.entry, f)
	}
}

// cost is the least number of tokens that complete the answer along an item.
func (m *machine) cost(it *item) int32 {
	in := &m.code[it.pc]
	c := m.costs.tokens[it.pc]
	if it.q != 0 || it.n != 0 {
		switch in.op {
		case opClass:
			c = addCost(m.classes[in.arg].cost[it.q], m.costs.tokens[in.next])
		case opString:
			c = m.stringCost(in, int(it.q), it.n)
		}
	}
	if it.frame != nil {
		c = addCost(c, it.frame.cost)
	}
	return c
}

// stringCost is the cost from inside a string to the end of the rule.
func (m *machine) stringCost(in *instruction, q int, n int32) int32 {
	c := addCost(m.v.str.closeCost[q], 1)
	if in.lo > n {
		c = addCost(c, mulCost(in.lo-n, m.v.str.charCost))
	}
	return addCost(c, m.costs.tokens[in.next])
}

func (m *machine) needsDepth(it *item) int32 {
	d := m.costs.depth[it.pc]
	if it.frame != nil {
		d += it.frame.depth
	}
	return d
}

// finish interns what a step has collected. Items that cannot be completed are left out, unless a token of several
// bytes may lead through them, and so are the most expensive ones beyond itemsMax: the masks of the rest stay sound,
// and the cheapest way to an answer stays open.
func (m *machine) finish() *set {
	items := slices.DeleteFunc(m.out, func(it item) bool {
		return m.cost(&it) >= costInfinite && m.v.complete || m.needsDepth(&it) > stackDepthMax
	})
	slices.SortFunc(items, compareItems)
	items = slices.Compact(items)
	if len(items) > itemsMax {
		slices.SortStableFunc(items, func(a, b item) int { return cmp.Compare(m.cost(&a), m.cost(&b)) })
		items = items[:itemsMax]
		slices.SortFunc(items, compareItems)
	}
	m.out = m.out[:0]
	if len(items) == 0 && !m.accepted {
		return dead
	}
	key := m.key[:0]
	for i := range items {
		it := &items[i]
		id := uint32(0)
		if it.frame != nil {
			id = it.frame.id
		}
		key = binary.LittleEndian.AppendUint32(key, id)
		key = binary.LittleEndian.AppendUint32(key, uint32(it.pc))
		key = binary.LittleEndian.AppendUint32(key, uint32(it.n))
		key = append(key, byte(it.q), byte(it.q>>8))
	}
	if m.accepted {
		key = append(key, 1)
	}
	m.key = key
	if s, ok := m.sets[string(key)]; ok {
		return s
	}
	s := &set{items: slices.Clone(items), complete: m.accepted, cost: costInfinite, age: m.age}
	for i := range s.items {
		s.cost = min(s.cost, m.cost(&s.items[i]))
	}
	if s.complete {
		s.cost = 0
	}
	m.sets[string(key)] = s
	m.bytes += setBytes + itemBytes*len(items)
	return s
}

func compareItems(a, b item) int {
	id := func(f *frame) uint32 {
		if f == nil {
			return 0
		}
		return f.id
	}
	return cmp.Or(cmp.Compare(a.pc, b.pc), cmp.Compare(id(a.frame), id(b.frame)), cmp.Compare(a.q, b.q),
		cmp.Compare(a.n, b.n))
}
