package guide

import (
	"cmp"
	"slices"
	"sort"
)

// A run is a stretch of text out of one simple language: the characters of a JSON string, or characters of one class
// that a repetition reads ([^"\\]*). What a token does to a run depends on the language only: it stays inside, or
// reads some characters of the run and goes on with a suffix that does not belong to it.

// runKey says what a token does to a run.
type runKey struct {
	leaves bool
	end    int16  // state of the run's automaton after a token that stays inside
	chars  int32  // characters of the run that the token begins
	suffix string // what follows them, if it leaves
}

// runGroups has the tokens by what they do to a run from one state of its automaton.
type runGroups map[runKey][]int32

// runState is runGroups prepared for masks.
type runState struct {
	inside []insideGroup
	leave  []leaveGroup
	// settled has the tokens of inside that end between characters, the large majority; charsMax is the most
	// characters one of them begins, and atMost[k] has those that begin at most k.
	settled  []uint32
	charsMax int32
	atMost   [][]uint32
}

// insideGroup has the tokens that stay inside the run, begin chars characters and end in state end.
type insideGroup struct {
	end   int16
	chars int32
	ids   []int32
}

// leaveGroup has the tokens that read chars characters, leave the run and go on with a suffix.
type leaveGroup struct {
	suffix int32 // index in the suffix table, or -1 for none
	chars  int32
	ids    []int32
}

// atMostCount is the number of masks by length that are prepared.
const atMostCount = 17

// suffixTable has the distinct suffixes of the tokens that leave a run, as a trie whose values index them.
type suffixTable struct {
	trie  *trie
	index map[string]int32
	none  []int32 // costs after each suffix where none can be read
}

func newSuffixTable(groups ...runGroups) *suffixTable {
	seen := map[string]bool{}
	var words [][]byte
	for _, g := range groups {
		for key := range g {
			if key.suffix != "" && !seen[key.suffix] {
				seen[key.suffix] = true
				words = append(words, []byte(key.suffix))
			}
		}
	}
	slices.SortFunc(words, slices.Compare)
	t := &suffixTable{trie: newTrie(words), index: map[string]int32{"": -1}}
	for i, w := range words {
		t.index[string(w)] = int32(i)
	}
	t.none = slices.Repeat([]int32{costInfinite}, len(words))
	return t
}

func (s *runState) fill(maskWords int, groups runGroups, suffixes *suffixTable) {
	s.settled = make([]uint32, maskWords)
	for key, ids := range groups {
		if key.leaves {
			s.leave = append(s.leave, leaveGroup{suffix: suffixes.index[key.suffix], chars: key.chars, ids: ids})
			continue
		}
		s.inside = append(s.inside, insideGroup{end: key.end, chars: key.chars, ids: ids})
		if key.end != 0 {
			continue
		}
		s.charsMax = max(s.charsMax, key.chars)
		for _, id := range ids {
			setBit(s.settled, id)
		}
	}
	slices.SortFunc(s.inside, func(a, b insideGroup) int {
		return cmp.Or(cmp.Compare(a.chars, b.chars), cmp.Compare(a.end, b.end))
	})
	slices.SortFunc(s.leave, func(a, b leaveGroup) int {
		return cmp.Or(cmp.Compare(a.suffix, b.suffix), cmp.Compare(a.chars, b.chars))
	})
}

// fillAtMost prepares masks by length, for states in which so many tokens settle that listing them takes time.
func (s *runState) fillAtMost(maskWords int) {
	for k := range atMostCount {
		mask := make([]uint32, maskWords)
		if k > 0 {
			copy(mask, s.atMost[k-1])
		}
		for _, g := range s.inside[s.firstWith(int32(k)):s.firstWith(int32(k+1))] {
			if g.end == 0 {
				for _, id := range g.ids {
					setBit(mask, id)
				}
			}
		}
		s.atMost = append(s.atMost, mask)
	}
}

