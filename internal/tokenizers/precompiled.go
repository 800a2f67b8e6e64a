package tokenizers

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"
	"unicode/utf8"
)

// charsmap is a compiled sentencepiece normalization rule set: a Darts-clone double array from byte strings to
// offsets of their replacements. Source: sentencepiece src/normalizer.cc and darts.h.
type charsmap struct {
	units        []uint32
	replacements string // each ends with a zero byte
}

// shortCluster is the length in bytes below which a grapheme cluster is looked up as a whole.
const shortCluster = 6

func loadPrecompiled(o object) (normalizer, error) {
	v := o.at("precompiled_charsmap")
	text, err := v.str()
	if err != nil {
		return nil, err
	}
	data, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, v.errorf("not base64: %v", err)
	}
	m, err := newCharsmap(data)
	if err != nil {
		return nil, v.errorf("%v", err)
	}
	return func(text string) (string, bool, error) {
		result, err := m.normalize(text)
		return result, false, err
	}, nil
}

// newCharsmap reads the size of the double array in bytes, the array, and the replacements.
func newCharsmap(data []byte) (*charsmap, error) {
	if len(data) < 4 {
		return nil, fmt.Errorf("%d bytes are too short", len(data))
	}
	size := uint64(binary.LittleEndian.Uint32(data)) / 4 * 4
	data = data[4:]
	if size > uint64(len(data)) {
		return nil, fmt.Errorf("the double array of %d bytes is cut off after %d", size, len(data))
	}
	m := &charsmap{replacements: string(data[size:])}
	if size == 0 || !utf8.ValidString(m.replacements) {
		return nil, fmt.Errorf("the double array is empty or the replacements are not valid UTF-8")
	}
	for i := 0; i < int(size); i += 4 {
		m.units = append(m.units, binary.LittleEndian.Uint32(data[i:]))
	}
	return m, nil
}

// offset returns the distance, by exclusive or, from a unit to its children.
func offset(unit uint32) uint32 { return unit >> 10 << (unit >> 6 & 8) }

// lookup returns the replacement of the shortest key that text begins with, which is also what the reference
// does. An array that points out of itself ends the search.
func (m *charsmap) lookup(text string) (replacement string, ok bool) {
	at := offset(m.units[0])
	for i := 0; i < len(text) && text[i] != 0; i++ {
		at ^= uint32(text[i])
		if int(at) >= len(m.units) {
			return "", false
		}
		unit := m.units[at]
		if unit&(1<<31|0xFF) != uint32(text[i]) {
			return "", false
		}
		at ^= offset(unit)
		if unit>>8&1 == 0 {
			continue
		}
		if int(at) >= len(m.units) {
			return "", false
		}
		start := int(m.units[at] &^ (1 << 31))
		if start >= len(m.replacements) || start > 0 && !utf8.RuneStart(m.replacements[start]) {
			return "", false
		}
		replacement, _, _ = strings.Cut(m.replacements[start:], "\x00")
		return replacement, true
	}
	return "", false
}

// normalize replaces short grapheme clusters that have a rule, and single characters in all others.
func (m *charsmap) normalize(text string) (string, error) {
	var b strings.Builder
	most := growthBase + growthPerByte*len(text)
	for len(text) > 0 {
		cluster := text[:clusterLength(text)]
		text = text[len(cluster):]
		if len(cluster) < shortCluster {
			if replacement, ok := m.lookup(cluster); ok {
				b.WriteString(replacement)
				continue
			}
		}
		for _, r := range cluster {
			char := string(r)
			if replacement, ok := m.lookup(char); ok {
				char = replacement
			}
			b.WriteString(char)
		}
		if b.Len() > most {
			return "", fmt.Errorf("the normalized text has more than %d bytes", most)
		}
	}
	return b.String(), nil
}
