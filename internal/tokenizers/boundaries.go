package tokenizers

import "unicode/utf8"

// boundaries knows between which characters a merge can ever take place. Where none can, a piece falls into
// parts that are merged independently of each other, with the same result. Sentencepiece-style models need
// this: they have no pre-tokenizer, so that a whole text is one piece; yet almost none of their merges joins
// a character to a following ▁. Parts are short, and most of them are found in the cache.
type boundaries struct {
	ascii [utf8.RuneSelf][2]uint64
	// others holds the pairs with a character outside ASCII.
	others map[uint64]struct{}
	table  pairTable
}

func newBoundaries() *boundaries { return &boundaries{others: map[uint64]struct{}{}} }

// join records that some merge joins a token that ends with a to one that begins with b.
func (x *boundaries) join(a, b rune) {
	if a < utf8.RuneSelf && b < utf8.RuneSelf {
		x.ascii[a][b>>6] |= 1 << (b & 63)
		return
	}
	x.others[pairOf(a, b)] = struct{}{}
}

// finish makes the set ready for lookups.
func (x *boundaries) finish() {
	x.table = newPairTable(len(x.others))
	for pair := range x.others {
		x.table.set(int32(pair>>32), int32(uint32(pair)), 0)
	}
	x.others = nil
}

func (x *boundaries) joins(a, b rune) bool {
	if a < utf8.RuneSelf && b < utf8.RuneSelf {
		return x.ascii[a][b>>6]>>(b&63)&1 != 0
	}
	return x.table.get(a, b) != noMerge
}

// nextBoundary returns the end of the part of piece that begins at start. Next to a character that is not in
// the vocabulary there is no boundary, as unknown tokens are fused.
func (m *bpe) nextBoundary(piece string, start int) int {
	before, width := utf8.DecodeRuneInString(piece[start:])
	known := m.symbols.get(before) >= 0
	for i := start + width; i < len(piece); i += width {
		r := rune(piece[i])
		width = 1
		if r >= utf8.RuneSelf {
			r, width = utf8.DecodeRuneInString(piece[i:])
		}
		knownHere := m.symbols.get(r) >= 0
		if known && knownHere && !m.boundaries.joins(before, r) {
			return i
		}
		before, known = r, knownHere
	}
	return len(piece)
}
