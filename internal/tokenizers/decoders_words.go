package tokenizers

import "strings"

// wordPieceStage joins the parts of words and puts spaces between words.
type wordPieceStage struct {
	next    stage
	prefix  string
	cleanup bool
	begun   bool
}

func loadWordPieceDecoder(o object) (decoder, error) {
	prefix, err := o.at("prefix").str()
	if err != nil {
		return nil, err
	}
	cleanup, err := o.at("cleanup").boolean()
	return func(next stage) stage {
		return whole(&wordPieceStage{next: next, prefix: prefix, cleanup: cleanup})
	}, err
}

func (w *wordPieceStage) token(token string) {
	if w.begun {
		if part, ok := strings.CutPrefix(token, w.prefix); ok {
			token = part
		} else {
			token = " " + token
		}
	}
	w.begun = true
	if w.cleanup {
		token = cleanUp(token)
	}
	w.next.push(token, true)
}

func (w *wordPieceStage) flush() { w.next.flush() }

// cleanUp takes out the spaces that tokenization put before punctuation and in English contractions.
func cleanUp(text string) string {
	for _, pair := range [][2]string{
		{" .", "."}, {" ?", "?"}, {" !", "!"}, {" ,", ","}, {" ' ", "'"}, {" n't", "n't"}, {" 'm", "'m"},
		{" do not", " don't"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"},
	} {
		text = strings.ReplaceAll(text, pair[0], pair[1])
	}
	return text
}

// bpeStage turns the suffix that ends words into a space, except in the last token; so it is one behind.
type bpeStage struct {
	next   stage
	suffix string
	last   string
	begun  bool
}

func loadBPEDecoder(o object) (decoder, error) {
	suffix, err := o.at("suffix").str()
	return func(next stage) stage { return whole(&bpeStage{next: next, suffix: suffix}) }, err
}

func (b *bpeStage) token(token string) {
	if b.begun {
		b.next.push(strings.ReplaceAll(b.last, b.suffix, " "), true)
	}
	b.last, b.begun = token, true
}

func (b *bpeStage) flush() {
	if b.begun {
		b.next.push(strings.ReplaceAll(b.last, b.suffix, ""), true)
	}
	b.next.flush()
}

// ctcStage drops repeated tokens and padding, as CTC models (Graves et al. 2006) emit them.
type ctcStage struct {
	next           stage
	pad, delimiter string
	cleanup        bool
	last           string
	begun          bool
}

func loadCTC(o object) (decoder, error) {
	pad, err := o.at("pad_token").str()
	if err != nil {
		return nil, err
	}
	delimiter, err := o.at("word_delimiter_token").str()
	if err != nil {
		return nil, err
	}
	cleanup, err := o.at("cleanup").boolean()
	return func(next stage) stage {
		return whole(&ctcStage{next: next, pad: pad, delimiter: delimiter, cleanup: cleanup})
	}, err
}

func (c *ctcStage) token(token string) {
	if c.begun && token == c.last {
		return
	}
	c.last, c.begun = token, true
	token = strings.ReplaceAll(token, c.pad, "")
	if c.cleanup {
		token = strings.ReplaceAll(cleanUp(token), c.delimiter, " ")
	}
	if token != "" {
		c.next.push(token, true)
	}
}

func (c *ctcStage) flush() { c.next.flush() }
