package toolcalls

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

func known(name string) bool { return name == "f" || name == "get_weather" }

// shown is an answer as text with its calls: "text|f({…})".
func shown(text string, calls []Event) string {
	for _, c := range calls {
		text += "|" + c.Name + "(" + c.Arguments + ")"
	}
	return text
}

// stream reads an answer in pieces of n bytes.
func stream(t *testing.T, f Format, answer string, n int) (text string, calls []Event) {
	p := NewParser(f, known)
	take := func(events []Event) {
		for _, e := range events {
			switch {
			case e.Text != "":
				text += e.Text
			case e.Name != "":
				if e.Call != len(calls) || !known(e.Name) {
					t.Fatalf("%q: %+v is call %d", answer, e, len(calls))
				}
				calls = append(calls, e)
			case e.Call != len(calls)-1 || e.Arguments == "":
				t.Fatalf("%q: %+v after %d calls", answer, e, len(calls))
			default:
				calls[e.Call].Arguments += e.Arguments
			}
		}
	}
	for ; len(answer) > n; answer = answer[n:] {
		take(p.Push(answer[:n]))
	}
	take(p.Push(answer))
	take(p.Close())
	if p.Calls() != len(calls) {
		t.Fatalf("%q: %d calls, %d were told", answer, p.Calls(), len(calls))
	}
	return text, calls
}

const good = `{"name": "f", "arguments": {"a": [1, {"b": "}\"]"}]}}`

