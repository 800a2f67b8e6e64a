package tokenizers

import (
	"strings"
	"unicode/utf8"
)

// Decode returns the text of ids. Ids that are not in the vocabulary are left out, and so are special tokens
// if skipSpecialTokens is set. Bytes that do not form valid UTF-8 become U+FFFD.
func (t *Tokenizer) Decode(ids []int32, skipSpecialTokens bool) string {
	s := t.newStream(skipSpecialTokens)
	for _, id := range ids {
		s.take(id)
	}
	s.first.flush()
	return string(s.out.text)
}

// DecodeStream turns ids into text as they come. What it returns in all is exactly what Decode returns for
// all ids together; the cost of an id does not depend on how many were before it. It is for one goroutine.
type DecodeStream struct {
	tokenizer   *Tokenizer
	skipSpecial bool
	first       stage
	out         *sink
	// known is text of the prompt that the stages held back and that must not be returned.
	known string
}

// NewStream begins a stream. If promptTail is given, the stream continues a text that ends in these ids: it
// returns only what the ids pushed later add to it, so that, for example, a leading space is kept where it
// would be dropped at the beginning of a text.
func (t *Tokenizer) NewStream(skipSpecialTokens bool, promptTail ...int32) *DecodeStream {
	s := t.newStream(skipSpecialTokens)
	for _, id := range promptTail {
		s.take(id)
	}
	if len(promptTail) > 0 {
		s.known = strings.TrimPrefix(t.Decode(promptTail, skipSpecialTokens), string(s.out.text))
		s.out.text = s.out.text[:0]
	}
	return s
}

func (t *Tokenizer) newStream(skipSpecialTokens bool) *DecodeStream {
	out := &sink{}
	return &DecodeStream{tokenizer: t, skipSpecial: skipSpecialTokens, first: t.decoder(out), out: out}
}

func (s *DecodeStream) take(id int32) {
	t := s.tokenizer
	if id < 0 || int(id) >= len(t.decoded) || !t.decoded[id].known || s.skipSpecial && t.decoded[id].special {
		return
	}
	s.first.push(t.decoded[id].text, true)
}

// Push takes the next id and returns the text that is now certain: whole characters only, and "" while a
// character is incomplete or a run of byte tokens has not ended. Ids out of the vocabulary add nothing.
func (s *DecodeStream) Push(id int32) string {
	s.take(id)
	return s.collect()
}

// Flush ends the stream and returns what was held back; incomplete characters become U+FFFD. The stream must
// not be used afterwards.
func (s *DecodeStream) Flush() string {
	s.first.flush()
	return s.collect()
}

// collect returns the output so far without what belongs to the prompt.
func (s *DecodeStream) collect() string {
	text := string(s.out.text)
	s.out.text = s.out.text[:0]
	for s.known != "" && text != "" {
		old, oldWidth := utf8.DecodeRuneInString(s.known)
		r, width := utf8.DecodeRuneInString(text)
		if r != old {
			s.known = ""
			break
		}
		s.known, text = s.known[oldWidth:], text[width:]
	}
	return text
}
