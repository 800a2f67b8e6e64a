package tokenizers

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/troupe-engine/troupe/internal/tokenizers/onig"
	"github.com/troupe-engine/troupe/internal/tokenizers/ucd"
)

// normalizer changes text before it is split. shifted says that what the result begins with was not at the
// beginning of text, since something before it was dropped.
type normalizer func(text string) (result string, shifted bool, err error)

// pure makes a normalizer of a function that cannot fail and drops nothing.
func pure(f func(string) string) normalizer {
	return func(text string) (string, bool, error) { return f(text), false, nil }
}

// loadNormalizer reads a normalizer; nil is none.
func loadNormalizer(v value) (normalizer, error) {
	if v.isNull() {
		return nil, nil
	}
	o, err := v.object()
	if err != nil {
		return nil, err
	}
	kind, err := o.at("type").str()
	if err != nil {
		return nil, err
	}
	switch kind {
	case "Sequence":
		return loadNormalizerSequence(o)
	case "NFC", "NFD", "NFKC", "NFKD":
		return pure(forms[kind]().normalize), nil
	case "Lowercase":
		return pure(ucd.Lower), nil
	case "StripAccents":
		return dropper(in(ucd.Named("mark"))), nil
	case "Strip":
		return loadStrip(o)
	case "Replace":
		return loadReplace(o)
	case "Prepend":
		text, err := o.at("prepend").str()
		return pure(func(s string) string {
			if s == "" {
				return s
			}
			return text + s
		}), err
	case "ByteLevel":
		return pure(toByteLevel), nil
	case "Nmt":
		return mapper(nmt), nil
	case "BertNormalizer", "Bert":
		return loadBertNormalizer(o)
	case "Precompiled":
		return loadPrecompiled(o)
	}
	return nil, o.at("type").errorf("normalizer %.40q is not supported", kind)
}

func loadNormalizerSequence(o object) (normalizer, error) {
	parts, err := o.at("normalizers").list()
	if err != nil {
		return nil, err
	}
	var all []normalizer
	for _, part := range parts {
		n, err := loadNormalizer(part)
		if err != nil {
			return nil, err
		}
		if n == nil {
			return nil, part.want("a normalizer")
		}
		all = append(all, n)
	}
	return inSequence(all), nil
}

// inSequence applies normalizers one after the other.
func inSequence(all []normalizer) normalizer {
	return func(text string) (string, bool, error) {
		most := growthBase + growthPerByte*len(text)
		shiftedBefore := false
		for _, n := range all {
			result, shifted, err := n(text)
			if err != nil {
				return "", false, err
			}
			if len(result) > most {
				return "", false, fmt.Errorf("the normalized text has more than %d bytes", most)
			}
			text, shiftedBefore = result, shiftedBefore || shifted
		}
		return text, shiftedBefore, nil
	}
}

// mapper makes a normalizer of a function from characters to characters, or to -1 to drop them.
func mapper(f func(rune) rune) normalizer {
	return func(text string) (string, bool, error) {
		return strings.Map(f, text), text != "" && f(firstRune(text)) < 0, nil
	}
}

// dropper makes a normalizer that removes the characters that drop accepts.
func dropper(drop func(rune) bool) normalizer {
	return mapper(func(r rune) rune {
		if drop(r) {
			return -1
		}
		return r
	})
}

func loadStrip(o object) (normalizer, error) {
	left, err := o.at("strip_left").boolean()
	if err != nil {
		return nil, err
	}
	right, err := o.at("strip_right").boolean()
	return func(text string) (string, bool, error) {
		size := len(text)
		if left {
			text = strings.TrimLeftFunc(text, unicode.IsSpace)
		}
		shifted := len(text) < size
		if right {
			text = strings.TrimRightFunc(text, unicode.IsSpace)
		}
		return text, shifted, nil
	}, err
}

// loadReplace reads what is both a normalizer and a decoder: content in place of every match of a pattern.
func loadReplace(o object) (normalizer, error) {
	content, err := o.at("content").str()
	if err != nil {
		return nil, err
	}
	pattern, isRegex, err := loadPattern(o.at("pattern"))
	if err != nil {
		return nil, err
	}
	if !isRegex && pattern != "" {
		return replaceString(pattern, content), nil
	}
	re, err := onig.Compile(pattern)
	if err != nil {
		return nil, o.at("pattern").errorf("%v", err)
	}
	return replaceRegex(re, content), nil
}

