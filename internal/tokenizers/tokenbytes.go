package tokenizers

import (
	"strconv"
	"strings"
)

// Bytes returns what each token adds to a text that it continues, by id: for a token that is part of a character these are
// not valid UTF-8. Ids that are not in the vocabulary have nil, and so have special tokens if skipSpecialTokens is set.
func (t *Tokenizer) Bytes(skipSpecialTokens bool) [][]byte {
	out := make([][]byte, len(t.decoded))
	before := t.plainToken()
	for id := range out {
		if d := t.decoded[id]; d.known && !(skipSpecialTokens && d.special) {
			out[id] = t.bytesAfter(before, int32(id))
		}
	}
	return out
}

// plainToken is a token that leaves a decoder in the middle of a text, or none.
func (t *Tokenizer) plainToken() []int32 {
	for _, text := range []string{"a", "e", "A", "0", "."} {
		if id, ok := t.TokenToID(text); ok {
			return []int32{id}
		}
	}
	return nil
}

// bytesAfter decodes one token. Where that is no whole character, the spelling in the vocabulary says which bytes.
func (t *Tokenizer) bytesAfter(before []int32, id int32) []byte {
	s := t.NewStream(false, before...)
	text := s.Push(id) + s.Flush()
	if !strings.ContainsRune(text, '\uFFFD') {
		return []byte(text)
	}
	spelling := t.decoded[id].text
	if b, ok := byteFallback(spelling); ok {
		return []byte{b}
	}
	if bytes, ok := fromByteLevel(spelling); ok {
		return []byte(bytes)
	}
	return []byte(text) // it does stand for U+FFFD
}

// byteFallback reads a byte token as sentencepiece spells them: "<0x0A>".
func byteFallback(token string) (byte, bool) {
	if len(token) != 6 || !strings.HasPrefix(token, "<0x") || token[5] != '>' {
		return 0, false
	}
	b, err := strconv.ParseUint(token[3:5], 16, 8)
	return byte(b), err == nil
}
