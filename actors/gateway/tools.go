package gateway

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"regexp"

	"github.com/troupe-engine/troupe/internal/toolcalls"
	"github.com/troupe-engine/troupe/schemas"
)

// ToolsMax bounds the functions of one request, as OpenAI's API does.
const ToolsMax = 128

// toolset is the functions that an answer may call.
type toolset struct {
	functions []toolcalls.Function
	required  bool             // the answer is calls
	many      bool             // it may have several
	format    toolcalls.Format // how the model writes them
}

// toolSpec is a function as a client describes it.
type toolSpec struct {
	Name       string          `json:"name"`
	Parameters json.RawMessage `json:"parameters"`
}

var toolName = regexp.MustCompile(`^[a-zA-Z0-9_-]{1,64}$`)

// noParameters is the schema of a function that takes none.
const noParameters = `{"type":"object","properties":{},"additionalProperties":false}`

// parseTools reads the fields tools, tool_choice and parallel_tool_calls of a chat request. The toolset is nil if the
// answer cannot call anything.
func parseTools(tools, choice json.RawMessage, parallel *bool) (*toolset, *schemas.Error) {
	var list []struct {
		Type     string    `json:"type"`
		Function *toolSpec `json:"function"`
	}
	if tools != nil {
		if err := json.Unmarshal(tools, &list); err != nil {
			return nil, invalid("tools", "tools is %s; expected an array of objects", clip(string(tools)))
		}
	}
	specs := make([]toolSpec, len(list))
	for i, t := range list {
		if t.Type != "function" {
			return nil, unsupportedTool(i, t.Type)
		}
		if t.Function == nil {
			return nil, invalid(fmt.Sprintf("tools[%d].function", i), "tools[%d].function is missing; expected an object with a name", i)
		}
		specs[i] = *t.Function
	}
	return newToolset(specs, "function.", choice, parallel)
}

func unsupportedTool(i int, kind string) *schemas.Error {
	at := fmt.Sprintf("tools[%d].type", i)
	return schemas.Errorf(schemas.KindUnsupported, schemas.OpUnsupported, "%s %.40q is not supported", at, kind).WithParam(at).WithHint(`describe tools of type "function"`)
}

// newToolset checks functions, whose fields are at path in each tool, and the choice among them.
func newToolset(specs []toolSpec, path string, choice json.RawMessage, parallel *bool) (*toolset, *schemas.Error) {
	if len(specs) > ToolsMax {
		return nil, invalid("tools", "tools has %d elements; expected at most %d", len(specs), ToolsMax)
	}
	t := &toolset{many: parallel == nil || *parallel}
	seen := map[string]bool{}
	for i, f := range specs {
		at := fmt.Sprintf("tools[%d].%s", i, path)
		if !toolName.MatchString(f.Name) || seen[f.Name] {
			return nil, invalid(at+"name", "%sname is %q; expected 1 to 64 letters, digits, _ or -, each name once", at, clip(f.Name))
		}
		seen[f.Name] = true
		schema := noParameters
		if f.Parameters != nil && string(f.Parameters) != "null" {
			var compact bytes.Buffer
			if f.Parameters[0] != '{' || json.Compact(&compact, f.Parameters) != nil {
				return nil, invalid(at+"parameters", "%sparameters is %s; expected a JSON schema", at, clip(string(f.Parameters)))
			}
			schema = compact.String()
		}
		t.functions = append(t.functions, toolcalls.Function{Name: f.Name, Schema: schema})
	}
	return t.choose(choice)
}

// choose applies a tool_choice.
func (t *toolset) choose(choice json.RawMessage) (*toolset, *schemas.Error) {
	var word string
	if choice == nil {
		word = "auto"
	} else if json.Unmarshal(choice, &word) != nil {
		return t.chooseOne(choice)
	}
	switch {
	case word == "none", word == "auto" && len(t.functions) == 0:
		return nil, nil
	case word == "auto":
		return t, nil
	case word != "required":
		return nil, invalid("tool_choice", "tool_choice is %q; expected none, auto, required or a function", clip(word))
	case len(t.functions) == 0:
		return nil, invalid("tool_choice", "tool_choice is required, but there are no tools")
	}
	t.required = true
	return t, nil
}