var cases = []struct {
	format       Format
	answer, want string
	streamed     string // if it differs: a call that breaks after it was announced
}{
	{Hermes, "Hello.", "Hello.", ""},
	{Hermes, "<tool_call>\n" + good + "\n</tool_call>", `|f({"a": [1, {"b": "}\"]"}]})`, ""},
	{Hermes, "Let me see.\n\n<tool_call>" + good + "</tool_call>\n<tool_call>\n{\"arguments\":{},\"name\":\"get_weather\"}</tool_call>\n", `Let me see.|f({"a": [1, {"b": "}\"]"}]})|get_weather({})`, ""},
	{Hermes, "<tool_call>" + good, `|f({"a": [1, {"b": "}\"]"}]})`, ""},
	{Hermes, "<tool_call>" + good + "</tool_", `|f({"a": [1, {"b": "}\"]"}]})`, ""},
	{Hermes, "<tool_call>" + good + " and more", ` and more|f({"a": [1, {"b": "}\"]"}]})`, ""},
	{Hermes, `<tool_call>{"name":"f"}</tool_call>`, `|f({})`, ""},
	{Hermes, `<tool_call>{"name":"f","arguments":null}</tool_call>`, `|f({})`, ""},
	{Hermes, `<tool_call>{"name":"f","arguments":"{\"x\":1}","id":-1.5e3}</tool_call>`, `|f({"x":1})`, ""},
	{Hermes, `<tool_call>{"n\u0061me":"\u0066","arguments":{}}</tool_call>`, `|f({})`, ""},
	{Hermes, `<tool_call>{"name":"g","arguments":{}}</tool_call>`, `<tool_call>{"name":"g","arguments":{}}</tool_call>`, ""},
	{Hermes, `<tool_call>{"arguments":{}}</tool_call>`, `<tool_call>{"arguments":{}}</tool_call>`, ""},
	{Hermes, `<tool_call>{"name":"f","name":"f"}`, `<tool_call>{"name":"f","name":"f"}`, ""},
	{Hermes, `<tool_call>{"name":"f","arguments":[1]}`, `<tool_call>{"name":"f","arguments":[1]}`, ""},
	{Hermes, `<tool_call>{"name":"f","arguments":"x"}`, `<tool_call>{"name":"f","arguments":"x"}`, ""},
	{Hermes, `<tool_call>{"name":"f","arguments":{"a":}}</tool_call>`, `<tool_call>{"name":"f","arguments":{"a":}}</tool_call>`, `}}</tool_call>|f({"a":)`},
	{Hermes, `<tool_call>{"name":"f","arguments":{"a":"b`, `<tool_call>{"name":"f","arguments":{"a":"b`, `|f({"a":"b)`},
	{Hermes, "Use <tool_call> tags, <tool <b> \n <tool_call>" + good, `Use <tool_call> tags, <tool <b>|f({"a": [1, {"b": "}\"]"}]})`, ""},
	{Hermes, "a <tool_cal", "a <tool_cal", ""},
	{Hermes, "a \n", "a \n", ""},
	{Hermes, "<<tool_call>" + good, `<|f({"a": [1, {"b": "}\"]"}]})`, ""},
	{Llama3, `{"name": "f", "parameters": {"a": "é"}}`, `|f({"a": "é"})`, ""},
	{Llama3, ` <|python_tag|>{"name": "f", "parameters": {}}; {"name": "f", "parameters": {"a":1}}`, `|f({})|f({"a":1})`, ""},
	{Llama3, `{"answer": 42}`, `{"answer": 42}`, ""},
	{Llama3, `{"name": "Ada"} is her`, `{"name": "Ada"} is her`, ""},
	{Llama3, `Sure: {"name": "f", "parameters": {}}`, `Sure: {"name": "f", "parameters": {}}`, ""},
	{Llama3, `<|python_tag|>print(1)`, `<|python_tag|>print(1)`, ""},
	{Llama3, `<|python`, `<|python`, ""},
	{Llama3, "\n ", "\n ", ""},
	{Mistral, `[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}, {"name": "get_weather", "arguments": {}}]`, `|f({"a": 1})|get_weather({})`, ""},
	{Mistral, `Text [TOOL_CALLS] [ {"name": "f"} ] more`, `Text more|f({})`, ""},
	{Mistral, `[TOOL_CALLS]{"name": "f"}`, `|f({})`, ""},
	{Mistral, `[TOOL_CALLS][]`, `[TOOL_CALLS][]`, ""},
	{Mistral, `[TOOL_CALLS][1]`, `[TOOL_CALLS][1]`, ""},
	{Mistral, `[TOOL_CALLS][{"name": "f"},]`, `,]|f({})`, ""},
	{Mistral, `[TOOL_CALLS][{"name": "f"}{"name": "f"}]`, `{"name": "f"}]|f({})`, ""},
	{Mistral, `[1, 2] [TOOL`, `[1, 2] [TOOL`, ""},
	{MistralArgs, `[TOOL_CALLS]f[ARGS]{"a": {"b": 1}}[TOOL_CALLS]get_weather[ARGS]{}`, `|f({"a": {"b": 1}})|get_weather({})`, ""},
	{MistralArgs, `[TOOL_CALLS]f[CALL_ID]abc123def[ARGS]{"a":1}`, `|f({"a":1})`, ""},
	{MistralArgs, `[TOOL_CALLS]f{"a":1}`, `|f({"a":1})`, ""},
	{MistralArgs, `[TOOL_CALLS]g[ARGS]{"a":1}`, `[TOOL_CALLS]g[ARGS]{"a":1}`, ""},
	{MistralArgs, `[TOOL_CALLS]f[ARGS]x{"a":1}`, `[TOOL_CALLS]f[ARGS]x{"a":1}`, ""},
	{MistralArgs, `[TOOL_CALLS]f[CALL_ID]x{"a":1}`, `[TOOL_CALLS]f[CALL_ID]x{"a":1}`, ""},
	{MistralArgs, `[TOOL_CALLS]f[ARGS]{"a":`, `[TOOL_CALLS]f[ARGS]{"a":`, `|f({"a":)`},
	{MistralArgs, `[TOOL_CALLS]f[ARGS]{"a":,}`, `[TOOL_CALLS]f[ARGS]{"a":,}`, `,}|f({"a":)`},
}

func TestAnswers(t *testing.T) {
	for _, c := range cases {
		if got := shown(Parse(c.format, c.answer, known)); got != c.want {
			t.Errorf("%s %q:\n got %s\nwant %s", c.format, c.answer, got, c.want)
		}
		want := c.streamed
		if want == "" {
			want = c.want
		}
		for n := 1; n <= len(c.answer); n++ {
			if got := shown(stream(t, c.format, c.answer, n)); got != want {
				t.Errorf("%s %q in pieces of %d:\n got %s\nwant %s", c.format, c.answer, n, got, want)
				break
			}
		}
	}
}

// The name comes once, with the first event, and the arguments in pieces as they are written.
func TestEventsOfACall(t *testing.T) {
	p := NewParser(Hermes, known)
	var got []string
	for _, piece := range []string{"<tool_", "call>{\"name\": \"f\", ", "\"arguments\": {\"a\"", ": 1", "}}</tool_call>"} {
		for _, e := range p.Push(piece) {
			got = append(got, fmt.Sprintf("%d %s %s", e.Call, e.Name, e.Arguments))
		}
	}
	if want := "0 f {\"a\", 0  : 1, 0  }"; strings.Join(got, ", ") != want {
		t.Errorf("got %s; want %s", strings.Join(got, ", "), want)
	}
}

