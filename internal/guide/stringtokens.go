package guide

import (
	"cmp"
	"slices"
	"sort"
)

// stringTokens holds, for each state of the JSON string automaton, what every token of the vocabulary does there.
// It is why masks inside strings cost microseconds even when a grammar is new: most of a vocabulary stays inside
// the string, and of the tokens that close it only the distinct texts after the quote have to be tried (a few
// hundred, against 128k tokens). llguidance's slices precompute the first half of this.
type stringTokens struct {
	states [strStates]stringState
	// suffixes is the trie of the texts after a closing quote; values index the suffix costs of a set.
	suffixes    *trie
	suffixCount int
	// closeCost[q] completes the character in progress; charCost writes one character. In single-byte tokens.
	closeCost [strStates]int32
	charCost  int32
}

type stringState struct {
	inside []insideGroup
	quoted []quotedGroup
	// insideMask has the tokens of all groups of inside; charsMax is the most characters one of them begins.
	insideMask []uint32
	charsMax   int32
	// atMost[k] has the tokens that begin at most k characters; only for strBoundary, where they are many.
	atMost [][]uint32
}

// insideGroup has the tokens that stay inside the string, begin chars characters and end in state end.
type insideGroup struct {
	end   int8
	chars int32
	ids   []int32
}

// quotedGroup has the tokens that begin chars characters, close the string, and go on with a suffix.
type quotedGroup struct {
	suffix int32 // index of the text after the quote, or -1 for none
	chars  int32
	ids    []int32
}

// atMostCount is the number of masks by length that are prepared.
const atMostCount = 17

type groupKey struct {
	kind  int8 // state at the end, or byteAccept
	chars int32
	rest  string
}

func newStringTokens(v *Vocabulary) *stringTokens {
	t := &stringTokens{closeCost: stringCosts(&v.single), charCost: costInfinite}
	for b, to := range stringDFA[strBoundary] {
		if to == strBoundary && v.single[b] {
			t.charCost = 1
		}
	}
	var groups [strStates]map[groupKey][]int32
	rests := map[string]bool{}
	for q := range groups {
		groups[q] = v.stringGroups(q)
		for key := range groups[q] {
			if key.rest != "" {
				rests[key.rest] = true
			}
		}
	}
	var words [][]byte
	for rest := range rests {
		words = append(words, []byte(rest))
	}
	slices.SortFunc(words, slices.Compare)
	index := map[string]int32{"": -1}
	for i, w := range words {
		index[string(w)] = int32(i)
	}
	t.suffixes, t.suffixCount = newTrie(words), len(words)
	for q := range groups {
		t.states[q].fill(v, groups[q], index)
	}
	t.states[strBoundary].fillAtMost(v)
	return t
}

// stringGroups runs every token from state q.
func (v *Vocabulary) stringGroups(q int) map[groupKey][]int32 {
	type at struct {
		state int8
		chars int32
	}
	groups := map[groupKey][]int32{}
	stack := make([]at, v.trie.depth+1)
	stack[0] = at{state: int8(q)}
	text := make([]byte, v.trie.depth+1)
	closedAt := 0 // depth of the quote that closed the string on the current path
	nodes := v.trie.nodes
	for i := 0; i < len(nodes); {
		n := &nodes[i]
		d := int(n.depth)
		text[d] = n.b
		if closedAt >= d {
			closedAt = 0
		}
		key := groupKey{kind: byteAccept}
		if closedAt > 0 {
			key.chars, key.rest = stack[closedAt].chars, string(text[closedAt+1:d+1])
		} else {
			from := stack[d-1]
			to := stringDFA[from.state][n.b]
			if to == byteReject {
				i = int(n.end)
				continue
			}
			if from.state == strBoundary && to != byteAccept {
				from.chars++
			}
			stack[d] = at{state: to, chars: from.chars}
			if to == byteAccept {
				closedAt = d
			}
			key.kind, key.chars = to, from.chars
		}
		if n.value >= 0 {
			groups[key] = append(groups[key], v.same[n.value]...)
		}
		i++
	}
	return groups
}

func (s *stringState) fill(v *Vocabulary, groups map[groupKey][]int32, suffix map[string]int32) {
	s.insideMask = make([]uint32, v.MaskWords())
	for key, ids := range groups {
		if key.kind == byteAccept {
			s.quoted = append(s.quoted, quotedGroup{suffix: suffix[key.rest], chars: key.chars, ids: ids})
			continue
		}
		s.inside = append(s.inside, insideGroup{end: key.kind, chars: key.chars, ids: ids})
		s.charsMax = max(s.charsMax, key.chars)
		for _, id := range ids {
			setBit(s.insideMask, id)
		}
	}
	slices.SortFunc(s.inside, func(a, b insideGroup) int {
		return cmp.Or(cmp.Compare(a.chars, b.chars), cmp.Compare(a.end, b.end))
	})
	slices.SortFunc(s.quoted, func(a, b quotedGroup) int {
		return cmp.Or(cmp.Compare(a.suffix, b.suffix), cmp.Compare(a.chars, b.chars))
	})
}

func (s *stringState) fillAtMost(v *Vocabulary) {
	for k := range atMostCount {
		mask := make([]uint32, v.MaskWords())
		if k > 0 {
			copy(mask, s.atMost[k-1])
		}
		for _, g := range s.inside[s.firstWith(int32(k)):s.firstWith(int32(k+1))] {
			for _, id := range g.ids {
				setBit(mask, id)
			}
		}
		s.atMost = append(s.atMost, mask)
	}
}

// firstWith returns the first group of inside with at least chars characters.
func (s *stringState) firstWith(chars int32) int {
	return sort.Search(len(s.inside), func(i int) bool { return s.inside[i].chars >= chars })
}

// orInside sets the tokens that stay inside the string and begin at most room characters.
func (s *stringState) orInside(mask []uint32, room int32) {
	if room >= s.charsMax {
		orMask(mask, s.insideMask)
		return
	}
	from := int32(0)
	if s.atMost != nil {
		k := min(room, atMostCount-1)
		orMask(mask, s.atMost[k])
		from = k + 1
	}
	for _, g := range s.inside[s.firstWith(from):s.firstWith(room+1)] {
		for _, id := range g.ids {
			setBit(mask, id)
		}
	}
}

func orMask(mask, with []uint32) {
	mask = mask[:len(with)]
	for i, w := range with {
		mask[i] |= w
	}
}
