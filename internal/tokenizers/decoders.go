package tokenizers

import (
	"strings"
	"unicode/utf8"
)

// stage is one decoder at work: it takes tokens one by one and passes on what they become, as soon as that
// is certain. A token may arrive in fragments, since ByteLevel and Fuse make one token of all.
type stage interface {
	// push takes a fragment of a token; end says that it is the token's last.
	push(fragment string, end bool)
	// flush says that there are no more tokens.
	flush()
}

// decoder builds a stage that passes its output on to next.
type decoder func(next stage) stage

func loadDecoder(v value) (decoder, error) {
	if v.isNull() {
		return func(next stage) stage { return &joinStage{next: next} }, nil
	}
	o, err := v.object()
	if err != nil {
		return nil, err
	}
	kind, err := o.at("type").str()
	if err != nil {
		return nil, err
	}
	load, ok := decoderLoaders[kind]
	if !ok {
		return nil, o.at("type").errorf("decoder %.40q is not supported", kind)
	}
	return load(o)
}

var decoderLoaders map[string]func(object) (decoder, error)

func init() {
	decoderLoaders = map[string]func(object) (decoder, error){
		"Sequence": loadDecoderSequence, "Strip": loadStripDecoder, "Replace": loadReplaceDecoder,
		"Metaspace": loadMetaspaceDecoder, "WordPiece": loadWordPieceDecoder, "BPEDecoder": loadBPEDecoder,
		"CTC": loadCTC,
		"ByteLevel": func(object) (decoder, error) {
			return func(next stage) stage { return whole(&byteLevelStage{next: next}) }, nil
		},
		"ByteFallback": func(object) (decoder, error) {
			return func(next stage) stage { return whole(&byteFallbackStage{next: next}) }, nil
		},
		"Fuse": func(object) (decoder, error) {
			return func(next stage) stage { return &fuseStage{next} }, nil
		},
	}
}

func loadDecoderSequence(o object) (decoder, error) {
	parts, err := o.at("decoders").list()
	if err != nil {
		return nil, err
	}
	var all []decoder
	for _, part := range parts {
		if part.isNull() {
			return nil, part.want("a decoder")
		}
		d, err := loadDecoder(part)
		if err != nil {
			return nil, err
		}
		all = append(all, d)
	}
	return func(next stage) stage {
		for i := len(all) - 1; i >= 0; i-- {
			next = all[i](next)
		}
		return next
	}, nil
}

// sink collects the output of the last stage.
type sink struct{ text []byte }

func (s *sink) push(fragment string, _ bool) { s.text = append(s.text, fragment...) }
func (s *sink) flush()                       {}

// tokenStage is a stage that needs tokens whole.
type tokenStage interface {
	token(token string)
	flush()
}

// wholeStage puts fragments together for a tokenStage.
type wholeStage struct {
	inner   tokenStage
	partial []byte
}

func whole(inner tokenStage) stage { return &wholeStage{inner: inner} }

func (w *wholeStage) push(fragment string, end bool) {
	if end && len(w.partial) == 0 {
		w.inner.token(fragment)
		return
	}
	w.partial = append(w.partial, fragment...)
	if end {
		token := string(w.partial)
		w.partial = w.partial[:0]
		w.inner.token(token)
	}
}

func (w *wholeStage) flush() { w.inner.flush() }

// joinStage stands for no decoder: tokens, which come whole, with a space between them.
type joinStage struct {
	next  stage
	begun bool
}

func (j *joinStage) push(token string, _ bool) {
	if j.begun {
		token = " " + token
	}
	j.begun = true
	j.next.push(token, true)
}

func (j *joinStage) flush() { j.next.flush() }

// fuseStage makes one token of all.
type fuseStage struct{ next stage }

func (f *fuseStage) push(fragment string, _ bool) {
	if fragment != "" {
		f.next.push(fragment, false)
	}
}

func (f *fuseStage) flush() {
	f.next.push("", true)
	f.next.flush()
}

// byteLevelStage reads tokens in the byte-level alphabet and makes one token of their bytes. Bytes that may
// be the beginning of a character wait for its end.
type byteLevelStage struct {
	next    stage
	pending []byte
	out     []byte
}

func (b *byteLevelStage) token(token string) {
	start := len(b.pending)
	for _, r := range token {
		if int(r) >= len(runeToByte) || runeToByte[r] == 0 {
			b.pending = append(b.pending[:start], token...) // not byte-level: taken as it is
			break
		}
		b.pending = append(b.pending, byte(runeToByte[r]-1))
	}
	b.emit(false)
}

