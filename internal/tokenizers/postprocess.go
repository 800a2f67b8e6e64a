package tokenizers

// part is one part of the result of post-processing: fixed ids, or the text's own.
type part struct {
	ids  []int32
	text bool
}

// postProcessor turns a list of encodings into another; each is a list of parts. It runs when the tokenizer
// is loaded: what it adds does not depend on the text.
type postProcessor interface {
	process(encodings [][]part, addSpecial bool) ([][]part, error)
	// added is how many ids it adds to a single text.
	added() int
}

// maxResultParts and maxAddedIDs bound what post-processing adds to a text.
const (
	maxResultParts = 256
	maxAddedIDs    = 1 << 16
)

// resultOf returns the parts of the result of post-processing a single text.
func resultOf(p postProcessor, v value, addSpecial bool) ([]part, error) {
	encodings, err := p.process([][]part{{{text: true}}}, addSpecial)
	if err != nil {
		return nil, err
	}
	var parts []part
	ids := 0
	for _, encoding := range encodings {
		parts = append(parts, encoding...)
	}
	for _, p := range parts {
		ids += len(p.ids)
	}
	if len(parts) > maxResultParts || ids > maxAddedIDs {
		return nil, v.errorf("adds %d special tokens in %d parts, more than the %d in %d supported", ids, len(parts), maxAddedIDs, maxResultParts)
	}
	return parts, nil
}

func loadPostProcessor(v value) (postProcessor, error) {
	if v.isNull() {
		return postSequence(nil), nil
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
	case "ByteLevel": // only trims offsets, which this package does not report
		return postSequence(nil), nil
	case "TemplateProcessing":
		return loadTemplate(o)
	case "BertProcessing", "RobertaProcessing":
		return loadEnds(o, kind == "RobertaProcessing")
	case "Sequence":
		parts, err := o.at("processors").list()
		if err != nil {
			return nil, err
		}
		var all postSequence
		for _, part := range parts {
			if part.isNull() {
				return nil, part.want("a post-processor")
			}
			p, err := loadPostProcessor(part)
			if err != nil {
				return nil, err
			}
			all = append(all, p)
		}
		return all, nil
	}
	return nil, o.at("type").errorf("post-processor %.40q is not supported", kind)
}

type postSequence []postProcessor

func (s postSequence) process(encodings [][]part, addSpecial bool) ([][]part, error) {
	for _, p := range s {
		var err error
		if encodings, err = p.process(encodings, addSpecial); err != nil {
			return nil, err
		}
	}
	return encodings, nil
}

func (s postSequence) added() int {
	n := 0
	for _, p := range s {
		n += p.added()
	}
	return n
}

// ends puts cls before a text and sep after it.
type ends struct {
	cls, sep int32
	roberta  bool
}

func loadEnds(o object, roberta bool) (postProcessor, error) {
	e := &ends{roberta: roberta}
	for _, f := range []struct {
		name string
		to   *int32
	}{{"cls", &e.cls}, {"sep", &e.sep}} {
		pair, err := o.at(f.name).list()
		if err != nil {
			return nil, err
		}
		if len(pair) != 2 {
			return nil, o.at(f.name).errorf(`want ["token", id]`)
		}
		if _, err := pair[0].str(); err != nil {
			return nil, err
		}
		id, err := pair[1].integer(maxID)
		if err != nil {
			return nil, err
		}
		*f.to = int32(id)
	}
	return e, nil
}

func (e *ends) added() int { return 2 }

func (e *ends) process(encodings [][]part, addSpecial bool) ([][]part, error) {
	if !addSpecial {
		return encodings, nil
	}
	cls, sep := part{ids: []int32{e.cls}}, part{ids: []int32{e.sep}}
	var out [][]part
	for i, encoding := range encodings {
		var made []part
		switch {
		case i == 0:
			made = append(made, cls)
		case e.roberta:
			made = append(made, sep)
		}
		made = append(made, encoding...)
		out = append(out, append(made, sep))
	}
	return out, nil
}

// template puts the text and special tokens in a fixed order.
type template struct {
	at           value
	single, pair []templatePiece
}

// templatePiece is a special token's ids or, if there are none, one of the encodings.
type templatePiece struct {
	special  bool
	ids      []int32
	sequence int
}

func loadTemplate(o object) (postProcessor, error) {
	specials := map[string][]int32{}
	tokens, err := o.at("special_tokens").object()
	if err != nil {
		return nil, err
	}
	for key, v := range tokens.members {
		token, err := v.object()
		if err != nil {
			return nil, err
		}
		list, err := token.at("ids").list()
		if err != nil {
			return nil, err
		}
		ids := []int32{}
		for _, item := range list {
			id, err := item.integer(maxID)
			if err != nil {
				return nil, err
			}
			ids = append(ids, int32(id))
		}
		specials[key] = ids
	}
	t := &template{at: o.at("single")}
	if t.single, err = loadTemplatePieces(o.at("single"), specials); err != nil {
		return nil, err
	}
	for i, p := range t.single {
		if p.sequence != 0 {
			return nil, value{path: o.at("single").element(i)}.errorf("sequence B in the template for a single text")
		}
	}
	t.pair, err = loadTemplatePieces(o.at("pair"), specials)
	return t, err
}

func loadTemplatePieces(v value, specials map[string][]int32) ([]templatePiece, error) {
	list, err := v.list()
	if err != nil {
		return nil, err
	}
	var out []templatePiece
	for _, item := range list {
		o, err := item.object()
		if err != nil {
			return nil, err
		}
		if token := o.at("SpecialToken"); token.raw != "" {
			inner, err := token.object()
			if err != nil {
				return nil, err
			}
			name, err := inner.at("id").str()
			if err != nil {
				return nil, err
			}
			ids, ok := specials[name]
			if !ok {
				return nil, inner.at("id").errorf("token %.40q is not in special_tokens", name)
			}
			out = append(out, templatePiece{special: true, ids: ids})
			continue
		}
		inner, err := o.at("Sequence").object()
		if err != nil {
			return nil, err
		}
		name, err := inner.at("id").str()
		if err != nil {
			return nil, err
		}
		if name != "A" && name != "B" {
			return nil, inner.at("id").errorf("want A or B, found %.40q", name)
		}
		p := templatePiece{}
		if name == "B" {
			p.sequence = 1
		}
		out = append(out, p)
	}
	return out, nil
}

func (t *template) added() int {
	n := 0
	for _, p := range t.single {
		n += len(p.ids)
	}
	return n
}

// process gives every piece of the template an encoding of its own. So a template after another that has two
// pieces sees a pair, as in the reference.
func (t *template) process(encodings [][]part, addSpecial bool) ([][]part, error) {
	pieces := t.single
	switch len(encodings) {
	case 1:
	case 2:
		pieces = t.pair
	default:
		return nil, t.at.errorf("a template after a post-processor that makes %d parts is not supported", len(encodings))
	}
	var out [][]part
	for _, p := range pieces {
		switch {
		case !p.special:
			out = append(out, encodings[p.sequence])
		case addSpecial:
			out = append(out, []part{{ids: p.ids}})
		}
	}
	return out, nil
}