func replaceString(pattern, content string) normalizer {
	// The first character of the content counts as the last one of what it replaces.
	shifts := content == "" || utf8.RuneCountInString(pattern) > 1
	return func(text string) (string, bool, error) {
		if grows := len(content) - len(pattern); grows > 0 {
			if err := checkGrowth(len(text), strings.Count(text, pattern), grows); err != nil {
				return "", false, err
			}
		}
		return strings.ReplaceAll(text, pattern, content), shifts && strings.HasPrefix(text, pattern), nil
	}
}

func replaceRegex(re *onig.Regexp, content string) normalizer {
	return func(text string) (string, bool, error) {
		if text == "" {
			return text, false, nil
		}
		var matches []span
		err := re.FindAll(text, func(start, end int) { matches = append(matches, span{start, end, true}) })
		if err == nil {
			err = checkGrowth(len(text), len(matches), len(content))
		}
		if err != nil {
			return "", false, err
		}
		var b strings.Builder
		last, shifted := 0, false
		for _, m := range matches {
			if m.start == 0 && m.end > 0 {
				shifted = content == "" || utf8.RuneCountInString(text[:m.end]) > 1
			}
			b.WriteString(text[last:m.start])
			b.WriteString(content)
			last = m.end
		}
		b.WriteString(text[last:])
		return b.String(), shifted, nil
	}
}

// A replacement may make a text this many bytes longer, plus this many for each byte it has, so that no file
// can ask for memory without bound.
const (
	growthBase    = 1 << 20
	growthPerByte = 64
)

func checkGrowth(size, count, each int) error {
	if most := growthBase + growthPerByte*size; each > 0 && count > most/each {
		return fmt.Errorf("%d replacements of %d bytes each would make a text of %d bytes too long", count, each, size)
	}
	return nil
}

// nmt is sentencepiece's nmt rule set: it drops control characters and makes a space of other white space.
func nmt(r rune) rune {
	switch {
	case 0x01 <= r && r <= 0x08, r == 0x0B, 0x0E <= r && r <= 0x1F, r == 0x7F, r == 0x8F, r == 0x9F:
		return -1
	case r == '\t', r == '\n', r == '\f', r == '\r', r == 0x1680, 0x200B <= r && r <= 0x200F,
		r == 0x2028, r == 0x2029, r == 0x2581, r == 0xFEFF, r == 0xFFFD:
		return ' '
	}
	return r
}

func loadBertNormalizer(o object) (normalizer, error) {
	clean, err := o.at("clean_text").boolean()
	if err != nil {
		return nil, err
	}
	chinese, err := o.at("handle_chinese_chars").boolean()
	if err != nil {
		return nil, err
	}
	lower, err := o.at("lowercase").boolean()
	if err != nil {
		return nil, err
	}
	strip, err := o.flag("strip_accents", lower)
	if err != nil {
		return nil, err
	}
	var steps []normalizer
	if clean {
		control := in(ucd.Named("bert.control"))
		steps = append(steps, mapper(func(r rune) rune {
			switch {
			case control(r):
				return -1
			case unicode.IsSpace(r):
				return ' '
			}
			return r
		}))
	}
	if chinese {
		steps = append(steps, pure(spaceChinese))
	}
	if strip {
		steps = append(steps, pure(forms["NFD"]().normalize), dropper(in(ucd.Named("bert.nonspacing"))))
	}
	if lower {
		steps = append(steps, pure(ucd.Lower))
	}
	return inSequence(steps), nil
}

// spaceChinese puts spaces around every CJK ideograph. The blocks are BERT's, including its misprint 2B920.
func spaceChinese(text string) string {
	var b strings.Builder
	for _, r := range text {
		switch {
		case 0x4E00 <= r && r <= 0x9FFF, 0x3400 <= r && r <= 0x4DBF, 0x20000 <= r && r <= 0x2A6DF,
			0x2A700 <= r && r <= 0x2B73F, 0x2B740 <= r && r <= 0x2B81F, 0x2B920 <= r && r <= 0x2CEAF,
			0xF900 <= r && r <= 0xFAFF, 0x2F800 <= r && r <= 0x2FA1F:
			b.WriteByte(' ')
			b.WriteRune(r)
			b.WriteByte(' ')
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}
