package onig

import (
	"errors"
	"fmt"
	"unicode/utf8"
)

// ErrBudget means that a match was given up because the pattern backtracked too much.
var ErrBudget = errors.New("pattern needs too many steps on this text")

// Regexp is a compiled pattern. It is safe for concurrent use.
type Regexp struct {
	pattern string
	engine  engine
}

// engine finds matches in one way or another.
type engine interface {
	// searcher prepares the text for repeated searches.
	searcher(text string) searcher
}

type searcher interface {
	// find returns the leftmost match that starts at byte from or later; ok is false if there is none.
	find(from int) (start, end int, ok bool, err error)
}

// Compile parses a pattern and picks an engine. The error says where in the pattern it failed.
func Compile(pattern string) (*Regexp, error) {
	tree, err := parse(pattern)
	if err != nil {
		return nil, fmt.Errorf("pattern %.80q: %w", pattern, err)
	}
	if s, ok := newScanner(tree); ok {
		return &Regexp{pattern, s}, nil
	}
	f, err := newFallback(tree)
	if err != nil {
		return nil, fmt.Errorf("pattern %.80q: %w", pattern, err)
	}
	return &Regexp{pattern, f}, nil
}

// String returns the pattern as it was given.
func (re *Regexp) String() string { return re.pattern }

// FindAll calls yield with the byte range of each successive match in text, which must be valid UTF-8. An
// empty match right after another match is skipped, as in Rust's onig crate.
func (re *Regexp) FindAll(text string, yield func(start, end int)) error {
	s := re.engine.searcher(text)
	from, last := 0, -1
	for from <= len(text) {
		start, end, ok, err := s.find(from)
		if err != nil {
			return fmt.Errorf("pattern %.80q: %w", re.pattern, err)
		}
		if !ok {
			return nil
		}
		if start == end && end == last {
			_, width := utf8.DecodeRuneInString(text[from:])
			from += max(width, 1)
			continue
		}
		from, last = end, end
		yield(start, end)
	}
	return nil
}
