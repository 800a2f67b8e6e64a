package tokenizer

import (
	"strings"

	"github.com/troupe-engine/troupe/schemas"
)

// decoder turns tokens into text one at a time. *tokenizers.DecodeStream is one.
type decoder interface {
	Push(id int32) string // newly complete text
	Flush() string        // what is left at the end
}

// session is one sequence on its way back to text.
type session struct {
	spec        *schemas.DetokSpec
	decoder     decoder
	next        int32  // index of the output token that comes next
	held        string // text that may yet become a stop string
	idleSinceNs int64
	swept       int32 // next when Expire last looked
}

// push takes an output token and returns the text that is certain now; stopped means that a stop string
// appeared and the sequence is over.
func (s *session) push(token int32) (text string, stopped bool) {
	return s.filter(s.decoder.Push(token), false)
}

// finish returns what was held back.
func (s *session) finish() (text string, stopped bool) { return s.filter(s.decoder.Flush(), true) }

// filter passes text on up to the first stop string, and keeps back an end that could be the beginning
// of one, unless this is all.
func (s *session) filter(text string, all bool) (string, bool) {
	if len(s.spec.Stop) == 0 {
		return text, false
	}
	s.held += text
	first, length := -1, 0
	for _, stop := range s.spec.Stop {
		at := strings.Index(s.held, stop)
		if at >= 0 && (first < 0 || at < first || (at == first && len(stop) < length)) {
			first, length = at, len(stop)
		}
	}
	if first >= 0 {
		if s.spec.KeepStop {
			first += length
		}
		out := s.held[:first]
		s.held = ""
		return out, true
	}
	keep := 0
	if !all {
		for _, stop := range s.spec.Stop {
			keep = max(keep, overlap(s.held, stop))
		}
	}
	out := s.held[:len(s.held)-keep]
	s.held = s.held[len(s.held)-keep:]
	return out, false
}

// overlap is the length of the longest end of text that is a proper beginning of stop.
func overlap(text, stop string) int {
	for n := min(len(text), len(stop)-1); n > 0; n-- {
		if strings.HasSuffix(text, stop[:n]) {
			return n
		}
	}
	return 0
}
