package tokenizers

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"unicode/utf8"
)

// Tokenizer turns text into ids and back, as a tokenizer.json describes. It is immutable and safe for
// concurrent use.
type Tokenizer struct {
	normalizer    normalizer // nil is none
	preTokenizers []preTokenizer
	model         model
	added         *addedVocab
	// result is the order of the text's ids and fixed ids, without and with special tokens.
	result     [2][]part
	truncation *truncation
	decoder    decoder
	decoded    []decodedToken // by id
	scratch    sync.Pool      // of *encodeScratch
}

// decodedToken is what a token's id stands for in decoding.
type decodedToken struct {
	text           string
	known, special bool
}

// encodeScratch is the working memory of encoding one text.
type encodeScratch struct{ pieces, next []piece }

// Encode returns the ids of text; with addSpecialTokens, those that the post-processor adds are included.
// Special tokens that are spelled out in the text are recognized either way. Invalid UTF-8 in text is taken as
// Python's bytes.decode("utf-8", "replace") takes it: each maximal invalid part as one U+FFFD.
//
// An error means that the tokenizer cannot encode this text: a character is neither in the vocabulary nor
// covered by an unknown token, or a pattern of the file backtracks without end on it.
func (t *Tokenizer) Encode(text string, addSpecialTokens bool) ([]int32, error) {
	s := t.scratch.Get().(*encodeScratch)
	defer t.putScratch(s)
	if err := t.extract(s, validText(text)); err != nil {
		return nil, err
	}
	if err := t.preTokenize(s); err != nil {
		return nil, err
	}
	ids := make([]int32, 0, len(text)/3+8)
	for _, p := range s.pieces {
		if p.id != noToken {
			ids = append(ids, p.id)
			continue
		}
		var err error
		if ids, err = t.model.tokenize(p.text, ids); err != nil {
			return nil, fmt.Errorf("encode: %w", err)
		}
	}
	which := 0
	if addSpecialTokens {
		which = 1
	}
	if t.truncation != nil {
		var err error
		if ids, err = t.truncation.cut(ids, addSpecialTokens); err != nil {
			return nil, err
		}
	}
	return assemble(t.result[which], ids), nil
}

// maxPooledPieces bounds the working memory that is kept for later texts.
const maxPooledPieces = 1 << 16

func (t *Tokenizer) putScratch(s *encodeScratch) {
	if cap(s.pieces) > maxPooledPieces || cap(s.next) > maxPooledPieces {
		return
	}
	clear(s.pieces) // let go of the text
	clear(s.next)
	t.scratch.Put(s)
}

// extract cuts text at the added tokens: first those that match the text itself, then, in the normalized
// text between them, those that match normalized text.
func (t *Tokenizer) extract(s *encodeScratch, text string) error {
	s.pieces = s.pieces[:0]
	return t.added.split(t.added.plain, text, func(start, end int, id int32) error {
		if id != noToken {
			s.pieces = append(s.pieces, piece{text[start:end], id, 0})
			return nil
		}
		section := piece{text: text[start:end], id: noToken}
		shifted := false
		if t.normalizer != nil {
			var err error
			if section.text, shifted, err = t.normalizer(section.text); err != nil {
				return fmt.Errorf("encode: normalizer: %w", err)
			}
		}
		if start == 0 && !shifted {
			_, section.head = utf8.DecodeRuneInString(section.text)
		}
		return t.added.split(t.added.normal, section.text, func(start, end int, id int32) error {
			part := section.sub(start, end)
			part.id = id
			s.pieces = append(s.pieces, part)
			return nil
		})
	})
}

func (t *Tokenizer) preTokenize(s *encodeScratch) error {
	for _, p := range t.preTokenizers {
		s.next = s.next[:0]
		for _, old := range s.pieces {
			if old.id != noToken {
				s.next = append(s.next, old)
				continue
			}
			var err error
			if s.next, err = p.appendTo(s.next, old); err != nil {
				return fmt.Errorf("encode: pre-tokenizer: %w", err)
			}
		}
		s.pieces, s.next = s.next, s.pieces
	}
	return nil
}

// assemble puts ids in the place of the text among the parts.
func assemble(parts []part, ids []int32) []int32 {
	if len(parts) == 1 && parts[0].text {
		return ids
	}
	n := 0
	for _, p := range parts {
		n += len(p.ids)
		if p.text {
			n += len(ids)
		}
	}
	out := make([]int32, 0, n)
	for _, p := range parts {
		if p.text {
			out = append(out, ids...)
		} else {
			out = append(out, p.ids...)
		}
	}
	return out
}

// EncodeBatch encodes texts in parallel, on as many threads as GOMAXPROCS says. The first text, by position,
// that cannot be encoded makes the error.
func (t *Tokenizer) EncodeBatch(texts []string, addSpecialTokens bool) ([][]int32, error) {
	out := make([][]int32, len(texts))
	errs := make([]error, len(texts))
	var next atomic.Int64
	var workers sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(texts)) {
		workers.Go(func() {
			for i := next.Add(1) - 1; int(i) < len(texts); i = next.Add(1) - 1 {
				out[i], errs[i] = t.Encode(texts[i], addSpecialTokens)
			}
		})
	}
	workers.Wait()
	for i, err := range errs {
		if err != nil {
			return nil, fmt.Errorf("text %d: %w", i, err)
		}
	}
	return out, nil
}

// IDsMax returns one more than the largest id of a token.
func (t *Tokenizer) IDsMax() int { return len(t.decoded) }

// VocabSize counts the tokens, added ones included. Ids need not be contiguous.
func (t *Tokenizer) VocabSize() int {
	n := t.model.size()
	for token := range t.added.ids {
		if _, ok := t.model.id(token); !ok {
			n++
		}
	}
	return n
}

// TokenToID returns the id of a token by its exact spelling in the vocabulary.
func (t *Tokenizer) TokenToID(token string) (int32, bool) {
	if id, ok := t.added.ids[token]; ok {
		return id, true
	}
	return t.model.id(token)
}

// IDToToken returns the spelling of a token in the vocabulary; that of an added token is its normalized form.
func (t *Tokenizer) IDToToken(id int32) (string, bool) {
	if id < 0 || int(id) >= len(t.decoded) || !t.decoded[id].known {
		return "", false
	}
	return t.decoded[id].text, true
}

// IsSpecial reports whether id is an added token that the file marks as special.
func (t *Tokenizer) IsSpecial(id int32) bool { return t.added.tokens[id].special }
