package toolcalls

import (
	"strings"

	"github.com/troupe-engine/troupe/schemas"
)

// Format is how a model writes calls.
type Format string

// The formats. Keys of a call's object are "name" and "arguments" or "parameters", in any order.
const (
	// Hermes is that of Nous Hermes and Qwen: <tool_call>{"name": …, "arguments": {…}}</tool_call>, any number of times.
	// Source: https://github.com/NousResearch/Hermes-Function-Calling
	Hermes Format = "hermes"
	// Llama3 is an answer that consists of {"name": …, "parameters": {…}}, after <|python_tag|> or not; several are
	// separated by semicolons. Source: https://www.llama.com/docs/model-cards-and-prompt-formats/llama3_1
	Llama3 Format = "llama3"
	// Mistral is [TOOL_CALLS] and an array of objects. Source: https://docs.mistral.ai/capabilities/function_calling
	Mistral Format = "mistral"
	// MistralArgs is that of tokenizer versions from 11 on: [TOOL_CALLS]name[ARGS]{…}, any number of times.
	MistralArgs Format = "mistral-args"
)

// Formats lists the formats.
func Formats() []Format { return []Format{Hermes, Llama3, Mistral, MistralArgs} }

// Detect returns the format that a chat template speaks of, "" for none.
func Detect(template string) Format {
	has := func(s string) bool { return strings.Contains(template, s) }
	switch {
	case has("[TOOL_CALLS]") && has("[ARGS]"):
		return MistralArgs
	case has("[TOOL_CALLS]"):
		return Mistral
	case has("<tool_call>"):
		return Hermes
	case has("<|python_tag|>") || has("ipython") && has("parameters"):
		return Llama3
	}
	return ""
}

// SpecialMarkers reports whether what marks a call are special tokens, which text usually leaves out.
func (f Format) SpecialMarkers() bool { return f != Hermes }

// CallID makes the id of a call from a digest. Mistral's templates want nine letters or digits.
func (f Format) CallID(digest [32]byte) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	prefix, length := "call_", 24
	if f == Mistral || f == MistralArgs {
		prefix, length = "", 9
	}
	id := make([]byte, length)
	for i := range id {
		id[i] = alphabet[int(digest[i])%len(alphabet)]
	}
	return prefix + string(id)
}

// Function is a tool: its name and the JSON schema of its arguments.
type Function struct {
	Name   string
	Schema string
}

// Grammar is that of an answer that consists of calls of the functions: of one, or of any number; or else, if
// otherwise is not "", of what derives from that expression. It is for package guide, whose %json {…} is a value of a
// schema.
func (f Format) Grammar(functions []Function, many bool, otherwise string) string {
	argumentsKey := "arguments"
	if f == Llama3 {
		argumentsKey = "parameters"
	}
	calls := make([]string, len(functions))
	for i, fn := range functions {
		before, after := `{"name": "`+fn.Name+`", "`+argumentsKey+`": `, ` "}"`
		if f == MistralArgs {
			before, after = fn.Name+"[ARGS]", ""
		}
		calls[i] = schemas.QuoteGrammar(before) + " %json " + fn.Schema + after
	}
	around := map[Format][3]string{ // before, between and after calls
		Hermes:      {"<tool_call>\n", "\n</tool_call>\n<tool_call>\n", "\n</tool_call>"},
		Llama3:      {"", "; ", ""},
		Mistral:     {"[TOOL_CALLS][", ", ", "]"},
		MistralArgs: {"[TOOL_CALLS]", "[TOOL_CALLS]", ""},
	}[f]
	quote := func(s string) string {
		if s == "" {
			return ""
		}
		return schemas.QuoteGrammar(s) + " "
	}
	root := "root ::= "
	if otherwise != "" {
		root += otherwise + " | "
	}
	root += quote(around[0]) + "call"
	if many {
		root += " (" + quote(around[1]) + "call)*"
	}
	if around[2] != "" {
		root += " " + schemas.QuoteGrammar(around[2])
	}
	return root + "\ncall ::= " + strings.Join(calls, " | ")
}
