package gateway

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/troupe-engine/troupe/schemas"
)

// chatMessage is a message as chat templates know it.
type chatMessage struct {
	Role       string            `json:"role"`
	Content    *string           `json:"content"`
	ToolCalls  []chatMessageCall `json:"tool_calls,omitempty"`
	ToolCallID string            `json:"tool_call_id,omitempty"`
}

type chatMessageCall struct {
	ID       string               `json:"id"`
	Type     string               `json:"type"`
	Function schemas.FunctionCall `json:"function"`
}

// inputItem is an element of a response's input.
type inputItem struct {
	Type      string          `json:"type"`
	Role      string          `json:"role"`
	Content   json.RawMessage `json:"content"`
	CallID    string          `json:"call_id"`
	Name      string          `json:"name"`
	Arguments string          `json:"arguments"`
	Output    json.RawMessage `json:"output"`
}

// messagesOfInput turns a response's instructions and input into chat messages.
func messagesOfInput(r *schemas.ResponsesRequest) (json.RawMessage, *schemas.Error) {
	var messages []chatMessage
	if r.Instructions != nil {
		messages = append(messages, chatMessage{Role: "system", Content: r.Instructions})
	}
	var text string
	var items []json.RawMessage
	switch {
	case r.Input == nil:
		return nil, invalid("input", "input is missing; expected a string or an array of items")
	case json.Unmarshal(r.Input, &text) == nil:
		return mustJSON(append(messages, chatMessage{Role: "user", Content: &text})), nil
	case json.Unmarshal(r.Input, &items) != nil:
		return nil, invalid("input", "input is %s; expected a string or an array of items", clip(string(r.Input)))
	case len(items) == 0 || len(items) > schemas.ChatMessagesMax:
		return nil, invalid("input", "input has %d elements; expected 1 to %d", len(items), schemas.ChatMessagesMax)
	}
	for i, raw := range items {
		at := fmt.Sprintf("input[%d]", i)
		var item inputItem
		if err := json.Unmarshal(raw, &item); err != nil {
			return nil, invalid(at, "%s is %s; expected a message, a function_call or a function_call_output", at, clip(string(raw)))
		}
		var err *schemas.Error
		if messages, err = item.add(messages, at); err != nil {
			return nil, err
		}
	}
	return checkMessages(mustJSON(messages))
}

// add appends what an item says to the conversation.
func (item *inputItem) add(messages []chatMessage, at string) ([]chatMessage, *schemas.Error) {
	switch item.Type {
	case "", "message":
		if !slices.Contains([]string{"user", "assistant", "system", "developer"}, item.Role) {
			return nil, invalid(at+".role", "%s.role is %q; expected user, assistant, system or developer", at, clip(item.Role))
		}
		text, err := itemText(at+".content", item.Content)
		return append(messages, chatMessage{Role: item.Role, Content: &text}), err
	case "function_call":
		if item.Name == "" || item.CallID == "" {
			return nil, invalid(at, "%s has no name or no call_id; expected both", at)
		}
		call := chatMessageCall{ID: item.CallID, Type: "function", Function: schemas.FunctionCall{Name: item.Name, Arguments: item.Arguments}}
		if n := len(messages); n > 0 && messages[n-1].Role == "assistant" { // one message has all calls of a turn
			messages[n-1].ToolCalls = append(messages[n-1].ToolCalls, call)
			return messages, nil
		}
		return append(messages, chatMessage{Role: "assistant", ToolCalls: []chatMessageCall{call}}), nil
	case "function_call_output":
		text, err := itemText(at+".output", item.Output)
		return append(messages, chatMessage{Role: "tool", Content: &text, ToolCallID: item.CallID}), err
	case "reasoning":
		return messages, nil // of an earlier answer: templates leave it out
	}
	return nil, schemas.Errorf(schemas.KindUnsupported, schemas.OpUnsupported, "%s.type %.40q is not supported", at, item.Type).WithParam(at + ".type").
		WithHint("send messages, function_call and function_call_output items")
}

// itemText is a string, or the text parts of an item joined.
func itemText(at string, raw json.RawMessage) (string, *schemas.Error) {
	var text string
	if raw != nil && string(raw) != "null" && json.Unmarshal(raw, &text) == nil {
		return text, nil
	}
	var parts []struct {
		Type string  `json:"type"`
		Text *string `json:"text"`
	}
	if json.Unmarshal(raw, &parts) != nil || parts == nil {
		return "", invalid(at, "%s is %s; expected a string or an array of text parts", at, orMissing(raw))
	}
	texts := make([]string, len(parts))
	for i, p := range parts {
		here := fmt.Sprintf("%s[%d]", at, i)
		if !slices.Contains([]string{"input_text", "output_text", "text"}, p.Type) {
			return "", schemas.Errorf(schemas.KindUnsupported, schemas.OpUnsupported, "%s.type %.40q is not supported", here, p.Type).
				WithParam(here + ".type").WithHint(`send parts of type "input_text"`)
		}
		if p.Text == nil {
			return "", invalid(here+".text", "%s.text is missing; expected a string", here)
		}
		texts[i] = *p.Text
	}
	return strings.Join(texts, "\n"), nil
}

// toolsOfResponse turns a response's tools into those of chat templates.
func toolsOfResponse(raw json.RawMessage) (tools []schemas.ResponseTool, specs []toolSpec, forTemplate json.RawMessage, err *schemas.Error) {
	tools = []schemas.ResponseTool{}
	if raw != nil {
		if e := json.Unmarshal(raw, &tools); e != nil {
			return nil, nil, nil, invalid("tools", "tools is %s; expected an array of functions", clip(string(raw)))
		}
	}
	type function struct {
		Name        string          `json:"name"`
		Description string          `json:"description,omitempty"`
		Parameters  json.RawMessage `json:"parameters,omitempty"`
	}
	type tool struct {
		Type     string   `json:"type"`
		Function function `json:"function"`
	}
	var list []tool
	for i, t := range tools {
		if t.Type != "function" {
			return nil, nil, nil, unsupportedTool(i, t.Type)
		}
		specs = append(specs, toolSpec{Name: t.Name, Parameters: t.Parameters})
		list = append(list, tool{"function", function{t.Name, t.Description, t.Parameters}})
	}
	if list != nil {
		forTemplate = mustJSON(list)
	}
	return tools, specs, forTemplate, nil
}
