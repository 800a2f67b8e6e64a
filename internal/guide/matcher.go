package guide

import "fmt"

// Matcher follows one answer. It is for one goroutine at a time.
type Matcher struct {
	g     *Grammar
	at    *set
	ended bool // an end token was accepted

	names  *names // nil unless there are names that no schema declares
	forced bool   // the last mask had no way but to repeat a name
}

// Mask overwrites allowed (Vocabulary.MaskWords words; bit id%32 of word id/32) with the tokens that may come next.
// End tokens are allowed where the text is complete; after one, nothing is.
//
// budget is the number of tokens that may still be sampled, this one included. Only tokens are allowed after which
// the answer can be completed within the rest. If budget is too small even now, which cannot happen when it began
// at Grammar.MinTokens or above, the tokens on the shortest way to the end are allowed, so that a mask is never empty.
func (m *Matcher) Mask(allowed []uint32, budget int) {
	if len(allowed) != m.g.v.MaskWords() {
		panic(fmt.Sprintf("guide: a mask of %d words for a vocabulary that needs %d", len(allowed), m.g.v.MaskWords()))
	}
	if m.ended {
		clear(allowed)
		return
	}
	g := m.g
	g.mu.Lock()
	m.refresh()
	// A set with cost c > 0 has a token to a set with cost c-1 at most, so the limit always lets one in.
	limit := int32(max(min(budget-1, costInfinite-1), int(m.at.cost)-1))
	known := g.m.maskOf(m.at)
	g.mu.Unlock()
	m.forced = false
	if m.names == nil || !m.names.any() {
		known.copyTo(allowed, limit)
		return
	}
	m.maskNames(known, allowed, limit)
}

// maskNames copies a mask without the tokens that repeat a name. Costs do not know that a name may not end where it
// is one that was used, and it takes a token more to make it another. So one is kept in reserve; where there is none,
// names are left alone that may not end.
func (m *Matcher) maskNames(known *mask, allowed []uint32, limit int32) {
	known.copyTo(allowed, limit-1)
	m.names.forbid(m.g.v, allowed)
	if anyBit(allowed) {
		return
	}
	known.copyTo(allowed, limit)
	m.names.forbid(m.g.v, allowed)
	m.names.forbidOpen(m.g.v, allowed)
	if m.forced = !anyBit(allowed); m.forced { // a pattern has no further names
		known.copyTo(allowed, limit)
	}
}

// refresh drops the grammar's memory if it is full, and brings the matcher's state into the current one.
func (m *Matcher) refresh() {
	if m.g.m.bytes > cacheBytesMax {
		m.g.m.forget()
	}
	m.at = m.g.m.adopt(m.at)
}

// Accept advances the matcher by a sampled token. It returns an error, and does not advance, if the constraint does
// not allow the token here. It does not know of budgets.
func (m *Matcher) Accept(token int32) error {
	v := m.g.v
	if token < 0 || int(token) >= v.size {
		return fmt.Errorf("guide: token %d is not in the vocabulary of %d", token, v.size)
	}
	if m.ended {
		return fmt.Errorf("guide: token %d after the end of the answer", token)
	}
	if v.isEnd(token) {
		if !m.at.complete {
			return fmt.Errorf("guide: end token %d before the answer is complete", token)
		}
		m.ended = true
		return nil
	}
	text := v.text[token]
	if m.names != nil && !m.forced {
		if repeats, _ := m.names.repeats(text); repeats {
			return fmt.Errorf("guide: token %d (%q) would repeat a name of its object", token, text)
		}
	}
	m.g.mu.Lock()
	defer m.g.mu.Unlock()
	m.refresh()
	at := m.at
	for _, b := range text {
		if at = m.g.m.step(at, b); at == dead {
			break
		}
	}
	if len(text) == 0 || at.cost >= costInfinite {
		return fmt.Errorf("guide: token %d (%q) is not allowed here", token, text)
	}
	m.at = at
	if m.names != nil {
		m.names.accept(text)
	}
	return nil
}

// Complete reports whether the text so far is a whole answer.
func (m *Matcher) Complete() bool { return m.at.complete }

// MinTokens returns a number of tokens that is enough to complete the answer from here; 0 if it is complete.
func (m *Matcher) MinTokens() int { return int(m.at.cost) }

// Clone returns a matcher that goes on independently from here.
func (m *Matcher) Clone() *Matcher {
	out := *m
	if m.names != nil {
		out.names = m.names.clone()
	}
	return &out
}
