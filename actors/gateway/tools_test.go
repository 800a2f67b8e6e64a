package gateway

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/troupe-engine/troupe/internal/toolcalls"
	"github.com/troupe-engine/troupe/schemas"
)

// say answers with a text in pieces of three bytes, one a token.
func say(text string) func(*engine, *schemas.SubmitRequest) {
	return func(e *engine, r *schemas.SubmitRequest) {
		for c := range int(r.Choices) {
			rest, n := text, int32(0)
			for len(rest) > 0 {
				piece := rest[:min(3, len(rest))]
				rest = rest[len(piece):]
				n++
				d := delta{seq: r.Request.Seq(c), text: piece, tokens: n}
				if rest == "" {
					d.finish = schemas.FinishStop
				}
				e.send(d)
			}
		}
	}
}

const twoCalls = "Well. <tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1}}</tool_call>\n<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>"

func TestToolCallsWhole(t *testing.T) {
	e := startEngine(t, say(twoCalls))
	g, server := startGateway(t, e, nil)
	_, body := post(t, server, "/v1/chat/completions", `{`+hello+`,"tools":[`+toolF+`],"n":2}`)
	c := decode[schemas.ChatCompletion](t, body)
	ids := map[string]bool{}
	for _, choice := range c.Choices {
		m := choice.Message
		if choice.FinishReason != "tool_calls" || m.Content != "Well." || len(m.ToolCalls) != 2 || m.ToolCalls[0].Function.Arguments != `{"a": 1}` || m.ToolCalls[1].Type != "function" {
			t.Fatalf("%s", body)
		}
		ids[m.ToolCalls[0].ID], ids[m.ToolCalls[1].ID] = true, true
	}
	if len(ids) != 4 {
		t.Errorf("call ids repeat: %v", ids)
	}
	_, body = post(t, server, "/v1/chat/completions", `{`+hello+`,"tools":[`+toolF+`],"parallel_tool_calls":false}`)
	if c := decode[schemas.ChatCompletion](t, body); len(c.Choices[0].Message.ToolCalls) != 1 {
		t.Errorf("%s", body)
	}
	_, body = post(t, server, "/v1/chat/completions", `{`+hello+`,"tools":[`+toolF+`],"tool_choice":"none"}`)
	if c := decode[schemas.ChatCompletion](t, body); c.Choices[0].Message.Content != twoCalls || c.Choices[0].FinishReason != "stop" {
		t.Errorf("%s", body)
	}
	e.play = say(`<tool_call>{"name":"f","arguments":{}}</tool_call>`)
	_, body = post(t, server, "/v1/chat/completions", `{`+hello+`,"tools":[`+toolF+`]}`)
	if !strings.Contains(string(body), `"content":null`) {
		t.Errorf("only calls: %s", body)
	}
	settled(t, g, e)
}

func TestToolCallsStreamed(t *testing.T) {
	e := startEngine(t, say(twoCalls))
	g, server := startGateway(t, e, nil)
	_, events := stream(t, context.Background(), server.URL, `,"tools":[`+toolF+`]`)
	text, finish := "", ""
	var calls []schemas.ToolCall
	for data := nextData(events); data != "[DONE]"; data = nextData(events) {
		c := decode[schemas.ChatChunk](t, []byte(data)).Choices[0]
		if c.Delta.Content != nil {
			text += *c.Delta.Content
		}
		for _, call := range c.Delta.ToolCalls {
			if *call.Index == len(calls) { // the first piece has all but the arguments
				if call.ID == "" || call.Type != "function" || call.Function.Name != "f" || call.Function.Arguments != "" {
					t.Errorf("%s", data)
				}
				calls = append(calls, call)
				continue
			}
			if call.ID != "" || call.Function.Name != "" || *call.Index != len(calls)-1 {
				t.Errorf("%s", data)
			}
			calls[*call.Index].Function.Arguments += call.Function.Arguments
		}
		if c.FinishReason != nil {
			finish = *c.FinishReason
		}
	}
	if text != "Well." || finish != "tool_calls" || len(calls) != 2 || calls[0].Function.Arguments != `{"a": 1}` || calls[1].Function.Arguments != `{}` {
		t.Errorf("%q %q %+v", text, finish, calls)
	}
	settled(t, g, e)
}

// A required call is forced by a grammar in the format of the chat template.
func TestToolChoiceIsEnforced(t *testing.T) {
	e := startEngine(t, say("x"))
	e.toolFormat = string(toolcalls.Mistral)
	g, server := startGateway(t, e, nil)
	if g.toolFormat(g.models.own) != toolcalls.Mistral {
		t.Fatalf("the format is %s", g.toolFormat(g.models.own))
	}
	for extra, want := range map[string]string{
		`"tool_choice":"required"`:                                                                        `root ::= "[TOOL_CALLS][" call (", " call)* "]"` + "\n" + `call ::= "{\"name\": \"f\", \"arguments\": " %json {"type":"object"} "}"`,
		`"tool_choice":"required","parallel_tool_calls":false`:                                            `root ::= "[TOOL_CALLS][" call "]"` + "\n",
		`"tool_choice":{"type":"function","function":{"name":"f"}}`:                                       `root ::= "[TOOL_CALLS][" call "]"` + "\n",
		`"response_format":{"type":"json_schema","json_schema":{"name":"x","schema":{"type":"integer"}}}`: `root ::= %json {"type":"integer"} | "[TOOL`,
		`"tool_choice":"auto"`:                                                                            "",
	} {
		resp, body := post(t, server, "/v1/chat/completions", `{`+hello+`,"tools":[`+toolF+`],`+extra+`}`)
		r := <-e.submitted
		got := ""
		if r.Sampling.Rules != nil {
			got = r.Sampling.Rules.Guide.Source
		}
		if resp.StatusCode != 200 || !strings.HasPrefix(got, want) || want == "" && got != "" {
			t.Errorf("%s: %d %s\n got %s\nwant %s", extra, resp.StatusCode, body, got, want)
		}
	}
	if !e.encodes[0].Detok.KeepSpecial {
		t.Error("the marker of calls would be lost with the special tokens")
	}
	resp, body := post(t, server, "/v1/chat/completions", `{`+hello+`,"tools":[{"type":"function","function":{"name":"f","parameters":{"bad":1}}}],"tool_choice":"required"}`)
	if d := decode[schemas.ErrorReply](t, body).Error; resp.StatusCode != 400 || *d.Param != "tool_choice" {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}

func TestCallsReachTheTemplateAsObjects(t *testing.T) {
	for arguments, want := range map[string]string{`"{\"b\": 1, \"a\": 2}"`: `{"b":1,"a":2}`, `""`: `{}`, `{"a":1}`: `{"a":1}`, `"no JSON"`: `"no JSON"`, `"[1]"`: `"[1]"`} {
		raw := fmt.Sprintf(`[{"role":"assistant","content":null,"tool_calls":[{"id":"x","type":"function","function":{"name":"f","arguments":%s}}]},{"role":"tool","tool_call_id":"x","content":"3"}]`, arguments)
		got, err := checkMessages([]byte(raw))
		if err != nil || !strings.Contains(string(got), `"arguments":`+want) || !strings.Contains(string(got), `"tool_call_id":"x"`) {
			t.Errorf("%s became %s, %v", raw, got, err)
		}
	}
}
