package guide

import (
	"encoding/binary"
	"slices"
	"unicode"
)

// runeRange is an inclusive range of code points.
type runeRange struct{ lo, hi rune }

// runeSet is a set of Unicode scalar values: sorted, disjoint, non-adjacent ranges without surrogates. Sets are
// immutable.
type runeSet []runeRange

var anyRune = runeSet{{0, 0xD7FF}, {0xE000, unicode.MaxRune}}

// newRuneSet makes a set of ranges in any order.
func newRuneSet(ranges ...runeRange) runeSet {
	sorted := slices.Clone(ranges)
	slices.SortFunc(sorted, func(a, b runeRange) int { return int(a.lo) - int(b.lo) })
	var out runeSet
	for _, r := range sorted {
		if n := len(out); n > 0 && r.lo <= out[n-1].hi+1 {
			out[n-1].hi = max(out[n-1].hi, r.hi)
		} else if r.lo <= r.hi {
			out = append(out, r)
		}
	}
	return out.intersect(anyRune)
}

// runesOf is the set of the characters of text.
func runesOf(text string) runeSet {
	var ranges []runeRange
	for _, r := range text {
		ranges = append(ranges, runeRange{r, r})
	}
	return newRuneSet(ranges...)
}

func (s runeSet) intersect(t runeSet) runeSet {
	var out runeSet
	for i, j := 0, 0; i < len(s) && j < len(t); {
		if lo, hi := max(s[i].lo, t[j].lo), min(s[i].hi, t[j].hi); lo <= hi {
			out = append(out, runeRange{lo, hi})
		}
		if s[i].hi < t[j].hi {
			i++
		} else {
			j++
		}
	}
	return out
}

func (s runeSet) union(t runeSet) runeSet { return newRuneSet(append(slices.Clone(s), t...)...) }

func (s runeSet) complement() runeSet {
	var out []runeRange
	next := rune(0)
	for _, r := range s {
		out = append(out, runeRange{next, r.lo - 1})
		next = r.hi + 1
	}
	return newRuneSet(append(out, runeRange{next, unicode.MaxRune})...)
}

func (s runeSet) minus(t runeSet) runeSet { return s.intersect(t.complement()) }

func (s runeSet) contains(r rune) bool {
	_, ok := slices.BinarySearchFunc(s, r, func(x runeRange, r rune) int {
		switch {
		case x.hi < r:
			return -1
		case x.lo > r:
			return 1
		}
		return 0
	})
	return ok
}

// size is the number of characters in the set.
func (s runeSet) size() int {
	n := 0
	for _, r := range s {
		n += int(r.hi-r.lo) + 1
	}
	return n
}

// fromTable converts one of package unicode's tables.
func fromTable(table *unicode.RangeTable) runeSet {
	var ranges []runeRange
	add := func(lo, hi, stride rune) {
		if stride == 1 {
			ranges = append(ranges, runeRange{lo, hi})
			return
		}
		for r := lo; r <= hi; r += stride {
			ranges = append(ranges, runeRange{r, r})
		}
	}
	for _, r := range table.R16 {
		add(rune(r.Lo), rune(r.Hi), rune(r.Stride))
	}
	for _, r := range table.R32 {
		add(rune(r.Lo), rune(r.Hi), rune(r.Stride))
	}
	return newRuneSet(ranges...)
}

// key is a text that two sets share if and only if they are equal.
func (s runeSet) key() string {
	b := make([]byte, 0, 8*len(s))
	for _, r := range s {
		b = binary.LittleEndian.AppendUint32(b, uint32(r.lo))
		b = binary.LittleEndian.AppendUint32(b, uint32(r.hi))
	}
	return string(b)
}

// sameSlice reports whether two sets are the same slice.
func (s runeSet) sameSlice(t runeSet) bool { return len(s) == len(t) && &s[0] == &t[0] }
