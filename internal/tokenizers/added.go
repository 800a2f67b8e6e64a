package tokenizers

import (
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/troupe-engine/troupe/internal/tokenizers/ucd"
)

// addedToken is a token that is found in the text before anything else is done to it.
type addedToken struct {
	content    string
	singleWord bool // matches only where no word character is next to it
	lstrip     bool // takes the white space on its left with it
	rstrip     bool // takes the white space on its right with it
	normalized bool // is looked for, in its normalized form, in the normalized text
	special    bool // is left out of decoded text on request
}

// addedVocab holds the added tokens.
type addedVocab struct {
	ids    map[string]int32
	tokens map[int32]addedToken
	// normalForms has the normalized content of tokens that normalization changes.
	normalForms map[int32]string
	special     map[string]bool
	// plain finds tokens in the text as given, normal finds them in the normalized text; nil if there are none.
	plain, normal *trie
}

// loadAdded reads the added tokens. As in the reference, the ids written in the file do not count: a token
// that the model has keeps the model's id, and others are numbered on from the largest id.
func loadAdded(v value, m model, n normalizer) (*addedVocab, error) {
	a := &addedVocab{
		ids: map[string]int32{}, tokens: map[int32]addedToken{},
		normalForms: map[int32]string{}, special: map[string]bool{},
	}
	if v.isNull() {
		return a, nil
	}
	list, err := v.list()
	if err != nil {
		return nil, err
	}
	next := int32(m.size())
	for _, item := range list {
		token, err := loadAddedToken(item)
		if err != nil {
			return nil, err
		}
		if token.content == "" {
			continue
		}
		id, ok := a.ids[token.content]
		if !ok {
			id, ok = m.id(token.content)
		}
		if !ok {
			id = next
			next++
		}
		a.ids[token.content], a.tokens[id] = id, token
		if token.special {
			a.special[token.content] = true
		}
		if token.normalized && n != nil {
			form, _, err := n(token.content)
			if err != nil {
				return nil, item.errorf("%v", err)
			}
			if form != token.content {
				a.normalForms[id] = form
			}
		}
	}
	return a, a.buildTries(v)
}

func loadAddedToken(v value) (addedToken, error) {
	o, err := v.object()
	if err != nil {
		return addedToken{}, err
	}
	if _, err := o.at("id").integer(maxID); err != nil {
		return addedToken{}, err
	}
	t := addedToken{}
	if t.content, err = o.at("content").str(); err != nil {
		return addedToken{}, err
	}
	if len(t.content) > maxTokenBytes {
		return addedToken{}, o.at("content").errorf("token has %d bytes, more than the %d supported", len(t.content), maxTokenBytes)
	}
	for _, f := range []struct {
		name string
		to   *bool
	}{
		{"single_word", &t.singleWord}, {"lstrip", &t.lstrip}, {"rstrip", &t.rstrip},
		{"normalized", &t.normalized}, {"special", &t.special},
	} {
		if *f.to, err = o.at(f.name).boolean(); err != nil {
			return addedToken{}, err
		}
	}
	return t, nil
}

func (a *addedVocab) buildTries(v value) error {
	plain, normal := map[string]int32{}, map[string]int32{}
	for id, token := range a.tokens {
		if !token.normalized {
			plain[token.content] = id
			continue
		}
		form, ok := a.normalForms[id]
		if !ok {
			form = token.content
		}
		if len(form) > maxTokenBytes {
			return v.errorf("token %.40q has more than %d bytes once it is normalized", token.content, maxTokenBytes)
		}
		if other, ok := normal[form]; !ok || id < other { // the reference takes either of two equals
			normal[form] = id
		}
	}
	if len(plain) > 0 {
		a.plain = newTrie(plain)
	}
	delete(normal, "") // cannot be found; the reference takes text apart at it, or panics
	if len(normal) > 0 {
		a.normal = newTrie(normal)
	}
	return nil
}

// token returns the text of an added token as decoders see it: in its normalized form.
func (a *addedVocab) token(id int32) (string, bool) {
	t, ok := a.tokens[id]
	if !ok {
		return "", false
	}
	if form, ok := a.normalForms[id]; ok {
		return form, true
	}
	return t.content, true
}

var isWord = sync.OnceValue(func() func(rune) bool { return in(ucd.Named("regex.word")) })

// split cuts text at the tokens that t finds and calls yield with what is between them and with the tokens
// themselves, in order.
func (a *addedVocab) split(t *trie, text string, yield func(start, end int, id int32) error) error {
	done := 0
	if t != nil {
		for from := 0; ; {
			start, end, id, ok := t.find(text, from)
			if !ok {
				break
			}
			from = end
			token := a.tokens[id]
			if token.singleWord && !standsAlone(text, start, end) {
				continue
			}
			if token.lstrip {
				for start > done {
					r, width := utf8.DecodeLastRuneInString(text[done:start])
					if !unicode.IsSpace(r) {
						break
					}
					start -= width
				}
				start = max(start, done)
			}
			if token.rstrip {
				for end < len(text) {
					r, width := utf8.DecodeRuneInString(text[end:])
					if !unicode.IsSpace(r) {
						break
					}
					end += width
				}
			}
			if done < start {
				if err := yield(done, start, noToken); err != nil {
					return err
				}
			}
			// A token may lie in the white space that the one before it took. It counts all the same, unless
			// lstrip moved its start past its end.
			if start < end {
				if err := yield(start, end, id); err != nil {
					return err
				}
			}
			done = end
		}
	}
	if done < len(text) {
		return yield(done, len(text), noToken)
	}
	return nil
}

// standsAlone reports whether no word character is next to text[start:end].
func standsAlone(text string, start, end int) bool {
	before, width := utf8.DecodeLastRuneInString(text[:start])
	if width > 0 && isWord()(before) {
		return false
	}
	after, width := utf8.DecodeRuneInString(text[end:])
	return width == 0 || !isWord()(after)
}