func TestScannerAgreesWithEncodingJSON(t *testing.T) {
	for _, text := range []string{`{}`, `[]`, `{"a":1}`, `{"a":01}`, `{"a":-}`, `{"a":-0.5e+10,"b":[true,false,null]}`, `{"a":1.}`, `{"a":1e}`, `{"a":tru}`, `{,}`, `{"a"}`, `{"a":1,}`,
		`[1,]`, `{"a":"\u12aF\n"}`, `{"a":"\u12"}`, `{"a":"\x"}`, "{\"a\":\"\n\"}", `[[[[]]]]`, `[}`, `{"a":[}`, ` { "a" : [ 1 , 2 ] } `, `"x"`, `{"a":1}}`, `{"a":1} x`} {
		checkScanner(t, text)
	}
}

func checkScanner(t *testing.T, text string) {
	var s scanner
	ok := true
	for i := 0; i < len(text) && ok; i++ {
		ok = s.step(text[i])
	}
	got := ok && s.state == finished
	want := json.Valid([]byte(text))
	if first := strings.TrimLeft(text, " \t\r\n"); first == "" || first[0] != '{' && first[0] != '[' {
		return // a number or literal alone is of no interest here
	}
	if got != want && strings.Count(text, "[")+strings.Count(text, "{") <= depthMax {
		t.Fatalf("%q: got %v, want %v", text, got, want)
	}
}

// Whatever the answer, the pieces it comes in make no difference, nothing is lost, and complete calls are valid.
func FuzzParser(f *testing.F) {
	for _, c := range cases {
		f.Add(c.answer, uint8(3))
	}
	f.Fuzz(func(t *testing.T, answer string, n uint8) {
		checkScanner(t, answer)
		for _, format := range Formats() {
			text, calls := Parse(format, answer, known)
			for _, c := range calls {
				if !known(c.Name) || !json.Valid([]byte(c.Arguments)) || strings.TrimSpace(c.Arguments)[0] != '{' {
					t.Fatalf("%s %q: call %+v", format, answer, c)
				}
			}
			if len(text) > len(answer) {
				t.Fatalf("%s %q: text %q", format, answer, text)
			}
			if text, _ := Parse(format, answer, func(string) bool { return false }); text != answer {
				t.Fatalf("%s: no tool is known, and %q became %q", format, answer, text)
			}
			whole := shown(stream(t, format, answer, len(answer)+1))
			if pieces := shown(stream(t, format, answer, int(n)+1)); pieces != whole {
				t.Fatalf("%s %q: whole %q, in pieces %q", format, answer, whole, pieces)
			}
		}
	})
}

// Hostile answers cost time in proportion to their length.
func TestHostileAnswersAreReadInLinearTime(t *testing.T) {
	const size = 1 << 20
	for _, unit := range []string{"<tool_call>", `<tool_call>{"a":"`, "[TOOL_CALLS]", "[TOOL_CALLS][", `{"name":"`, "[", "{", `{"a":`, " ", "\n\n", "<", `\`, `<tool_call>{"name":"f","arguments":{`, "x"} {
		answer := strings.Repeat(unit, size/len(unit))
		for _, format := range Formats() {
			began := time.Now()
			Parse(format, answer, known)
			p := NewParser(format, known)
			for i := 0; i < len(answer); i += 16 {
				p.Push(answer[i:min(i+16, len(answer))])
			}
			p.Close()
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("%s: a megabyte of %q takes %s", format, unit, took)
			}
		}
	}
}

func TestDetect(t *testing.T) {
	for template, want := range map[string]Format{
		"{%- for tool in tools %}<tools>…<tool_call>": Hermes,
		"[TOOL_CALLS][AVAILABLE_TOOLS]":               Mistral,
		"[TOOL_CALLS]name[ARGS]":                      MistralArgs,
		"<|python_tag|>":                              Llama3,
		"{{ messages }}":                              "",
	} {
		if got := Detect(template); got != want {
			t.Errorf("%q: got %q, want %q", template, got, want)
		}
	}
}

func TestCallIDs(t *testing.T) {
	digest := [32]byte{1, 2, 3}
	if id := Hermes.CallID(digest); id != "call_BCDAAAAAAAAAAAAAAAAAAAAA" {
		t.Error(id)
	}
	if id := Mistral.CallID(digest); len(id) != 9 {
		t.Error(id)
	}
}
