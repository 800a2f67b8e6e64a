package routing

import "math/bits"

// index knows which replica holds which block. Replicas are slots; 64 of them share a table, so that one
// look-up answers for all of them.
type index []map[uint64]uint64 // [slot/64]: block key -> bit per slot

const slotsPerTable = 64

func (x *index) grow(slots int) {
	for len(*x)*slotsPerTable < slots {
		*x = append(*x, map[uint64]uint64{})
	}
}

func (x index) add(slot int, keys []uint64) {
	table, bit := x[slot/slotsPerTable], uint64(1)<<(slot%slotsPerTable)
	for _, k := range keys {
		table[k] |= bit
	}
}

func (x index) remove(slot int, keys []uint64) {
	table, bit := x[slot/slotsPerTable], uint64(1)<<(slot%slotsPerTable)
	for _, k := range keys {
		switch left := table[k] &^ bit; {
		case left != 0:
			table[k] = left
		default:
			delete(table, k)
		}
	}
}

// clear forgets all that a slot holds.
func (x index) clear(slot int) {
	table, bit := x[slot/slotsPerTable], uint64(1)<<(slot%slotsPerTable)
	for k, holders := range table { // the order changes nothing
		switch {
		case holders == bit:
			delete(table, k)
		case holders&bit != 0:
			table[k] = holders &^ bit
		}
	}
}

// size counts a slot's blocks.
func (x index) size(slot int) (n int) {
	bit := uint64(1) << (slot % slotsPerTable)
	for _, holders := range x[slot/slotsPerTable] {
		if holders&bit != 0 {
			n++
		}
	}
	return n
}

// overlaps writes to depth[slot] how many of the first keys each slot holds, 0 for slots not in wanted. It
// counts on replicas letting a prefix go from its end: who holds block i is taken to hold those before it.
// So it need not look at every block, only where the number of holders changes: at most
// holders × log₂(len(keys)) look-ups per table.
func (x index) overlaps(keys []uint64, wanted []uint64, depth []int32) {
	clear(depth)
	if len(keys) == 0 {
		return
	}
	for t, table := range x {
		s := search{keys, table, depth[t*slotsPerTable:]}
		from, holders := -1, wanted[t]
		for step := 1; holders != 0 && from < len(keys)-1; step *= 2 {
			to := min(from+step, len(keys)-1)
			left := table[keys[to]] & holders
			s.between(from, to, holders, left)
			from, holders = to, left
		}
		s.ended(holders, len(keys))
	}
}

// search finds where replicas' prefixes end.
type search struct {
	keys  []uint64
	table map[uint64]uint64
	depth []int32
}

// between places the ends of the slots that hold block from and not block to.
func (s *search) between(from, to int, holdFrom, holdTo uint64) {
	gone := holdFrom &^ holdTo
	switch {
	case gone == 0:
	case to-from == 1:
		s.ended(gone, from+1)
	default:
		mid := from + (to-from)/2
		holdMid := s.table[s.keys[mid]]&holdFrom | holdTo
		s.between(from, mid, holdFrom, holdMid)
		s.between(mid, to, holdMid, holdTo)
	}
}

func (s *search) ended(slots uint64, depth int) {
	for ; slots != 0; slots &= slots - 1 {
		s.depth[bits.TrailingZeros64(slots)] = int32(depth)
	}
}
