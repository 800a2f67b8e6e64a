package guide

import (
	"bytes"
	"fmt"
	"slices"
	"sync"
)

// Vocabulary is what guiding needs to know of a model: the bytes of its tokens, as a trie, and which tokens end an
// answer. It is built once per model, is safe for concurrent use.
type Vocabulary struct {
	size int
	end  []int32
	// text holds the bytes of each token, nil for those that are never allowed.
	text [][]byte
	lexicon
	// single says which bytes are tokens of their own.
	single   [256]bool
	complete bool // all of them are
	quoted   quoted
}

// lexicon is a set of texts that tokens add, with the tables that are made of them.
type lexicon struct {
	maskWords int
	// trie holds the texts; its values index same, which has the ids of the tokens with equal texts.
	trie *trie
	same [][]int32
	str  *stringTokens
	// behind has, for a blank and for punctuation, what follows it in texts that begin with it, if they are many:
	// those with a blank are half of many vocabularies. A walk that meets a run there uses its tables.
	behind map[byte]*lexicon

	runsLock sync.Mutex // guards runs
	runs     map[string]*runTable
}

// behindMin is the number of texts with the same first byte from which tables for what follows it pay.
const behindMin = 512

// prepare fills the tables of a lexicon that has its trie.
func (l *lexicon) prepare(single *[256]bool) {
	l.runs = map[string]*runTable{}
	l.str = newStringTokens(l, single)
}

// isSeparator reports whether words often begin behind a byte.
func isSeparator(b byte) bool {
	return b < 0x80 && !(b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9')
}

// newBehind makes the lexicon of what follows first in those of the words, which are sorted, that begin with it; nil
// if they are few.
func (l *lexicon) newBehind(first byte, words [][]byte) *lexicon {
	out := &lexicon{maskWords: l.maskWords}
	var tails [][]byte
	for i, word := range words {
		if word[0] == first && len(word) > 1 {
			tails = append(tails, word[1:])
			out.same = append(out.same, l.same[i])
		}
	}
	if len(tails) < behindMin {
		return nil
	}
	out.trie = newTrie(tails)
	return out
}

// NewVocabulary prepares a vocabulary. tokens[id] holds the bytes that the token adds to the text; nil or empty
// means that it is never allowed, as for special tokens. end lists the tokens that end an answer; they are allowed
// where the text is complete, whatever their bytes. It errs if there are no tokens or an end token is out of range.
func NewVocabulary(tokens [][]byte, end []int32) (*Vocabulary, error) {
	v := &Vocabulary{size: len(tokens), end: slices.Clone(end), text: make([][]byte, len(tokens))}
	isEnd := map[int32]bool{}
	for _, id := range end {
		if id < 0 || int(id) >= len(tokens) {
			return nil, fmt.Errorf("guide: end token %d is not among the %d tokens of the vocabulary", id, len(tokens))
		}
		isEnd[id] = true
	}
	var ids []int32
	for id, text := range tokens {
		if len(text) > 0 && len(text) <= tokenBytesMax && !isEnd[int32(id)] {
			ids = append(ids, int32(id))
			v.text[id] = slices.Clone(text)
			v.quoted.add(int32(id), text)
		}
	}
	if len(ids) == 0 {
		return nil, fmt.Errorf("guide: no token of the vocabulary has text")
	}
	slices.SortStableFunc(ids, func(a, b int32) int { return bytes.Compare(tokens[a], tokens[b]) })
	var words [][]byte
	for i := 0; i < len(ids); {
		word, j := tokens[ids[i]], i
		for j < len(ids) && bytes.Equal(tokens[ids[j]], word) {
			j++
		}
		words = append(words, word)
		v.same = append(v.same, ids[i:j:j])
		if len(word) == 1 {
			v.single[word[0]] = true
		}
		i = j
	}
	v.trie = newTrie(words)
	v.complete = !slices.Contains(v.single[:], false)
	v.maskWords = v.MaskWords()
	v.prepare(&v.single)
	v.behind = map[byte]*lexicon{}
	for b := range 256 {
		if !isSeparator(byte(b)) {
			continue
		}
		if l := v.newBehind(byte(b), words); l != nil {
			l.prepare(&v.single)
			v.behind[byte(b)] = l
		}
	}
	return v, nil
}

// Size returns the number of tokens.
func (v *Vocabulary) Size() int { return v.size }

func (v *Vocabulary) isEnd(token int32) bool { return slices.Contains(v.end, token) }

// MaskWords returns the length of a mask: one bit per token, 32 to a word.
func (v *Vocabulary) MaskWords() int { return (v.size + 31) / 32 }

// trie is a prefix tree laid out in preorder, so that a walk reads memory forward and skips a subtree by one jump.
type trie struct {
	nodes []trieNode
	depth int // of the deepest node; the root's children have 1
}

type trieNode struct {
	end   int32 // index after the last node of the subtree
	value int32 // index of the word that ends here, or -1
	depth uint16
	b     byte
}

// newTrie builds a trie of sorted, distinct, non-empty words.
func newTrie(words [][]byte) *trie {
	t := &trie{}
	var path []int32 // node of each byte of the previous word
	var previous []byte
	closeTo := func(depth int) {
		for len(path) > depth {
			t.nodes[path[len(path)-1]].end = int32(len(t.nodes))
			path = path[:len(path)-1]
		}
	}
	for i, word := range words {
		common := 0
		for common < len(word) && common < len(previous) && word[common] == previous[common] {
			common++
		}
		closeTo(common)
		for depth := common; depth < len(word); depth++ {
			path = append(path, int32(len(t.nodes)))
			t.nodes = append(t.nodes, trieNode{value: -1, depth: uint16(depth + 1), b: word[depth]})
		}
		t.nodes[path[len(path)-1]].value = int32(i)
		t.depth = max(t.depth, len(word))
		previous = word
	}
	closeTo(0)
	return t
}

// setBit sets the bit of a token.
func setBit(mask []uint32, id int32) { mask[id>>5] |= 1 << (id & 31) }
