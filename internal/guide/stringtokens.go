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

func newStringTokens(v *Vocabulary) *stringTokens {
	t := &stringTokens{closeCost: stringCosts(&v.single), charCost: costInfinite}
	for b, to := range stringDFA[strBoundary] {
		if to == strBoundary && v.single[b] {
			t.charCost = 1
		}
	}
	var groups [strStates]runGroups
	for q := range groups {
		groups[q] = v.stringGroups(q)
	}
	t.suffixes = newSuffixTable(groups[:]...)
	for q := range groups {
		t.states[q].fill(v, groups[q], t.suffixes)
	}
	t.states[strBoundary].fillAtMost(v)
	return t
}

// stringGroups runs every token from state q.
func (v *Vocabulary) stringGroups(q int) runGroups {
	type at struct {
		state int8
		chars int32
	}
	groups := runGroups{}
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
			groups[key] = append(groups[key], v.same[n.value]...)
		}
		i++
	}
	return groups
}