func (b *byteLevelStage) emit(final bool) {
	out, rest := appendLossy(b.out[:0], b.pending, final)
	b.out = out
	b.pending = append(b.pending[:0], rest...)
	if len(out) > 0 {
		b.next.push(string(out), false)
	}
}

func (b *byteLevelStage) flush() {
	b.emit(true)
	b.next.push("", true)
	b.next.flush()
}

// byteFallbackStage turns every run of byte tokens such as <0xE4> into text. A run that is not valid UTF-8
// becomes U+FFFD for each of its bytes, the valid ones too; so a run is held back until it ends.
type byteFallbackStage struct {
	next stage
	run  []byte
}

func (f *byteFallbackStage) token(token string) {
	if b, ok := byteToken(token); ok {
		f.run = append(f.run, b)
		return
	}
	f.endRun()
	f.next.push(token, true)
}

func (f *byteFallbackStage) endRun() {
	switch {
	case len(f.run) == 0:
		return
	case utf8.Valid(f.run):
		f.next.push(string(f.run), true)
	default:
		for range f.run {
			f.next.push(replacement, true)
		}
	}
	f.run = f.run[:0]
}

func (f *byteFallbackStage) flush() {
	f.endRun()
	f.next.flush()
}

// stripStage removes up to so many of a character from the beginning and the end of each token.
type stripStage struct {
	next        stage
	content     rune
	start, stop int
	stripped    int  // at the beginning of the current token
	begun       bool // the current token's beginning is past
	held        int  // characters at the end so far that may have to go
}

func loadStripDecoder(o object) (decoder, error) {
	content, err := o.at("content").oneRune()
	if err != nil {
		return nil, err
	}
	start, err := o.at("start").integer(maxID)
	if err != nil {
		return nil, err
	}
	stop, err := o.at("stop").integer(maxID)
	return func(next stage) stage {
		return &stripStage{next: next, content: content, start: int(start), stop: int(stop)}
	}, err
}

func (s *stripStage) push(fragment string, end bool) {
	for !s.begun && fragment != "" {
		r, width := utf8.DecodeRuneInString(fragment)
		if r != s.content || s.stripped == s.start {
			s.begun = true
			break
		}
		s.stripped++
		fragment = fragment[width:]
	}
	if s.stop == 0 {
		if fragment != "" || end {
			s.next.push(fragment, end)
		}
	} else {
		s.pushHeld(fragment, end)
	}
	if end {
		s.stripped, s.begun, s.held = 0, false, 0
	}
}

// pushHeld passes on all but the last characters, which may turn out to be the token's end.
func (s *stripStage) pushHeld(fragment string, end bool) {
	content := string(s.content)
	body := strings.TrimRight(fragment, content)
	trailing := (len(fragment) - len(body)) / len(content)
	if body != "" {
		body = strings.Repeat(content, s.held) + body
		s.held = 0
	}
	s.held += trailing
	if keep := s.held - s.stop; keep > 0 || end {
		keep = max(keep, 0)
		body += strings.Repeat(content, keep)
		s.held -= keep
	}
	if body != "" || end {
		s.next.push(body, end)
	}
}

func (s *stripStage) flush() { s.next.flush() }

// mapStage replaces each token by a function of it.
type mapStage struct {
	next  stage
	apply func(string) string
}

func (m *mapStage) token(token string) { m.next.push(m.apply(token), true) }
func (m *mapStage) flush()             { m.next.flush() }

func loadReplaceDecoder(o object) (decoder, error) {
	replace, err := loadReplace(o)
	apply := func(token string) string {
		out, _, err := replace(token)
		if err != nil {
			return token // only a pattern that backtracks without end fails; its token is left as it is
		}
		return out
	}
	return func(next stage) stage { return whole(&mapStage{next, apply}) }, err
}

// metaspaceStage turns the mark back into spaces, and drops it from the first token.
type metaspaceStage struct {
	next  stage
	mark  string
	drop  bool
	begun bool
}

func loadMetaspaceDecoder(o object) (decoder, error) {
	m, err := loadMetaspace(o)
	if err != nil {
		return nil, err
	}
	return func(next stage) stage {
		return &metaspaceStage{next: next, mark: m.mark, drop: m.prepend != prependNever}
	}, nil
}

func (m *metaspaceStage) push(fragment string, end bool) {
	space := " "
	if !m.begun && m.drop {
		space = ""
	}
	m.begun = m.begun || end
	m.next.push(strings.ReplaceAll(fragment, m.mark, space), end)
}

func (m *metaspaceStage) flush() { m.next.flush() }