// chooseOne is choose for {"type": "function", "function": {"name": …}} or, in /v1/responses, {"type": "function", "name": …}.
func (t *toolset) chooseOne(choice json.RawMessage) (*toolset, *schemas.Error) {
	var c struct {
		Type     string `json:"type"`
		Name     string `json:"name"`
		Function struct {
			Name string `json:"name"`
		} `json:"function"`
	}
	if json.Unmarshal(choice, &c) != nil || c.Type == "" {
		return nil, invalid("tool_choice", "tool_choice is %s; expected none, auto, required or a function", clip(string(choice)))
	}
	if c.Type != "function" {
		return nil, schemas.Errorf(schemas.KindUnsupported, schemas.OpUnsupported, "tool_choice of type %.40q is not supported", c.Type).WithParam("tool_choice")
	}
	if c.Name == "" {
		c.Name = c.Function.Name
	}
	for _, f := range t.functions {
		if f.Name == c.Name {
			return &toolset{functions: []toolcalls.Function{f}, required: true}, nil
		}
	}
	return nil, invalid("tool_choice", "tool_choice names %q, but there is no such tool", clip(c.Name))
}

func (t *toolset) knows(name string) bool {
	for i := range t.functions {
		if t.functions[i].Name == name {
			return true
		}
	}
	return false
}

// setTools notes what an answer may call. tool_choice constrains it if it must.
func (j *job) setTools(t *toolset) {
	if j.tools = t; t != nil && t.required && j.guideParam == "" {
		j.guideParam = toolChoiceField
	}
}

// orNil is nil for a list without elements, which templates need not see.
func orNil(list json.RawMessage) json.RawMessage {
	if len(list) < 2 || len(bytes.TrimSpace(list[1:len(list)-1])) == 0 {
		return nil
	}
	return list
}

// useTools settles how the model writes calls, and constrains an answer that must have some. An answer of a
// given JSON form may be calls instead.
func (j *job) useTools(format toolcalls.Format) *schemas.Error {
	t := j.tools
	if t == nil {
		return nil
	}
	t.format = format
	if format.SpecialMarkers() {
		j.detok.KeepSpecial = true // a call's marker would be lost
	}
	otherwise := ""
	if guide := j.guide(); !t.required {
		switch {
		case guide == nil:
			return nil
		case guide.Kind == schemas.GuideSchema:
			otherwise = "%json " + guide.Source
		case guide.Kind == schemas.GuideJSON:
			otherwise = `%json {"type":"object"}`
		default:
			return nil
		}
	}
	grammar := format.Grammar(t.functions, t.many, otherwise)
	if len(grammar) > schemas.GuideBytesMax {
		return invalid("tools", "the schemas of the tools have %d bytes in all; expected at most %d", len(grammar), schemas.GuideBytesMax)
	}
	j.rules().Guide = &schemas.Guide{Kind: schemas.GuideGrammar, Source: grammar}
	return nil
}

const toolChoiceField = "tool_choice"

// parser reads calls in a streamed answer; nil if there can be none.
func (a *answer) parser() *toolcalls.Parser {
	if a.job.tools == nil {
		return nil
	}
	return toolcalls.NewParser(a.job.tools.format, a.job.tools.knows)
}

// parsed is the text and the calls of a whole choice.
func (a *answer) parsed(i int) (text string, calls []toolcalls.Event) {
	text = a.choices[i].text.String()
	if t := a.job.tools; t != nil {
		text, calls = toolcalls.Parse(t.format, text, t.knows)
		if len(calls) > 1 && !t.many {
			calls = calls[:1]
		}
	}
	return text, calls
}

// callID names a call. It is the same whenever the answer is made again.
func (a *answer) callID(choice, call int) string {
	return a.job.tools.format.CallID(sha256.Sum256(fmt.Appendf(nil, "%s/%d/%d", a.id, choice, call)))
}
