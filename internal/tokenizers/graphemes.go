package tokenizers

import (
	"sync"
	"unicode/utf8"

	"github.com/troupe-engine/troupe/internal/tokenizers/ucd"
)

// breakClass is a character's part in grapheme cluster breaking (UAX #29), as far as it concerns clusters of
// less than six bytes: regional indicators and Indic conjuncts make longer ones.
type breakClass uint8

const (
	breakOther breakClass = iota
	breakCR
	breakLF
	breakControl
	breakExtend // also spacing marks
	breakJoiner
	breakPrepend
	breakPictograph
	breakL
	breakV
	breakT
	breakLV
	breakLVT
)

var breakTables = sync.OnceValue(func() (t struct{ control, extend, prepend, pictograph *ucd.Table }) {
	extend, prepend := ucd.Named("grapheme.extend"), ucd.Named("grapheme.prepend")
	unassigned := ucd.Of(ucd.Range{Lo: 0x2065, Hi: 0x2065}, ucd.Range{Lo: 0xFFF0, Hi: 0xFFF8}, ucd.Range{Lo: 0xE0000, Hi: 0xE0FFF})
	control := ucd.Named("gc.Cc").Union(ucd.Named("gc.Cf"), ucd.Named("gc.Zl"), ucd.Named("gc.Zp"), unassigned)
	t.control = control.Intersect(extend.Union(prepend).Negate()).Compile()
	t.extend, t.prepend = extend.Compile(), prepend.Compile()
	t.pictograph = ucd.Named("grapheme.pictograph").Compile()
	return t
})

func breakClassOf(r rune) breakClass {
	switch {
	case r == '\r':
		return breakCR
	case r == '\n':
		return breakLF
	case r < 0x20 || r == 0x7F:
		return breakControl
	case r < 0x80:
		return breakOther
	case r == 0x200D:
		return breakJoiner
	case 0x1100 <= r && r <= 0x115F, 0xA960 <= r && r <= 0xA97C:
		return breakL
	case 0x1160 <= r && r <= 0x11A7, 0xD7B0 <= r && r <= 0xD7C6:
		return breakV
	case 0x11A8 <= r && r <= 0x11FF, 0xD7CB <= r && r <= 0xD7FB:
		return breakT
	case hangulS <= r && r < hangulS+hangulSs:
		if (r-hangulS)%hangulTs == 0 {
			return breakLV
		}
		return breakLVT
	}
	t := breakTables()
	switch {
	case t.extend.Has(r):
		return breakExtend
	case t.prepend.Has(r):
		return breakPrepend
	case t.control.Has(r):
		return breakControl
	case t.pictograph.Has(r):
		return breakPictograph
	}
	return breakOther
}

// clusterLength returns the length in bytes of the grapheme cluster that text, which is not empty, begins with.
func clusterLength(text string) int {
	if len(text) == 1 || text[0] < 0x80 && text[1] < 0x80 && text[0] != '\r' {
		return 1
	}
	r, length := utf8.DecodeRuneInString(text)
	last := breakClassOf(r)
	pictograph := last == breakPictograph // followed by extending characters only
	for length < len(text) {
		r, width := utf8.DecodeRuneInString(text[length:])
		class := breakClassOf(r)
		if !joins(last, class, pictograph) {
			break
		}
		pictograph = class == breakPictograph || pictograph && (class == breakExtend || class == breakJoiner)
		last = class
		length += width
	}
	return length
}

// joins reports whether there is no break between two characters; pictograph says that the first one ends a
// pictograph with extending characters.
func joins(a, b breakClass, pictograph bool) bool {
	switch {
	case a == breakCR:
		return b == breakLF
	case a == breakLF, a == breakControl, b == breakCR, b == breakLF, b == breakControl:
		return false
	case b == breakExtend, b == breakJoiner, a == breakPrepend:
		return true
	case a == breakL:
		return b == breakL || b == breakV || b == breakLV || b == breakLVT
	case a == breakLV, a == breakV:
		return b == breakV || b == breakT
	case a == breakLVT, a == breakT:
		return b == breakT
	case a == breakJoiner:
		return pictograph && b == breakPictograph
	}
	return false
}
