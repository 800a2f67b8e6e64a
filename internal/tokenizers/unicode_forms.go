package tokenizers

import (
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/troupe-engine/troupe/internal/tokenizers/ucd"
	"golang.org/x/text/unicode/norm"
)

// form is a Unicode normalization form (UAX #15) restricted to the characters of Unicode 9.0, which is what
// the reference implements. Unlike x/text's own normalizer, from which it takes the character data, it leaves
// long runs of combining marks whole instead of breaking them up with U+034F.
type form struct {
	compat  bool
	compose bool
	// active has the characters that normalization may change or combine with what is before them. All
	// others begin a stretch of text that is normalized independently of what is before it.
	active *ucd.Table
}

// charData is what normalization knows about a character.
type charData struct {
	canonical, compat string // full decompositions, or ""
	class             uint8  // canonical combining class
}

// charTable holds the data of all characters that normalization concerns, except Hangul syllables.
var charTable = sync.OnceValue(func() map[rune]charData {
	m := map[rune]charData{}
	for _, span := range ucd.Named("normalization") {
		for r := span.Lo; r <= span.Hi; r++ {
			text := string(r)
			canonical := norm.NFD.PropertiesString(text)
			compat := norm.NFKD.PropertiesString(text)
			m[r] = charData{string(canonical.Decomposition()), string(compat.Decomposition()), canonical.CCC()}
		}
	}
	return m
})

// composites maps pairs of characters to their primary composite.
var composites = sync.OnceValue(func() map[[2]rune]rune {
	m := map[[2]rune]rune{}
	for r, data := range charTable() {
		if data.canonical == "" || norm.NFC.String(string(r)) != string(r) {
			continue // no decomposition, or one that is excluded from composition
		}
		// The table's decompositions are full; the last character and the composite of the others are the pair.
		last, width := utf8.DecodeLastRuneInString(data.canonical)
		first := []rune(norm.NFC.String(data.canonical[:len(data.canonical)-width]))
		if len(first) == 1 {
			m[[2]rune{first[0], last}] = r
		}
	}
	return m
})

// Constants of Hangul composition, Unicode standard section 3.12.
const (
	hangulS, hangulL, hangulV, hangulT = 0xAC00, 0x1100, 0x1161, 0x11A7
	hangulLs, hangulVs, hangulTs       = 19, 21, 28
	hangulSs                           = hangulLs * hangulVs * hangulTs
)

// forms holds the normalization forms by name.
var forms = map[string]func() *form{}

func init() {
	for _, name := range []string{"NFC", "NFD", "NFKC", "NFKD"} {
		forms[name] = sync.OnceValue(func() *form { return newForm(name) })
	}
}

func newForm(name string) *form {
	f := &form{compat: strings.Contains(name, "K"), compose: strings.HasSuffix(name, "C")}
	var ranges []ucd.Range
	add := func(lo, hi rune) { ranges = append(ranges, ucd.Range{Lo: lo, Hi: hi}) }
	for r, data := range charTable() {
		decomposes := data.canonical != "" || f.compat && data.compat != ""
		if data.class != 0 || decomposes && (!f.compose || f.normalizeAll(string(r)) != string(r)) {
			add(r, r)
		}
	}
	if f.compose {
		for pair := range composites() {
			add(pair[1], pair[1])
		}
		add(hangulV, hangulV+hangulVs-1)
		add(hangulT+1, hangulT+hangulTs-1)
	} else {
		add(hangulS, hangulS+hangulSs-1)
	}
	f.active = ucd.Of(ranges...).Compile()
	return f
}

// normalize returns the normal form of text. Stretches that normalization cannot change are copied.
func (f *form) normalize(text string) string {
	first := f.nextActive(text, 0)
	if first < 0 {
		return text
	}
	var b strings.Builder
	b.Grow(len(text) + len(text)/8)
	done := 0
	for at := first; at >= 0; at = f.nextActive(text, done) {
		// The stretch to normalize begins with the character before and ends before the next inactive one.
		_, width := utf8.DecodeLastRuneInString(text[done:at])
		b.WriteString(text[done : at-width])
		end := at
		for end < len(text) {
			r, w := utf8.DecodeRuneInString(text[end:])
			if !f.active.Has(r) {
				break
			}
			end += w
		}
		b.WriteString(f.normalizeAll(text[at-width : end]))
		done = end
	}
	b.WriteString(text[done:])
	return b.String()
}

// nextActive returns the position of the first active character at from or later, or -1.
func (f *form) nextActive(text string, from int) int {
	for i := from; i < len(text); {
		if text[i] < utf8.RuneSelf {
			i++
			continue
		}
		r, width := utf8.DecodeRuneInString(text[i:])
		if f.active.Has(r) {
			return i
		}
		i += width
	}
	return -1
}

// ordered is a decomposed character with its combining class.
type ordered struct {
	r     rune
	class uint8
}

func (f *form) normalizeAll(text string) string {
	chars := f.decompose(text)
	for i := 0; i < len(chars); { // canonical ordering
		j := i
		for j < len(chars) && chars[j].class != 0 {
			j++
		}
		slices.SortStableFunc(chars[i:j], func(a, b ordered) int { return int(a.class) - int(b.class) })
		i = j + 1
	}
	if f.compose {
		chars = compose(chars)
	}
	var b strings.Builder
	for _, c := range chars {
		b.WriteRune(c.r)
	}
	return b.String()
}

func (f *form) decompose(text string) []ordered {
	table := charTable()
	chars := make([]ordered, 0, len(text))
	for _, r := range text {
		if s := r - hangulS; s >= 0 && s < hangulSs {
			chars = append(chars, ordered{hangulL + s/(hangulVs*hangulTs), 0},
				ordered{hangulV + s%(hangulVs*hangulTs)/hangulTs, 0})
			if t := s % hangulTs; t != 0 {
				chars = append(chars, ordered{hangulT + t, 0})
			}
			continue
		}
		data := table[r]
		full := data.canonical
		if f.compat && data.compat != "" {
			full = data.compat
		}
		if full == "" {
			chars = append(chars, ordered{r, data.class})
			continue
		}
		for _, d := range full {
			chars = append(chars, ordered{d, table[d].class})
		}
	}
	return chars
}

// compose joins characters with the last starter before them, unless one of the same or a higher combining
// class is between (UAX #15, definition of "blocked").
func compose(chars []ordered) []ordered {
	pairs := composites()
	out := chars[:0]
	starter := -1
	for _, c := range chars {
		if starter >= 0 {
			last := out[len(out)-1]
			adjacent := len(out)-1 == starter
			if adjacent || last.class != 0 && last.class < c.class {
				if joined, ok := composePair(pairs, out[starter].r, c.r); ok {
					out[starter].r = joined
					continue
				}
			}
		}
		if c.class == 0 {
			starter = len(out)
		}
		out = append(out, c)
	}
	return out
}

func composePair(pairs map[[2]rune]rune, a, b rune) (rune, bool) {
	if l, v := a-hangulL, b-hangulV; 0 <= l && l < hangulLs && 0 <= v && v < hangulVs {
		return hangulS + (l*hangulVs+v)*hangulTs, true
	}
	if s, t := a-hangulS, b-hangulT; 0 <= s && s < hangulSs && s%hangulTs == 0 && 0 < t && t < hangulTs {
		return a + t, true
	}
	joined, ok := pairs[[2]rune{a, b}]
	return joined, ok
}
