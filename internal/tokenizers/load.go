package tokenizers

import "fmt"

// Load reads a tokenizer.json. An error is a *FieldError that names the field at fault, such as
// model.vocab["foo"]: a component that is not supported, a value of the wrong type, an id that is taken or out
// of range, a merge of tokens that do not exist. Fields that concern only padding, offsets and pairs of texts are
// checked, if at all, and not used.
func Load(tokenizerJSON []byte) (*Tokenizer, error) {
	v, err := parseJSON(tokenizerJSON)
	if err != nil {
		return nil, err
	}
	o, err := v.object()
	if err != nil {
		return nil, err
	}
	if version := o.at("version"); version.raw != "" && version.raw != `"1.0"` {
		return nil, version.errorf("want \"1.0\", found %.20s", version.raw)
	}
	t := &Tokenizer{}
	t.scratch.New = func() any { return new(encodeScratch) }
	if t.model, err = loadModel(o.at("model")); err != nil {
		return nil, err
	}
	if t.normalizer, err = loadNormalizer(o.at("normalizer")); err != nil {
		return nil, err
	}
	if t.preTokenizers, err = loadPreTokenizers(o.at("pre_tokenizer")); err != nil {
		return nil, err
	}
	if t.decoder, err = loadDecoder(o.at("decoder")); err != nil {
		return nil, err
	}
	if t.added, err = loadAdded(o.at("added_tokens"), t.model, t.normalizer); err != nil {
		return nil, err
	}
	post, err := loadPostProcessor(o.at("post_processor"))
	if err != nil {
		return nil, err
	}
	for i, addSpecial := range []bool{false, true} {
		if t.result[i], err = resultOf(post, o.at("post_processor"), addSpecial); err != nil {
			return nil, err
		}
	}
	if t.truncation, err = loadTruncation(o.at("truncation"), post.added()); err != nil {
		return nil, err
	}
	t.passRawBytes()
	t.fillDecoded()
	return t, nil
}

// passRawBytes lets a BPE model take raw bytes if the last pre-tokenizer would spell them out for it.
func (t *Tokenizer) passRawBytes() {
	m, isBPE := t.model.(*bpe)
	if n := len(t.preTokenizers); isBPE && n > 0 {
		if last, ok := t.preTokenizers[n-1].(*byteLevel); ok {
			last.keepBytes = true
			m.useRawBytes()
		}
	}
}

// fillDecoded makes the table that decoding uses.
func (t *Tokenizer) fillDecoded() {
	grow := func(id int32) *decodedToken {
		for int(id) >= len(t.decoded) {
			t.decoded = append(t.decoded, decodedToken{})
		}
		return &t.decoded[id]
	}
	if v := vocabOf(t.model); v != nil {
		t.decoded = make([]decodedToken, len(v.tokens), len(v.tokens)+len(t.added.tokens))
		for id, known := range v.known {
			t.decoded[id] = decodedToken{text: v.tokens[id], known: known, special: t.added.special[v.tokens[id]]}
		}
	}
	for id := range t.added.tokens {
		text, _ := t.added.token(id)
		*grow(id) = decodedToken{text: text, known: true, special: t.added.special[text]}
	}
}

func vocabOf(m model) *vocab {
	switch m := m.(type) {
	case *bpe:
		return &m.vocab
	case *unigram:
		return &m.vocab
	case *wordPiece:
		return &m.vocab
	case *wordLevel:
		return &m.vocab
	}
	return nil
}

// truncation limits the length of an encoding.
type truncation struct {
	most       int // ids in all
	added      int // ids that the post-processor adds
	left       bool
	secondOnly bool
}

func loadTruncation(v value, added int) (*truncation, error) {
	if v.isNull() {
		return nil, nil
	}
	o, err := v.object()
	if err != nil {
		return nil, err
	}
	most, err := o.at("max_length").integer(maxID)
	if err != nil {
		return nil, err
	}
	if most < int64(added) {
		return nil, o.at("max_length").errorf("%d is less than the %d special tokens", most, added)
	}
	if _, err := o.at("stride").integer(maxID); err != nil {
		return nil, err
	}
	t := &truncation{most: int(most), added: added}
	strategy, err := o.at("strategy").str()
	if err != nil {
		return nil, err
	}
	switch strategy {
	case "LongestFirst", "OnlyFirst":
	case "OnlySecond":
		t.secondOnly = true
	default:
		return nil, o.at("strategy").errorf("unknown strategy %.40q", strategy)
	}
	if d := o.at("direction"); d.raw != "" {
		direction, err := d.str()
		if err != nil {
			return nil, err
		}
		if direction != "Left" && direction != "Right" {
			return nil, d.errorf("want Left or Right, found %.40q", direction)
		}
		t.left = direction == "Left"
	}
	return t, nil
}

// cut shortens the ids of a text.
func (t *truncation) cut(ids []int32, addSpecial bool) ([]int32, error) {
	most := t.most
	if addSpecial {
		most -= t.added
	}
	if len(ids) <= most {
		return ids, nil
	}
	if t.secondOnly && most > 0 {
		return nil, fmt.Errorf("encode: %d ids exceed the limit of %d, and only a second text may be truncated", len(ids), most)
	}
	if t.left {
		return ids[len(ids)-most:], nil
	}
	return ids[:most], nil
}
