package tokenizers

import (
	"fmt"
	"strings"
	"sync"
	"unicode/utf8"
)

// bpe is byte-pair encoding (Sennrich et al., https://arxiv.org/abs/1508.07909) as the reference does it.
type bpe struct {
	vocab
	merges        pairTable
	unk           string // "" is no unknown token
	prefix        string // of every symbol of a piece but the first
	suffix        string // of the last symbol of a piece
	fuseUnk       bool
	byteFallback  bool
	ignoreMerges  bool
	fallbackIDs   [256]int32 // ids of <0x00> to <0xFF>, or -1
	symbols       runeIDs    // ids of single characters
	cache         *pieceCache
	scratch       sync.Pool
	boundaries    *boundaries // nil if pieces cannot be cut before merging
	raw           bool        // pieces are bytes still to be spelled in the byte-level alphabet
	rawSymbols    [256]int32  // ids of the characters of single bytes, or -1
	rawIDs        map[string]int32
	rawIncomplete bool // some of rawSymbols is -1, or there is a prefix or suffix
}

// runeIDs maps characters to ids through pages of 256.
type runeIDs struct {
	pages [utf8.MaxRune>>8 + 1]*[256]int32
}

func (r *runeIDs) set(c rune, id int32) {
	page := r.pages[c>>8]
	if page == nil {
		page = new([256]int32)
		for i := range page {
			page[i] = -1
		}
		r.pages[c>>8] = page
	}
	page[c&0xFF] = id
}

// get returns the id of a character, or -1.
func (r *runeIDs) get(c rune) int32 {
	if page := r.pages[c>>8]; page != nil {
		return page[c&0xFF]
	}
	return -1
}

func loadBPE(o object) (*bpe, error) {
	m := &bpe{cache: newPieceCache()}
	m.scratch.New = func() any { return new(mergeScratch) }
	if d := o.at("dropout"); !d.isNull() {
		if p, err := d.float(); err != nil {
			return nil, err
		} else if p != 0 {
			return nil, d.errorf("dropout %g is not supported: it makes the encoding random; set it to null", p)
		}
	}
	for _, f := range []struct {
		name string
		to   *string
	}{{"unk_token", &m.unk}, {"continuing_subword_prefix", &m.prefix}, {"end_of_word_suffix", &m.suffix}} {
		var err error
		if *f.to, err = o.optional(f.name); err != nil {
			return nil, err
		}
	}
	for _, f := range []struct {
		name string
		to   *bool
	}{{"fuse_unk", &m.fuseUnk}, {"byte_fallback", &m.byteFallback}, {"ignore_merges", &m.ignoreMerges}} {
		var err error
		if *f.to, err = o.flag(f.name, false); err != nil {
			return nil, err
		}
	}
	var err error
	if m.vocab, err = loadVocab(o.at("vocab")); err != nil {
		return nil, err
	}
	for b := range 256 {
		m.fallbackIDs[b] = -1
		if id, ok := m.id(byteTokenName(byte(b))); ok {
			m.fallbackIDs[b] = id
		}
	}
	for token, id := range m.ids {
		if r, width := utf8.DecodeRuneInString(token); width > 0 && width == len(token) {
			m.symbols.set(r, id)
		}
	}
	if err := m.loadMerges(o.at("merges")); err != nil {
		return nil, err
	}
	if m.boundaries != nil {
		m.boundaries.finish()
	}
	return m, nil
}

// loadMerges reads the merges, each "a b" or ["a", "b"], in order of rank.
func (m *bpe) loadMerges(v value) error {
	count := 0
	if err := v.items(func(int, value) error { count++; return nil }); err != nil {
		return err
	}
	m.merges = newPairTable(count)
	if m.prefix == "" && m.suffix == "" {
		m.boundaries = newBoundaries()
	}
	var joined []byte
	skipped := 0
	return v.items(func(i int, raw value) error {
		fail := func(format string, args ...any) error {
			return value{path: v.element(i)}.errorf(format, args...)
		}
		left, right, err := mergePair(raw)
		if err != nil {
			return fail("%s", err)
		}
		if raw.raw[0] == '"' && strings.HasPrefix(left, "#version") {
			skipped++ // a header line kept from merges.txt
			return nil
		}
		a, okLeft := m.id(left)
		b, okRight := m.id(right)
		if !okLeft || !okRight {
			missing := left
			if okLeft {
				missing = right
			}
			return fail("token %.40q is not in model.vocab", missing)
		}
		if len(right) < len(m.prefix) {
			return fail("token %.40q is shorter than continuing_subword_prefix", right)
		}
		joined = append(append(joined[:0], left...), right[len(m.prefix):]...)
		id, ok := m.ids[string(joined)]
		if !ok {
			return fail("merged token %.40q is not in model.vocab", joined)
		}
		m.merges.set(a, b, mergeEntry(i-skipped, id))
		if m.boundaries != nil && left != "" && right != "" {
			m.boundaries.join(lastRune(left), firstRune(right))
		}
		return nil
	})
}

