package tokenizers

import (
	"fmt"
	"math"
	"sync"
	"unicode/utf8"
)

// unkPenalty is how much an unknown character costs more than the worst token.
const unkPenalty = 10

// unigram is the unigram language model of sentencepiece (Kudo, https://arxiv.org/abs/1804.10959): of all
// ways to cut a piece into tokens it takes the one of the highest total score.
type unigram struct {
	vocab
	scores       []float64
	unkScore     float64
	unk          int32 // -1 if there is none
	byteFallback bool
	fallbackIDs  [256]int32
	trie         *trie
	cache        *pieceCache
	scratch      sync.Pool
}

// pathNode is the best way to a position of the piece.
type pathNode struct {
	score float64
	start int32 // of the last token on that way, or -1 if there is no way
	id    int32
}

func loadUnigram(o object) (*unigram, error) {
	m := &unigram{unk: -1, cache: newPieceCache()}
	m.scratch.New = func() any { return new([]pathNode) }
	var err error
	if m.byteFallback, err = o.flag("byte_fallback", false); err != nil {
		return nil, err
	}
	if err := m.loadScores(o.at("vocab")); err != nil {
		return nil, err
	}
	if v := o.at("unk_id"); !v.isNull() {
		id, err := v.integer(maxID)
		if err != nil {
			return nil, err
		}
		if int(id) >= len(m.scores) {
			return nil, v.errorf("id %d is not in the vocabulary of %d tokens", id, len(m.scores))
		}
		m.unk = int32(id)
	}
	for b := range 256 {
		m.fallbackIDs[b] = -1
		if id, ok := m.ids[byteTokenName(byte(b))]; ok {
			m.fallbackIDs[b] = id
		}
	}
	keys := make(map[string]int32, len(m.ids))
	for token, id := range m.ids {
		if token != "" {
			keys[token] = id
		}
	}
	m.trie = newTrie(keys)
	return m, nil
}

// loadScores reads [["token", score], …]; the position is the id. Of a repeated token the last counts.
func (m *unigram) loadScores(v value) error {
	m.ids = map[string]int32{}
	lowest := math.Inf(1)
	err := v.items(func(i int, item value) error {
		item.path = v.element(i)
		pair, err := item.list()
		if err != nil {
			return err
		}
		if len(pair) != 2 {
			return item.errorf(`want ["token", score]`)
		}
		token, err := pair[0].str()
		if err != nil {
			return err
		}
		if len(token) > maxTokenBytes {
			return item.errorf("token has %d bytes, more than the %d supported", len(token), maxTokenBytes)
		}
		score, err := pair[1].float()
		if err != nil {
			return err
		}
		m.ids[token] = int32(i)
		m.tokens, m.known = append(m.tokens, token), append(m.known, true)
		m.scores = append(m.scores, score)
		lowest = min(lowest, score)
		return nil
	})
	m.unkScore = lowest - unkPenalty
	return err
}

func (m *unigram) size() int { return len(m.scores) }

func (m *unigram) tokenize(piece string, ids []int32) ([]int32, error) {
	if len(piece) > maxCachedBytes {
		return m.search(piece, ids)
	}
	slot, cached, ok := m.cache.lookup(piece)
	if ok {
		return append(ids, cached...), nil
	}
	start := len(ids)
	ids, err := m.search(piece, ids)
	if err == nil {
		m.cache.store(slot, piece, ids[start:])
	}
	return ids, err
}

// search is the Viterbi algorithm over the positions of the piece.
func (m *unigram) search(piece string, ids []int32) ([]int32, error) {
	scratch := m.scratch.Get().(*[]pathNode)
	defer m.scratch.Put(scratch)
	best := grown(*scratch, len(piece)+1)
	*scratch = best
	for i := range best {
		best[i] = pathNode{start: -1}
	}
	reach := func(from, to int, id int32, score float64) {
		node := &best[to]
		if score += best[from].score; node.start < 0 || score > node.score {
			*node = pathNode{score, int32(from), id}
		}
	}
	for at := 0; at < len(piece); {
		_, width := utf8.DecodeRuneInString(piece[at:])
		single := false
		node := m.trie.root[piece[at]]
		for end := at + 1; node != 0; end++ {
			if id := m.trie.nodes[node].value; id >= 0 {
				reach(at, end, id, m.scores[id])
				single = single || end-at == width
			}
			if end == len(piece) {
				break
			}
			node = m.trie.child(node, piece[end])
		}
		if !single {
			if m.unk < 0 {
				return nil, fmt.Errorf("character %q is not in the vocabulary, and model.unk_id is not set", piece[at:at+width])
			}
			reach(at, at+width, m.unk, m.unkScore)
		}
		at += width
	}
	return m.backtrack(piece, best, ids), nil
}

// backtrack appends the ids on the best way to the end. Unknown tokens in a row are one.
func (m *unigram) backtrack(piece string, best []pathNode, ids []int32) []int32 {
	// The way is walked from its end; reversing links in place makes it walkable from its beginning.
	for at, after := int32(len(piece)), int32(-1); at >= 0; {
		start := best[at].start
		best[at].start = after
		after = at
		if at == 0 {
			break
		}
		at = start
	}
	for at := int32(0); int(at) < len(piece); {
		end := best[at].start
		id := best[end].id
		if id != m.unk {
			ids = append(ids, id) // its text is a key of the vocabulary
			at = end
			continue
		}
		for int(end) < len(piece) && best[best[end].start].id == m.unk {
			end = best[end].start
		}
		ids = m.appendUnknown(piece[at:end], ids)
		at = end
	}
	return ids
}

func (m *unigram) appendUnknown(text string, ids []int32) []int32 {
	if id, ok := m.ids[text]; ok {
		return append(ids, id)
	}
	if m.byteFallback {
		start := len(ids)
		for i := range len(text) {
			id := m.fallbackIDs[text[i]]
			if id < 0 {
				return append(ids[:start], m.unk)
			}
			ids = append(ids, id)
		}
		return ids
	}
	return append(ids, m.unk)
}
