package ucd

import (
	"slices"
	"unicode/utf8"
)

// Range is an inclusive range of code points.
type Range struct{ Lo, Hi rune }

// Set is a set of code points as sorted, disjoint, non-adjacent ranges. The zero value is empty.
// Sets are immutable: every operation returns a new one.
type Set []Range

// Of returns the set of the given ranges, which may overlap and come in any order.
func Of(ranges ...Range) Set {
	sorted := slices.Clone(ranges)
	slices.SortFunc(sorted, func(a, b Range) int { return int(a.Lo) - int(b.Lo) })
	var out Set
	for _, r := range sorted {
		if r.Lo > r.Hi {
			continue
		}
		if n := len(out); n > 0 && r.Lo <= out[n-1].Hi+1 {
			out[n-1].Hi = max(out[n-1].Hi, r.Hi)
			continue
		}
		out = append(out, r)
	}
	return out
}

// Rune returns the set of one code point.
func Rune(r rune) Set { return Set{{r, r}} }

// Any returns the set of all code points.
func Any() Set { return Set{{0, utf8.MaxRune}} }

// Has reports whether r is in the set, in O(log n).
func (s Set) Has(r rune) bool {
	_, found := slices.BinarySearchFunc(s, r, func(x Range, r rune) int {
		switch {
		case x.Hi < r:
			return -1
		case x.Lo > r:
			return 1
		}
		return 0
	})
	return found
}

// Union returns the code points in s or in any of the others.
func (s Set) Union(others ...Set) Set {
	all := slices.Clone(s)
	for _, o := range others {
		all = append(all, o...)
	}
	return Of(all...)
}

// Negate returns the code points not in s.
func (s Set) Negate() Set {
	var out Set
	next := rune(0)
	for _, r := range s {
		if r.Lo > next {
			out = append(out, Range{next, r.Lo - 1})
		}
		next = r.Hi + 1
	}
	if next <= utf8.MaxRune {
		out = append(out, Range{next, utf8.MaxRune})
	}
	return out
}

// Intersect returns the code points in both sets.
func (s Set) Intersect(o Set) Set {
	return s.Negate().Union(o.Negate()).Negate()
}

// Disjoint reports whether the sets have no code point in common.
func (s Set) Disjoint(o Set) bool {
	for i, j := 0, 0; i < len(s) && j < len(o); {
		switch {
		case s[i].Hi < o[j].Lo:
			i++
		case o[j].Hi < s[i].Lo:
			j++
		default:
			return false
		}
	}
	return true
}

// Table is a Set compiled for constant-time membership tests. It takes about 9 KB plus 32 bytes for each
// distinct block of 256 code points.
type Table struct {
	// ASCII[b] is membership of the code point b for b < 0x80, and false above.
	ASCII [256]bool
	index [utf8.MaxRune>>8 + 1]uint16
	pages [][4]uint64
}

// Compile builds the table of s.
func (s Set) Compile() *Table {
	t := &Table{}
	seen := map[[4]uint64]uint16{}
	i := 0
	for block := range t.index {
		lo, hi := rune(block)<<8, rune(block)<<8|0xFF
		var page [4]uint64
		for i < len(s) && s[i].Hi < lo {
			i++
		}
		for j := i; j < len(s) && s[j].Lo <= hi; j++ {
			for r := max(s[j].Lo, lo); r <= min(s[j].Hi, hi); r++ {
				page[r>>6&3] |= 1 << (r & 63)
			}
		}
		at, ok := seen[page]
		if !ok {
			at = uint16(len(t.pages))
			seen[page] = at
			t.pages = append(t.pages, page)
		}
		t.index[block] = at
	}
	for b := range 0x80 {
		t.ASCII[b] = t.Has(rune(b))
	}
	return t
}

// Has reports whether r, a valid code point, is in the set.
func (t *Table) Has(r rune) bool {
	return t.pages[t.index[r>>8]][r>>6&3]>>(r&63)&1 != 0
}
