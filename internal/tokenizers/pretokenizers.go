package tokenizers

import (
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/troupe-engine/troupe/internal/tokenizers/onig"
	"github.com/troupe-engine/troupe/internal/tokenizers/ucd"
)

// preTokenizer splits a piece of text into smaller ones, or changes it.
type preTokenizer interface {
	// appendTo appends what becomes of p to out. It may drop text. It must not append empty pieces.
	appendTo(out []piece, p piece) ([]piece, error)
}

// loadPreTokenizers reads a pre-tokenizer as a list, with sequences unfolded.
func loadPreTokenizers(v value) ([]preTokenizer, error) {
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
	if kind == "Sequence" {
		parts, err := o.at("pretokenizers").list()
		if err != nil {
			return nil, err
		}
		var out []preTokenizer
		for _, part := range parts {
			p, err := loadPreTokenizers(part)
			if err != nil {
				return nil, err
			}
			out = append(out, p...)
		}
		return out, nil
	}
	load, ok := preTokenizerLoaders[kind]
	if !ok {
		return nil, o.at("type").errorf("pre-tokenizer %.40q is not supported", kind)
	}
	p, err := load(o)
	if err != nil {
		return nil, err
	}
	return []preTokenizer{p}, nil
}

var preTokenizerLoaders map[string]func(object) (preTokenizer, error)

func init() {
	preTokenizerLoaders = map[string]func(object) (preTokenizer, error){
		"ByteLevel": loadByteLevel, "Split": loadSplit, "Metaspace": loadMetaspacePreTokenizer,
		"Digits": loadDigits, "Punctuation": loadPunctuation, "CharDelimiterSplit": loadDelimiter,
		"FixedLength": loadFixedLength,
		"Whitespace": func(object) (preTokenizer, error) {
			re, err := onig.Compile(wordsPattern())
			return &splitRegex{re, true, removed}, err
		},
		"UnicodeScripts": func(object) (preTokenizer, error) { return scriptSplit{}, nil },
		"WhitespaceSplit": func(object) (preTokenizer, error) {
			return &splitWhere{unicode.IsSpace, removed}, nil
		},
		"BertPreTokenizer": func(object) (preTokenizer, error) {
			return chain{&splitWhere{unicode.IsSpace, removed}, &splitWhere{isPunctuation(), isolated}}, nil
		},
	}
}

// wordsPattern is \w+|[^\w\s]+ with the \w of Rust's regex crate, which is not Oniguruma's.
func wordsPattern() string {
	word := onig.ClassText(ucd.Named("regex.word"))
	return "[" + word + "]+|[^" + word + `\s]+`
}

// isPunctuation accepts ASCII punctuation and symbols, and the P categories.
var isPunctuation = sync.OnceValue(func() func(rune) bool { return in(ucd.Named("punctuation")) })

// chain applies pre-tokenizers one after the other.
type chain []preTokenizer

func (c chain) appendTo(out []piece, p piece) ([]piece, error) {
	pieces := []piece{p}
	for _, next := range c {
		var made []piece
		for _, p := range pieces {
			var err error
			if made, err = next.appendTo(made, p); err != nil {
				return nil, err
			}
		}
		pieces = made
	}
	return append(out, pieces...), nil
}

// splitWhere splits at single characters.
type splitWhere struct {
	at       func(rune) bool
	behavior behavior
}

func (s *splitWhere) appendTo(out []piece, p piece) ([]piece, error) {
	var buffer [32]span
	return s.behavior.appendSpans(out, p, appendWhere(buffer[:0], p.text, s.at)), nil
}

// splitString splits at every occurrence of a fixed string, or between them if inverted.
type splitString struct {
	pattern  string
	invert   bool
	behavior behavior
}

func (s *splitString) appendTo(out []piece, p piece) ([]piece, error) {
	var buffer [32]span
	spans := appendString(buffer[:0], p.text, s.pattern)
	if s.invert {
		for i := range spans {
			spans[i].match = !spans[i].match
		}
	}
	return s.behavior.appendSpans(out, p, spans), nil
}

// splitRegex splits at every match of a pattern, or between them if inverted.
type splitRegex struct {
	re       *onig.Regexp
	invert   bool
	behavior behavior
}

func (s *splitRegex) appendTo(out []piece, p piece) ([]piece, error) {
	if s.behavior == isolated { // the usual case; matches and the rest are treated alike
		last := 0
		emit := func(start, end int) {
			if start < end {
				out = append(out, p.sub(start, end))
			}
		}
		err := s.re.FindAll(p.text, func(start, end int) {
			emit(last, start)
			emit(start, end)
			last = end
		})
		emit(last, len(p.text))
		return out, err
	}
	var buffer [32]span
	spans, last := buffer[:0], 0
	err := s.re.FindAll(p.text, func(start, end int) {
		if last != start {
			spans = append(spans, span{last, start, s.invert})
		}
		spans = append(spans, span{start, end, !s.invert})
		last = end
	})
	if last != len(p.text) {
		spans = append(spans, span{last, len(p.text), s.invert})
	}
	return s.behavior.appendSpans(out, p, spans), err
}

func loadSplit(o object) (preTokenizer, error) {
	b, err := loadBehavior(o.at("behavior"))
	if err != nil {
		return nil, err
	}
	invert, err := o.at("invert").boolean()
	if err != nil {
		return nil, err
	}
	text, isRegex, err := loadPattern(o.at("pattern"))
	if err != nil {
		return nil, err
	}
	if !isRegex && text != "" {
		return &splitString{text, invert, b}, nil
	}
	re, err := onig.Compile(text)
	if err != nil {
		return nil, o.at("pattern").errorf("%v", err)
	}
	return &splitRegex{re, invert, b}, nil
}

