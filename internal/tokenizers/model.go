package tokenizers

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// model turns pieces of text into ids. Implementations are safe for concurrent use.
type model interface {
	// tokenize appends the ids of a piece.
	tokenize(piece string, ids []int32) ([]int32, error)
	// id and token look up the model's own vocabulary, and size counts it.
	id(token string) (int32, bool)
	token(id int32) (string, bool)
	size() int
}

func loadModel(v value) (model, error) {
	o, err := v.object()
	if err != nil {
		return nil, err
	}
	kind, err := modelKind(o)
	if err != nil {
		return nil, err
	}
	switch kind {
	case "BPE":
		return loadBPE(o)
	case "Unigram":
		return loadUnigram(o)
	case "WordPiece":
		return loadWordPiece(o)
	case "WordLevel":
		return loadWordLevel(o)
	}
	return nil, o.at("type").errorf("model %.40q is not supported", kind)
}

// modelKind returns the type of a model, which files from before 2020 do not state.
func modelKind(o object) (string, error) {
	if t := o.at("type"); t.raw != "" {
		return t.str()
	}
	switch {
	case o.at("merges").raw != "":
		return "BPE", nil
	case o.at("max_input_chars_per_word").raw != "":
		return "WordPiece", nil
	case o.at("vocab").isArray():
		return "Unigram", nil
	case o.at("vocab").isObject():
		return "WordLevel", nil
	}
	return "", o.at("type").want("a model type")
}

// wordPiece is greedy longest-match-first tokenization, as in BERT.
type wordPiece struct {
	vocab
	unk      string
	prefix   string // of the parts of a word but the first
	maxChars int    // of a word; longer ones are unknown
	// whole and rest find a word's first part and, without the prefix, the following ones.
	whole, rest *trie
}

func loadWordPiece(o object) (*wordPiece, error) {
	m := &wordPiece{}
	var err error
	if m.unk, err = o.at("unk_token").str(); err != nil {
		return nil, err
	}
	if m.prefix, err = o.at("continuing_subword_prefix").str(); err != nil {
		return nil, err
	}
	maxChars, err := o.at("max_input_chars_per_word").integer(maxID)
	if err != nil {
		return nil, err
	}
	m.maxChars = int(maxChars)
	if m.vocab, err = loadVocab(o.at("vocab")); err != nil {
		return nil, err
	}
	whole, rest := map[string]int32{}, map[string]int32{}
	for token, id := range m.ids {
		if len(token) > maxTokenBytes {
			return nil, tokenTooLong(o.at("vocab"), token)
		}
		if token != "" {
			whole[token] = id
		}
		if part, ok := strings.CutPrefix(token, m.prefix); ok && part != "" {
			rest[part] = id
		}
	}
	m.whole, m.rest = newTrie(whole), newTrie(rest)
	return m, nil
}

func tokenTooLong(v value, token string) error {
	return value{path: v.member(token)}.errorf("token has %d bytes, more than the %d supported", len(token), maxTokenBytes)
}

func (m *wordPiece) tokenize(piece string, ids []int32) ([]int32, error) {
	start := len(ids)
	t := m.whole
	bad := utf8.RuneCountInString(piece) > m.maxChars
	for at := 0; at < len(piece) && !bad; t = m.rest {
		length, id := t.longest(piece[at:])
		bad = length == 0
		ids = append(ids, id)
		at += length
	}
	if !bad {
		return ids, nil
	}
	unk, ok := m.id(m.unk)
	if !ok {
		return nil, fmt.Errorf("word %.40q is not in the vocabulary, nor is the unknown token %q", piece, m.unk)
	}
	return append(ids[:start], unk), nil
}

// wordLevel looks up whole pieces.
type wordLevel struct {
	vocab
	unk string
}

func loadWordLevel(o object) (*wordLevel, error) {
	m := &wordLevel{}
	var err error
	if m.unk, err = o.at("unk_token").str(); err != nil {
		return nil, err
	}
	m.vocab, err = loadVocab(o.at("vocab"))
	return m, err
}

func (m *wordLevel) tokenize(piece string, ids []int32) ([]int32, error) {
	id, ok := m.id(piece)
	if !ok {
		if id, ok = m.id(m.unk); !ok {
			return nil, fmt.Errorf("word %.40q is not in the vocabulary, nor is the unknown token %q", piece, m.unk)
		}
	}
	return append(ids, id), nil
}
