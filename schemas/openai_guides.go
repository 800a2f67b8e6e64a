package schemas

import (
	"fmt"
	"strings"
)

// GuideParams are the fields of generating requests that constrain the answer's text. At most one may be set:
// OpenAI's response_format, our regex and grammar, or the names that vLLM has had for them.
type GuideParams struct {
	ResponseFormat    *ResponseFormat    `json:"response_format,omitempty"`
	Regex             string             `json:"regex,omitempty" jsonschema_description:"the whole answer matches this regular expression"`
	Grammar           string             `json:"grammar,omitempty" jsonschema_description:"the whole answer derives from this grammar (GBNF)"`
	StructuredOutputs *StructuredOutputs `json:"structured_outputs,omitempty"`
	GuidedJSON        Text               `json:"guided_json,omitempty"`
	GuidedRegex       string             `json:"guided_regex,omitempty"`
	GuidedChoice      []string           `json:"guided_choice,omitempty"`
	GuidedGrammar     string             `json:"guided_grammar,omitempty"`
}

// ResponseFormat says what an answer must be.
type ResponseFormat struct {
	Type       string      `json:"type" jsonschema:"enum=text,enum=json_object,enum=json_schema"`
	JSONSchema *JSONFormat `json:"json_schema,omitempty"`
}

// JSONFormat is the schema of a response format. Every answer obeys it, strict or not.
type JSONFormat struct {
	Name        string `json:"name,omitempty"`
	Description string `json:"description,omitempty"`
	Schema      Text   `json:"schema"`
	Strict      *bool  `json:"strict,omitempty"`
}

// StructuredOutputs is vLLM's form: exactly one field is set.
type StructuredOutputs struct {
	JSON       Text     `json:"json,omitempty"`
	JSONObject bool     `json:"json_object,omitempty"`
	Regex      string   `json:"regex,omitempty"`
	Choice     []string `json:"choice,omitempty"`
	Grammar    string   `json:"grammar,omitempty"`
}

// Guide kinds.
const (
	GuideJSON    = "json_object"
	GuideSchema  = "json_schema"
	GuideRegex   = "regex"
	GuideGrammar = "grammar"
)

// GuideChoicesMax bounds guided_choice.
const GuideChoicesMax = 1024

// Guide returns the constraint and the field that asks for it; nil and "" if none does.
func (p *GuideParams) Guide() (guide *Guide, param string, err *Error) {
	take := func(name string, set bool, g *Guide) {
		switch {
		case !set || err != nil:
		case guide != nil:
			err = Errorf(KindInvalid, "validate", "%s and %s are both set; expected at most one", param, name).WithParam(name)
		default:
			guide, param = g, name
		}
	}
	if f := p.ResponseFormat; f != nil {
		g, refused := f.guide()
		if refused != nil {
			return nil, "", refused
		}
		take("response_format", g != nil, g)
	}
	if s := p.StructuredOutputs; s != nil {
		take("structured_outputs.json", s.JSON != "", &Guide{Kind: GuideSchema, Source: string(s.JSON)})
		take("structured_outputs.json_object", s.JSONObject, &Guide{Kind: GuideJSON})
		take("structured_outputs.regex", s.Regex != "", &Guide{Kind: GuideRegex, Source: s.Regex})
		take("structured_outputs.choice", s.Choice != nil, choiceGuide(s.Choice))
		take("structured_outputs.grammar", s.Grammar != "", &Guide{Kind: GuideGrammar, Source: s.Grammar})
	}
	take("regex", p.Regex != "", &Guide{Kind: GuideRegex, Source: p.Regex})
	take("grammar", p.Grammar != "", &Guide{Kind: GuideGrammar, Source: p.Grammar})
	take("guided_json", p.GuidedJSON != "", &Guide{Kind: GuideSchema, Source: string(p.GuidedJSON)})
	take("guided_regex", p.GuidedRegex != "", &Guide{Kind: GuideRegex, Source: p.GuidedRegex})
	take("guided_choice", p.GuidedChoice != nil, choiceGuide(p.GuidedChoice))
	take("guided_grammar", p.GuidedGrammar != "", &Guide{Kind: GuideGrammar, Source: p.GuidedGrammar})
	switch {
	case err != nil || guide == nil:
		return nil, "", err
	case guide.Source == "" && guide.Kind != GuideJSON:
		found := "empty"
		if n := len(p.choices()); n > 0 {
			found = fmt.Sprintf("%d choices long", n)
		}
		return nil, "", outOfRange(param, found, fmt.Sprintf("1 to %d choices", GuideChoicesMax))
	case len(guide.Source) > GuideBytesMax:
		return nil, "", outOfRange(param, fmt.Sprintf("%d bytes long", len(guide.Source)), fmt.Sprintf("at most %d", GuideBytesMax))
	}
	return guide, param, nil
}

// choices are the answers of which one is wanted, wherever they stand.
func (p *GuideParams) choices() []string {
	if s := p.StructuredOutputs; s != nil && s.Choice != nil {
		return s.Choice
	}
	return p.GuidedChoice
}

func (f *ResponseFormat) guide() (*Guide, *Error) {
	switch {
	case f.JSONSchema != nil && f.Type != GuideSchema:
		return nil, outOfRange("response_format.json_schema", "set", `it only with type "json_schema"`)
	case f.Type == "text":
		return nil, nil
	case f.Type == GuideJSON:
		return &Guide{Kind: GuideJSON}, nil
	case f.Type != GuideSchema:
		return nil, outOfRange("response_format.type", fmt.Sprintf("%.40q", f.Type), "text, json_object or json_schema")
	case f.JSONSchema == nil || f.JSONSchema.Schema == "":
		return nil, outOfRange("response_format.json_schema.schema", "missing", "a JSON schema")
	}
	return &Guide{Kind: GuideSchema, Source: string(f.JSONSchema.Schema)}, nil
}

// choiceGuide is the grammar of a list of answers. Its source is empty if there are none, or too many.
func choiceGuide(choices []string) *Guide {
	g := &Guide{Kind: GuideGrammar}
	if len(choices) == 0 || len(choices) > GuideChoicesMax {
		return g
	}
	quoted := make([]string, len(choices))
	for i, c := range choices {
		quoted[i] = QuoteGrammar(c)
	}
	g.Source = "root ::= " + strings.Join(quoted, " | ")
	return g
}

// QuoteGrammar writes s as a terminal of a grammar.
func QuoteGrammar(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r < 0x20 || r == 0x7f:
			fmt.Fprintf(&b, `\x%02x`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
