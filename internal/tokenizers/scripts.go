package tokenizers

import (
	"fmt"
	"slices"
	"sync"
	"unicode/utf8"

	"github.com/troupe-engine/troupe/internal/tokenizers/ucd"
)

// scriptSplit cuts between characters of different Unicode scripts, as sentencepiece does: Han, Hiragana and
// Katakana are one, and characters of no script, such as the space, belong to what is before them.
type scriptSplit struct{}

// scriptRange says that the characters of a range are of the script of that number.
type scriptRange struct {
	ucd.Range
	script int
}

var scriptRanges = sync.OnceValue(func() []scriptRange {
	var all []scriptRange
	for i := 0; ; i++ {
		set, ok := ucd.Lookup(fmt.Sprintf("scripts.%d", i))
		if !ok {
			break
		}
		for _, r := range set {
			all = append(all, scriptRange{r, i})
		}
	}
	slices.SortFunc(all, func(a, b scriptRange) int { return int(a.Lo - b.Lo) })
	return all
})

// scriptOf returns the number of a character's script, or -1.
func scriptOf(r rune) int {
	all := scriptRanges()
	i, found := slices.BinarySearchFunc(all, r, func(x scriptRange, r rune) int {
		switch {
		case x.Hi < r:
			return -1
		case x.Lo > r:
			return 1
		}
		return 0
	})
	if !found {
		return -1
	}
	return all[i].script
}

// appendTo drops what is before the first character that has a script, as the reference does.
func (scriptSplit) appendTo(out []piece, p piece) ([]piece, error) {
	start, last := -1, -1
	cut := func(end int) {
		if start >= 0 {
			out = append(out, p.sub(start, end))
		}
		start = end
	}
	for i, width := 0, 0; i < len(p.text); i += width {
		var r rune
		r, width = utf8.DecodeRuneInString(p.text[i:])
		script := scriptOf(r)
		if script < 0 {
			continue
		}
		if script != last {
			cut(i)
		}
		last = script
	}
	cut(len(p.text))
	return out, nil
}
