package guide

// stringTokens holds, for each state of the JSON string automaton, what every token of the vocabulary does there.
// It is why masks inside strings cost microseconds even when a grammar is new: most of a vocabulary stays inside
// the string, and of the tokens that close it only the distinct texts after the quote have to be tried (a few
// hundred, against 128k tokens). llguidance's slices precompute the first half of this.
type stringTokens struct {
	states   [strStates]runState
	suffixes *suffixTable // texts after a closing quote
	// closeCost[q] completes the character in progress; charCost writes one character. In single-byte tokens.
	closeCost [strStates]int32
	charCost  int32
}

func newStringTokens(l *lexicon, single *[256]bool) *stringTokens {
	t := &stringTokens{closeCost: stringCosts(single), charCost: costInfinite}
	for b, to := range stringDFA[strBoundary] {
		if to == strBoundary && single[b] {
			t.charCost = 1
		}
	}
	var groups [strStates]runGroups
	for q := range groups {
		groups[q] = l.stringGroups(q)
	}
	t.suffixes = newSuffixTable(groups[:]...)
	for q := range groups {
		t.states[q].fill(l.maskWords, groups[q], t.suffixes)
	}
	t.states[strBoundary].fillAtMost(l.maskWords)
	return t
}

// stringGroups runs every token from state q.
func (l *lexicon) stringGroups(q int) runGroups {
	type at struct {
		state int8
		chars int32
	}
	groups := runGroups{}
	stack := make([]at, l.trie.depth+1)
	stack[0] = at{state: int8(q)}
	text := make([]byte, l.trie.depth+1)
	closedAt := 0 // depth of the quote that closed the string on the current path
	nodes := l.trie.nodes
	for i := 0; i < len(nodes); {
		n := &nodes[i]
		d := int(n.depth)
		text[d] = n.b
		if closedAt >= d {
			closedAt = 0
		}
		key := runKey{leaves: true}
		if closedAt > 0 {
			key.chars, key.suffix = stack[closedAt].chars, string(text[closedAt+1:d+1])
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
			key.leaves, key.chars = to == byteAccept, from.chars
			if to != byteAccept {
				key.end = int16(to)
			}
		}
		if n.value >= 0 {
			groups[key] = append(groups[key], l.same[n.value]...)
		}
		i++
	}
	return groups
}
