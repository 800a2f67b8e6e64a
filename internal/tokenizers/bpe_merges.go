package tokenizers

import "math/bits"

// noMerge is the entry of a pair that no merge joins. It sorts after every merge.
const noMerge = ^uint64(0)

// pairTable maps a pair of 32-bit numbers to a 64-bit entry. It is an open-addressing hash table, which on
// pairs is several times faster than a Go map and takes 16 bytes a slot.
type pairTable struct {
	slots []pairSlot
	shift uint
}

type pairSlot struct{ pair, entry uint64 }

// emptyPair marks a free slot; no pair of non-negative ids equals it.
const emptyPair = ^uint64(0)

func newPairTable(capacity int) pairTable {
	size := 16
	for size < 2*capacity {
		size *= 2
	}
	t := pairTable{slots: make([]pairSlot, size), shift: uint(64 - bits.TrailingZeros(uint(size)))}
	for i := range t.slots {
		t.slots[i].pair = emptyPair
	}
	return t
}

func pairOf(a, b int32) uint64 { return uint64(uint32(a))<<32 | uint64(uint32(b)) }

func (t *pairTable) slot(pair uint64) int {
	h := (pair ^ pair>>32) * 0x9E3779B97F4A7C15
	return int(h >> t.shift)
}

// set stores an entry; a later one replaces an earlier one. The table never grows: its capacity is given.
func (t *pairTable) set(a, b int32, entry uint64) {
	pair := pairOf(a, b)
	i := t.slot(pair)
	for t.slots[i].pair != emptyPair && t.slots[i].pair != pair {
		i = (i + 1) & (len(t.slots) - 1)
	}
	t.slots[i] = pairSlot{pair, entry}
}

// get returns the entry of a pair, or noMerge.
func (t *pairTable) get(a, b int32) uint64 {
	pair := pairOf(a, b)
	for i := t.slot(pair); ; i = (i + 1) & (len(t.slots) - 1) {
		if s := &t.slots[i]; s.pair == pair {
			return s.entry
		} else if s.pair == emptyPair {
			return noMerge
		}
	}
}

// mergeEntry packs a merge's rank and the id it gives, so that entries sort by rank.
func mergeEntry(rank int, id int32) uint64 { return uint64(rank)<<32 | uint64(uint32(id)) }

func entryID(entry uint64) int32 { return int32(uint32(entry)) }

// shortPiece is the number of symbols up to which scanning for the best pair beats a heap.
const shortPiece = 24

// mergeScratch is the working memory of merging one piece.
type mergeScratch struct {
	ids     []int32
	entries []uint64
	next    []int32
	prev    []int32
	heap    []mergeCandidate
}

// mergeAll applies the merges to s.ids in place: always the pair of lowest rank, the leftmost of equals.
func (t *pairTable) mergeAll(s *mergeScratch) []int32 {
	if len(s.ids) <= shortPiece {
		return t.mergeShort(s)
	}
	return t.mergeLong(s)
}

func (t *pairTable) mergeShort(s *mergeScratch) []int32 {
	ids := s.ids
	if len(ids) < 2 {
		return ids
	}
	entries := s.entries[:0]
	for i := range len(ids) - 1 {
		entries = append(entries, t.get(ids[i], ids[i+1]))
	}
	s.entries = entries
	for {
		best, at := noMerge, -1
		for i, e := range entries {
			if e < best {
				best, at = e, i
			}
		}
		if at < 0 {
			return ids
		}
		ids[at] = entryID(best)
		copy(ids[at+1:], ids[at+2:])
		ids = ids[:len(ids)-1]
		copy(entries[at:], entries[at+1:])
		entries = entries[:len(entries)-1]
		if at > 0 {
			entries[at-1] = t.get(ids[at-1], ids[at])
		}
		if at < len(entries) {
			entries[at] = t.get(ids[at], ids[at+1])
		}
	}
}

// mergeCandidate is a pair that could be merged, ordered by rank and then position.
type mergeCandidate struct {
	order uint64 // rank in the high half, position of the left symbol in the low one
	id    int32
}

// mergeLong keeps the symbols in a linked list and the candidates in a heap: O(n log n).
func (t *pairTable) mergeLong(s *mergeScratch) []int32 {
	ids := s.ids
	n := len(ids)
	entries, next, prev := grown(s.entries, n), grown(s.next, n), grown(s.prev, n)
	s.entries, s.next, s.prev = entries, next, prev
	h := candidateHeap(s.heap[:0])
	for i := range n {
		next[i], prev[i] = int32(i+1), int32(i-1)
		entries[i] = noMerge
		if i+1 < n {
			if e := t.get(ids[i], ids[i+1]); e != noMerge {
				entries[i] = e
				h = append(h, mergeCandidate{e>>32<<32 | uint64(i), entryID(e)})
			}
		}
	}
	h.init()
	for len(h) > 0 {
		top := h.pop()
		at := int32(uint32(top.order))
		// A candidate is stale if its left symbol has been merged away or now has another pair.
		if entries[at] == noMerge || entryID(entries[at]) != top.id {
			continue
		}
		right := next[at]
		ids[at], ids[right] = top.id, -1
		entries[at], entries[right] = noMerge, noMerge
		after := next[right]
		next[at] = after
		if int(after) < n {
			prev[after] = at
			h = t.propose(h, entries, at, ids[at], ids[after])
		}
		if before := prev[at]; before >= 0 {
			h = t.propose(h, entries, before, ids[before], ids[at])
		}
	}
	s.heap = h
	out := ids[:0]
	for i := int32(0); int(i) < n; i = next[i] {
		out = append(out, ids[i])
	}
	return out
}

// propose records the merge of the pair (a, b) whose left symbol is at position at.
func (t *pairTable) propose(h candidateHeap, entries []uint64, at, a, b int32) candidateHeap {
	e := t.get(a, b)
	entries[at] = e
	if e != noMerge {
		h.push(mergeCandidate{e>>32<<32 | uint64(at), entryID(e)})
	}
	return h
}

func grown[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	return s[:n]
}

// candidateHeap is a binary min-heap.
type candidateHeap []mergeCandidate

func (h candidateHeap) init() {
	for i := len(h)/2 - 1; i >= 0; i-- {
		h.down(i)
	}
}

func (h *candidateHeap) push(c mergeCandidate) {
	*h = append(*h, c)
	s := *h
	i := len(s) - 1
	for i > 0 {
		parent := (i - 1) / 2
		if s[parent].order <= c.order {
			break
		}
		s[i] = s[parent]
		i = parent
	}
	s[i] = c
}

func (h *candidateHeap) pop() mergeCandidate {
	s := *h
	top := s[0]
	last := len(s) - 1
	s[0] = s[last]
	*h = s[:last]
	if last > 1 {
		h.down(0)
	}
	return top
}

func (h candidateHeap) down(i int) {
	c := h[i]
	for {
		child := 2*i + 1
		if child >= len(h) {
			break
		}
		if child+1 < len(h) && h[child+1].order < h[child].order {
			child++
		}
		if c.order <= h[child].order {
			break
		}
		h[i] = h[child]
		i = child
	}
	h[i] = c
}