// firstWith returns the first group of inside with at least chars characters.
func (s *runState) firstWith(chars int32) int {
	return sort.Search(len(s.inside), func(i int) bool { return s.inside[i].chars >= chars })
}

// orSettled sets the tokens that end between characters and begin at most room characters.
func (s *runState) orSettled(mask []uint32, room int32) {
	if room >= s.charsMax {
		orMask(mask, s.settled)
		return
	}
	from := int32(0)
	if s.atMost != nil {
		k := min(room, atMostCount-1)
		orMask(mask, s.atMost[k])
		from = k + 1
	}
	for _, g := range s.inside[s.firstWith(from):s.firstWith(room+1)] {
		if g.end != 0 {
			continue
		}
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

// runTable has what the tokens of a vocabulary do to runs of one character class, from between characters.
type runTable struct {
	state    runState
	suffixes *suffixTable
}

// runRunesMin is the size of a class from which a table pays: few tokens consist of smaller ones, such as digits.
const runRunesMin = 24

// runTablesMax bounds the tables that a vocabulary keeps, about a megabyte each at 128k tokens.
const runTablesMax = 48

// runTable returns the table of a class, built when it is first asked for and shared by all grammars.
func (l *lexicon) runTable(d *classDFA) *runTable {
	key := d.set.key()
	l.runsLock.Lock()
	defer l.runsLock.Unlock()
	if t, ok := l.runs[key]; ok {
		return t
	}
	groups := l.classGroups(d)
	t := &runTable{suffixes: newSuffixTable(groups)}
	t.state.fill(l.maskWords, groups, t.suffixes)
	t.state.fillAtMost(l.maskWords)
	if len(l.runs) >= runTablesMax {
		clear(l.runs)
	}
	l.runs[key] = t
	return t
}

// classGroups runs every token from between characters of a class.
func (l *lexicon) classGroups(d *classDFA) runGroups {
	type at struct {
		q     int16
		chars int32 // begun
		start int   // depth at which the last one began
	}
	groups := runGroups{}
	stack := make([]at, l.trie.depth+1)
	text := make([]byte, l.trie.depth+1)
	leftAt := 0 // depth of the byte that left the run on the current path
	nodes := l.trie.nodes
	for i := 0; i < len(nodes); {
		n := &nodes[i]
		depth := int(n.depth)
		text[depth] = n.b
		if leftAt >= depth {
			leftAt = 0
		}
		here := stack[depth-1]
		if leftAt == 0 {
			if here.q == 0 {
				here.start = depth
			}
			switch to := d.next[here.q][n.b]; to {
			case byteReject:
				leftAt = depth
				if here.q != 0 {
					here.chars-- // the character that began is not of the class
				}
			case byteAccept:
				here.chars, here.q = here.chars+b2i(here.q == 0), 0
			default:
				here.chars, here.q = here.chars+b2i(here.q == 0), to
			}
		}
		if leftAt > 0 && here.chars == 0 {
			leftAt = 0
			i = int(n.end)
			continue
		}
		stack[depth] = here
		if n.value >= 0 {
			groups.add(here.q, here.chars, string(text[here.start:depth+1]), leftAt > 0, l.same[n.value])
		}
		i++
	}
	return groups
}

// add records tokens. rest is the text from the last character on; a token that ends within a character may stay in
// the run, or leave it with another character that begins alike.
func (g runGroups) add(q int16, chars int32, rest string, left bool, ids []int32) {
	if left {
		key := runKey{leaves: true, chars: chars, suffix: rest}
		g[key] = append(g[key], ids...)
		return
	}
	key := runKey{end: q, chars: chars}
	g[key] = append(g[key], ids...)
	if q != 0 && chars > 1 {
		key := runKey{leaves: true, chars: chars - 1, suffix: rest}
		g[key] = append(g[key], ids...)
	}
}

func b2i(b bool) int32 {
	if b {
		return 1
	}
	return 0
}
