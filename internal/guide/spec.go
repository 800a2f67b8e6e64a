package guide

import (
	"fmt"
	"strings"
)

// Kind names the language a constraint is written in.
type Kind string

// The kinds of constraints.
const (
	// JSONObject is any JSON object (OpenAI's response_format {"type": "json_object"}).
	JSONObject Kind = "json_object"
	// JSONSchema is JSON Schema draft 2020-12, less what doc.go lists.
	JSONSchema Kind = "json_schema"
	// Regex is the regular common subset of ECMA-262 and Python expressions; the whole answer must match.
	Regex Kind = "regex"
	// GBNF is a grammar as llama.cpp writes it, with %json and %regex as terminals.
	GBNF Kind = "grammar"
)

// Spec is a constraint as a client sends it. Source is the text of the schema, expression or grammar; JSONObject
// has none.
type Spec struct {
	Kind   Kind
	Source string
}

// Error says what is wrong with a constraint, where, and what to try. At is a JSON pointer into a schema
// ("#/properties/a/pattern") or a position in an expression or grammar ("line 2, column 7").
type Error struct {
	At      string
	Problem string
	Hint    string
}

func (e *Error) Error() string {
	var b strings.Builder
	if e.At != "" {
		b.WriteString(e.At + ": ")
	}
	b.WriteString(e.Problem)
	if e.Hint != "" {
		b.WriteString("; " + e.Hint)
	}
	return b.String()
}

// Validate parses the constraint fully, without a vocabulary. What it accepts, Compile may still refuse if the
// vocabulary cannot write any answer or the automaton becomes too large. The error is an *Error.
func (s Spec) Validate() error {
	_, err := s.parse()
	return err
}

// parse turns the source into grammar IR. Frontends report problems by panicking with *Error, as they recurse deep.
func (s Spec) parse() (g *grammarIR, err error) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case *Error:
			g, err = nil, p
		default:
			panic(p)
		}
	}()
	if len(s.Source) > sourceBytesMax {
		return nil, &Error{Problem: fmt.Sprintf("the source has %d bytes, the limit is %d", len(s.Source), sourceBytesMax)}
	}
	b := &builder{}
	var root *node
	switch s.Kind {
	case JSONObject:
		if s.Source != "" {
			return nil, &Error{Problem: "json_object takes no source", Hint: "use json_schema to send a schema"}
		}
		root = newSchemaCompiler(b).anyObject()
	case JSONSchema:
		root = newSchemaCompiler(b).root(s.Source)
	case Regex:
		root = parseRegex(b, s.Source).fullMatch()
	case GBNF:
		root = parseGBNF(b, s.Source)
	default:
		return nil, &Error{Problem: fmt.Sprintf("unknown kind %q", string(s.Kind)),
			Hint: "use json_object, json_schema, regex or grammar"}
	}
	return b.finish(root), nil
}