func mergePair(v value) (left, right string, err error) {
	if v.raw[0] == '[' {
		parts, err := v.list()
		if err != nil {
			return "", "", err
		}
		if len(parts) != 2 || parts[0].raw[0] != '"' || parts[1].raw[0] != '"' {
			return "", "", fmt.Errorf("want a pair of strings")
		}
		if left, err = parts[0].str(); err == nil {
			right, err = parts[1].str()
		}
		return left, right, err
	}
	if v.raw[0] != '"' {
		return "", "", fmt.Errorf(`want "a b" or ["a", "b"], found %s`, v.kind())
	}
	text, err := v.str()
	if err != nil {
		return "", "", err
	}
	if strings.HasPrefix(text, "#version") {
		return text, "", nil
	}
	left, right, ok := strings.Cut(text, " ")
	if !ok || strings.Contains(right, " ") {
		return "", "", fmt.Errorf("want two tokens with one space between them, found %.40q", text)
	}
	return left, right, nil
}

// useRawBytes makes the model take pieces of plain bytes instead of their byte-level spelling. It saves
// spelling out every piece.
func (m *bpe) useRawBytes() {
	m.raw = true
	m.rawIncomplete = m.prefix != "" || m.suffix != ""
	for b := range 256 {
		m.rawSymbols[b] = m.symbols.get(byteToRune[b])
		if m.rawSymbols[b] < 0 {
			m.rawIncomplete = true
		}
	}
	if m.ignoreMerges {
		m.rawIDs = make(map[string]int32, len(m.ids))
		for token, id := range m.ids {
			if bytes, ok := fromByteLevel(token); ok {
				m.rawIDs[bytes] = id
			}
		}
	}
}

func (m *bpe) tokenize(piece string, ids []int32) ([]int32, error) {
	if m.ignoreMerges {
		known := m.ids
		if m.raw {
			known = m.rawIDs
		}
		if id, ok := known[piece]; ok {
			return append(ids, id), nil
		}
	}
	if m.raw || m.boundaries == nil {
		return m.part(piece, ids)
	}
	start, end := 0, 0
	for start < len(piece) {
		end = m.nextBoundary(piece, start)
		var err error
		if ids, err = m.part(piece[start:end], ids); err != nil {
			return nil, err
		}
		start = end
	}
	return ids, nil
}

// part encodes a piece, or a part of one that merges with nothing around it.
func (m *bpe) part(piece string, ids []int32) ([]int32, error) {
	if len(piece) > maxCachedBytes {
		return m.merge(piece, ids)
	}
	slot, cached, ok := m.cache.lookup(piece)
	if ok {
		return append(ids, cached...), nil
	}
	start := len(ids)
	ids, err := m.merge(piece, ids)
	if err == nil {
		m.cache.store(slot, piece, ids[start:])
	}
	return ids, err
}

func (m *bpe) merge(piece string, ids []int32) ([]int32, error) {
	s := m.scratch.Get().(*mergeScratch)
	defer m.scratch.Put(s)
	s.ids = s.ids[:0]
	var err error
	switch {
	case m.raw && !m.rawIncomplete:
		for i := range len(piece) {
			s.ids = append(s.ids, m.rawSymbols[piece[i]])
		}
	case m.raw:
		s.ids, err = m.appendSymbols(s.ids, toByteLevel(piece))
	default:
		s.ids, err = m.appendSymbols(s.ids, piece)
	}
	if err != nil {
		return nil, err
	}
	return append(ids, m.merges.mergeAll(s)...), nil
}

// appendSymbols splits a piece into its characters' ids. A character that is not in the vocabulary becomes
// its bytes' tokens, or the unknown token, or nothing.
func (m *bpe) appendSymbols(ids []int32, piece string) ([]int32, error) {
	pendingUnk := false // an unknown token is added late, since it may take in those that follow
	var unkID int32
	for i, r := range piece {
		end := i + utf8.RuneLen(r)
		symbol := piece[i:end]
		id := int32(-1)
		if m.prefix == "" && m.suffix == "" {
			id = m.symbols.get(r)
		} else {
			if i > 0 {
				symbol = m.prefix + symbol
			}
			if end == len(piece) {
				symbol += m.suffix
			}
			if known, ok := m.id(symbol); ok {
				id = known
			}
		}
		if id >= 0 {
			if pendingUnk {
				ids, pendingUnk = append(ids, unkID), false
			}
			ids = append(ids, id)
			continue
		}
		if m.byteFallback && m.hasBytes(symbol) {
			for j := range len(symbol) {
				ids = append(ids, m.fallbackIDs[symbol[j]])
			}
			continue
		}
		if m.unk == "" {
			continue
		}
		if pendingUnk && !m.fuseUnk {
			ids = append(ids, unkID)
		}
		var ok bool
		if unkID, ok = m.id(m.unk); !ok {
			return nil, fmt.Errorf("character %q is not in the vocabulary, nor is the unknown token %q", r, m.unk)
		}
		pendingUnk = true
	}
	if pendingUnk {
		ids = append(ids, unkID)
	}
	return ids, nil
}

// hasBytes reports whether every byte of symbol has a byte-fallback token.
func (m *bpe) hasBytes(symbol string) bool {
	for i := range len(symbol) {
		if m.fallbackIDs[symbol[i]] < 0 {
			return false
		}
	}
	return true
}
