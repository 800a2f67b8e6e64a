package tokenizers

import (
	"strings"
	"unicode/utf8"

	"github.com/troupe-engine/troupe/internal/tokenizers/ucd"
)

// piece is a stretch of text on its way through the pre-tokenizers, or an added token.
type piece struct {
	text string
	// id is that of an added token, or noToken.
	id int32
	// head is how many bytes at the beginning of text stem from the input's first character. It is 0 in
	// pieces from later in the input.
	head int
}

// sub returns a part of p.
func (p piece) sub(start, end int) piece {
	return piece{p.text[start:end], noToken, max(p.head-start, 0)}
}

// prepend puts a prefix before p; it counts as part of the character it precedes.
func (p piece) prepend(prefix string) piece {
	if p.head > 0 {
		p.head += len(prefix)
	}
	p.text = prefix + p.text
	return p
}

// mapped applies a function that turns each character into others to p.
func (p piece) mapped(f func(string) string) piece {
	if p.head > 0 {
		p.head = len(f(p.text[:min(p.head, len(p.text))]))
	}
	p.text = f(p.text)
	return p
}

const noToken = -1

// span is a stretch of a piece, and whether the pattern matched it.
type span struct {
	start, end int
	match      bool
}

// behavior says what becomes of the delimiters that a piece is split at.
type behavior uint8

const (
	removed behavior = iota
	isolated
	mergedWithPrevious
	mergedWithNext
	contiguous
)

var behaviors = map[string]behavior{
	"Removed": removed, "Isolated": isolated, "MergedWithPrevious": mergedWithPrevious,
	"MergedWithNext": mergedWithNext, "Contiguous": contiguous,
}

func loadBehavior(v value) (behavior, error) {
	name, err := v.str()
	if err != nil {
		return 0, err
	}
	b, ok := behaviors[name]
	if !ok {
		return 0, v.errorf("unknown behavior %.40q", name)
	}
	return b, nil
}

// appendSpans appends the parts of p that the spans, which cover it, make under b. Empty parts are dropped.
func (b behavior) appendSpans(out []piece, p piece, spans []span) []piece {
	emit := func(start, end int) {
		if start < end {
			out = append(out, p.sub(start, end))
		}
	}
	switch b {
	case removed:
		for _, s := range spans {
			if !s.match {
				emit(s.start, s.end)
			}
		}
	case isolated:
		for _, s := range spans {
			emit(s.start, s.end)
		}
	case contiguous:
		for i := 0; i < len(spans); {
			j := i + 1
			for j < len(spans) && spans[j].match == spans[i].match {
				j++
			}
			emit(spans[i].start, spans[j-1].end)
			i = j
		}
	case mergedWithPrevious:
		for i := 0; i < len(spans); i++ {
			start := spans[i].start
			if !spans[i].match && i+1 < len(spans) && spans[i+1].match {
				i++
			}
			emit(start, spans[i].end)
		}
	case mergedWithNext:
		for i := 0; i < len(spans); i++ {
			start := spans[i].start
			if spans[i].match && i+1 < len(spans) && !spans[i+1].match {
				i++
			}
			emit(start, spans[i].end)
		}
	}
	return out
}

// appendWhere appends spans of text: one for every single character that in accepts, and one for every
// stretch between them.
func appendWhere(spans []span, text string, in func(rune) bool) []span {
	last := 0
	for i, r := range text {
		if !in(r) {
			continue
		}
		if last < i {
			spans = append(spans, span{last, i, false})
		}
		last = i + utf8.RuneLen(r)
		spans = append(spans, span{i, last, true})
	}
	if last < len(text) {
		spans = append(spans, span{last, len(text), false})
	}
	return spans
}

// appendString appends spans of text: one for every occurrence of pattern, and one for what is between.
func appendString(spans []span, text, pattern string) []span {
	last := 0
	for {
		i := strings.Index(text[last:], pattern)
		if i < 0 {
			break
		}
		if i > 0 {
			spans = append(spans, span{last, last + i, false})
		}
		spans = append(spans, span{last + i, last + i + len(pattern), true})
		last += i + len(pattern)
	}
	if last < len(text) {
		spans = append(spans, span{last, len(text), false})
	}
	return spans
}

func in(set ucd.Set) func(rune) bool { return set.Compile().Has }