// loadPattern reads {"String": text} or {"Regex": text}.
func loadPattern(v value) (text string, isRegex bool, err error) {
	o, err := v.object()
	if err != nil {
		return "", false, err
	}
	if s := o.at("String"); s.raw != "" {
		text, err = s.str()
		return text, false, err
	}
	if s := o.at("Regex"); s.raw != "" {
		text, err = s.str()
		return text, true, err
	}
	return "", false, v.errorf(`want {"String": …} or {"Regex": …}`)
}

func loadDigits(o object) (preTokenizer, error) {
	single, err := o.at("individual_digits").boolean()
	b := contiguous
	if single {
		b = isolated
	}
	return &splitWhere{in(ucd.Named("numeric")), b}, err
}

func loadPunctuation(o object) (preTokenizer, error) {
	b := isolated
	if v := o.at("behavior"); v.raw != "" {
		var err error
		if b, err = loadBehavior(v); err != nil {
			return nil, err
		}
	}
	return &splitWhere{isPunctuation(), b}, nil
}

func loadDelimiter(o object) (preTokenizer, error) {
	delimiter, err := o.at("delimiter").oneRune()
	return &splitWhere{func(r rune) bool { return r == delimiter }, removed}, err
}

// fixedLength cuts text into stretches of so many characters.
type fixedLength int

func loadFixedLength(o object) (preTokenizer, error) {
	length := int64(5)
	if v := o.at("length"); v.raw != "" {
		var err error
		if length, err = v.integer(maxID); err != nil {
			return nil, err
		}
		if length == 0 {
			return nil, v.errorf("want a positive length")
		}
	}
	return fixedLength(length), nil
}

func (n fixedLength) appendTo(out []piece, p piece) ([]piece, error) {
	start, count := 0, 0
	for i := range p.text {
		if count == int(n) {
			out = append(out, p.sub(start, i))
			start, count = i, 0
		}
		count++
	}
	return append(out, p.sub(start, len(p.text))), nil
}

// gpt2Pattern is what the ByteLevel pre-tokenizer splits with.
const gpt2Pattern = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`

// byteLevel splits like GPT-2, if it has a pattern, and spells bytes in the byte-level alphabet, unless the
// model does that.
type byteLevel struct {
	prefixSpace bool
	re          *onig.Regexp
	keepBytes   bool
}

func loadByteLevel(o object) (preTokenizer, error) {
	b := &byteLevel{}
	var err error
	if b.prefixSpace, err = o.at("add_prefix_space").boolean(); err != nil {
		return nil, err
	}
	useRegex, err := o.flag("use_regex", true)
	if err != nil {
		return nil, err
	}
	if useRegex {
		b.re, err = onig.Compile(gpt2Pattern)
	}
	return b, err
}

func (b *byteLevel) appendTo(out []piece, p piece) ([]piece, error) {
	if b.prefixSpace && !strings.HasPrefix(p.text, " ") {
		p = p.prepend(" ")
	}
	start := len(out)
	if b.re == nil {
		out = append(out, p)
	} else {
		var err error
		if out, err = (&splitRegex{b.re, false, isolated}).appendTo(out, p); err != nil {
			return nil, err
		}
	}
	if !b.keepBytes {
		for i := start; i < len(out); i++ {
			out[i] = out[i].mapped(toByteLevel)
		}
	}
	return out, nil
}

// prependScheme says which pieces a metaspace is put before.
type prependScheme uint8

const (
	prependAlways prependScheme = iota
	prependFirst
	prependNever
)

// metaspace replaces spaces by a visible character, ▁ as a rule, that marks the beginning of words.
type metaspace struct {
	mark    string
	prepend prependScheme
	split   bool
}

func loadMetaspacePreTokenizer(o object) (preTokenizer, error) { return loadMetaspace(o) }

func loadMetaspace(o object) (*metaspace, error) {
	m := &metaspace{}
	mark, err := o.at("replacement").oneRune()
	if err != nil {
		return nil, err
	}
	m.mark = string(mark)
	if v := o.at("prepend_scheme"); v.raw != "" {
		name, err := v.str()
		if err != nil {
			return nil, err
		}
		scheme, ok := map[string]prependScheme{
			"always": prependAlways, "first": prependFirst, "never": prependNever,
		}[name]
		if !ok {
			return nil, v.errorf("unknown prepend scheme %.40q", name)
		}
		m.prepend = scheme
	}
	add, err := o.flag("add_prefix_space", true)
	if err != nil {
		return nil, err
	}
	if !add && m.prepend != prependNever {
		return nil, o.at("add_prefix_space").errorf("does not match prepend_scheme, which must be never")
	}
	m.split, err = o.flag("split", true)
	return m, err
}

func (m *metaspace) appendTo(out []piece, p piece) ([]piece, error) {
	p = p.mapped(func(text string) string { return strings.ReplaceAll(text, " ", m.mark) })
	if m.prepend != prependNever && (m.prepend == prependAlways || p.head > 0) && !strings.HasPrefix(p.text, m.mark) {
		p = p.prepend(m.mark)
	}
	if !m.split {
		return append(out, p), nil
	}
	for start := 0; start < len(p.text); {
		end := len(p.text)
		_, width := utf8.DecodeRuneInString(p.text[start:])
		if i := strings.Index(p.text[start+width:], m.mark); i >= 0 {
			end = start + width + i
		}
		out = append(out, p.sub(start, end))
		start = end
	}
	return out, nil
}
