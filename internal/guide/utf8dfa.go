package guide

import (
	"strings"
	"unicode/utf8"
)

// Transitions of a byte automaton that lead to no state of its own.
const (
	byteReject = -1
	byteAccept = -2
)

// classDFA reads one character of a set, byte by byte. State 0 is the start; the automaton ends with byteAccept.
type classDFA struct {
	set  runeSet
	next [][256]int16
	// cost[q] is the least number of single-byte tokens that complete the character from state q.
	cost []int32
}

type byteRange struct{ lo, hi byte }

// newClassDFA builds the automaton of a set. Equal suffixes share states, so that even \p{L} stays small.
func newClassDFA(set runeSet) *classDFA {
	var sequences [][]byteRange
	for _, r := range set {
		sequences = utf8Sequences(sequences, r.lo, r.hi)
	}
	d := &classDFA{set: set}
	d.build(sequences, map[string]int16{})
	return d
}

// build adds the state that reads one of the sequences and returns its number.
func (d *classDFA) build(sequences [][]byteRange, memo map[string]int16) int16 {
	var key strings.Builder
	for _, s := range sequences {
		for _, r := range s {
			key.WriteByte(r.lo)
			key.WriteByte(r.hi)
		}
		key.WriteByte(0) // no sequence of well-formed UTF-8 continues with 0
		key.WriteByte(byte(len(s)))
	}
	if state, ok := memo[key.String()]; ok {
		return state
	}
	state := int16(len(d.next))
	memo[key.String()] = state
	d.next = append(d.next, [256]int16{})
	var row [256]int16
	for b := range row {
		row[b] = byteReject
	}
	for i := 0; i < len(sequences); {
		// Sequences come in order of their code points, so those with equal first ranges are neighbours, and first
		// ranges are either equal or disjoint but for one-byte pieces of neighbouring ranges.
		r, j := sequences[i][0], i
		var tails [][]byteRange
		for ; j < len(sequences) && sequences[j][0] == r; j++ {
			if len(sequences[j]) > 1 {
				tails = append(tails, sequences[j][1:])
			}
		}
		to := int16(byteAccept)
		if tails != nil {
			to = d.build(tails, memo)
		}
		for b := int(r.lo); b <= int(r.hi); b++ {
			row[b] = to
		}
		i = j
	}
	d.next[state] = row
	return state
}

// utf8Sequences appends the sequences of byte ranges that together are the UTF-8 of lo..hi. Every sequence but the
// last byte's range is a single byte or covers all continuations, so first ranges never overlap partly.
func utf8Sequences(out [][]byteRange, lo, hi rune) [][]byteRange {
	for _, limit := range []rune{0x7F, 0x7FF, 0xFFFF} {
		if lo <= limit && limit < hi {
			out = utf8Sequences(out, lo, limit)
			return utf8Sequences(out, limit+1, hi)
		}
	}
	// Split where a lower byte does not run over all of its values.
	for i := 1; i < utf8.RuneLen(lo); i++ {
		mask := rune(1)<<(6*i) - 1
		if lo&^mask == hi&^mask {
			continue
		}
		if lo&mask != 0 {
			out = utf8Sequences(out, lo, lo|mask)
			return utf8Sequences(out, (lo|mask)+1, hi)
		}
		if hi&mask != mask {
			out = utf8Sequences(out, lo, hi&^mask-1)
			return utf8Sequences(out, hi&^mask, hi)
		}
	}
	var a, z [utf8.UTFMax]byte
	n := utf8.EncodeRune(a[:], lo)
	utf8.EncodeRune(z[:], hi)
	sequence := make([]byteRange, n)
	for i := range sequence {
		sequence[i] = byteRange{a[i], z[i]}
	}
	return append(out, sequence)
}

// setCosts fills cost for a vocabulary in which single[b] says that byte b is a token. Characters have at most four
// bytes, so four rounds settle all states.
func (d *classDFA) setCosts(single *[256]bool) {
	d.cost = make([]int32, len(d.next))
	for q := range d.cost {
		d.cost[q] = costInfinite
	}
	for range utf8.UTFMax {
		for q := range d.next {
			for b, to := range d.next[q] {
				if to == byteReject || !single[b] {
					continue
				}
				cost := int32(1)
				if to != byteAccept {
					cost = addCost(1, d.cost[to])
				}
				d.cost[q] = min(d.cost[q], cost)
			}
		}
	}
}
