package gateway

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/troupe-engine/troupe/schemas"
)

// roles are those of the OpenAI API. Whether a model's template knows one is the template's business.
var roles = []string{"system", "developer", "user", "assistant", "tool", "function"}

// checkMessages checks the outline of chat messages and joins content given in parts, which most chat
// templates cannot read.
func checkMessages(raw json.RawMessage) (json.RawMessage, *schemas.Error) {
	if raw == nil {
		return nil, invalid("messages", "messages is missing; expected an array of messages")
	}
	var messages []map[string]json.RawMessage
	if err := json.Unmarshal(raw, &messages); err != nil {
		return nil, invalid("messages", "messages is %s; expected an array of objects", clip(string(raw)))
	}
	if len(messages) == 0 || len(messages) > schemas.ChatMessagesMax {
		return nil, invalid("messages", "messages has %d elements; expected 1 to %d", len(messages), schemas.ChatMessagesMax)
	}
	changed := false
	for i, m := range messages {
		at := fmt.Sprintf("messages[%d]", i)
		var role string
		if err := json.Unmarshal(m["role"], &role); err != nil || !slices.Contains(roles, role) {
			return nil, invalid(at+".role", "%s.role is %s; expected one of %s", at, orMissing(m["role"]), strings.Join(roles, ", "))
		}
		changed = dropUnset(m) || changed
		joined, err := checkContent(at+".content", m["content"], role == "assistant")
		if err != nil {
			return nil, err
		}
		if joined != nil {
			m["content"], changed = joined, true
		}
		calls, err := openCalls(at+".tool_calls", m["tool_calls"])
		if err != nil {
			return nil, err
		}
		if calls != nil {
			m["tool_calls"], changed = calls, true
		}
	}
	if !changed {
		return raw, nil
	}
	out, err := json.Marshal(messages)
	if err != nil {
		return nil, schemas.AsError(err, opParse)
	}
	return out, nil
}

// dropUnset removes what a client's message object has but does not say: fields that are null, and calls of which there
// are none. Clients send back answers as they got them, and chat templates ask only whether a message has tool_calls.
func dropUnset(m map[string]json.RawMessage) bool {
	before := len(m)
	maps.DeleteFunc(m, func(name string, v json.RawMessage) bool {
		return name != "content" && string(v) == "null" || name == "tool_calls" && v[0] == '[' && orNil(v) == nil
	})
	return len(m) < before
}

// openCalls turns the arguments of an assistant's calls, which are JSON within a string, into objects: chat templates
// write them as JSON themselves. It returns nil if there is nothing to change.
func openCalls(at string, raw json.RawMessage) (json.RawMessage, *schemas.Error) {
	if raw == nil {
		return nil, nil
	}
	var calls []map[string]json.RawMessage
	if err := json.Unmarshal(raw, &calls); err != nil {
		return nil, invalid(at, "%s is %s; expected an array of calls", at, clip(string(raw)))
	}
	for i, call := range calls {
		var function map[string]json.RawMessage
		if err := json.Unmarshal(call["function"], &function); err != nil || function["name"] == nil {
			return nil, invalid(fmt.Sprintf("%s[%d].function", at, i), "%s[%d].function is %s; expected an object with a name and arguments", at, i, orMissing(call["function"]))
		}
		var text string
		if json.Unmarshal(function["arguments"], &text) != nil {
			continue // an object already, or none
		}
		var object map[string]json.RawMessage
		switch {
		case strings.TrimSpace(text) == "":
			text = "{}"
		case tooDeep([]byte(text)) >= 0 || json.Unmarshal([]byte(text), &object) != nil:
			continue // a model wrote it: the template gets it as it is
		}
		function["arguments"] = json.RawMessage(text)
		call["function"] = mustJSON(function)
	}
	return mustJSON(calls), nil
}

// checkContent accepts a string, or text parts, which it returns joined by newlines.
func checkContent(at string, raw json.RawMessage, optional bool) (joined json.RawMessage, err *schemas.Error) {
	if raw == nil || bytes.Equal(raw, []byte("null")) {
		if optional {
			return nil, nil
		}
		return nil, invalid(at, "%s is %s; expected a string", at, orMissing(raw))
	}
	if raw[0] == '"' {
		return nil, nil
	}
	var parts []struct {
		Type string  `json:"type"`
		Text *string `json:"text"`
	}
	if e := json.Unmarshal(raw, &parts); e != nil || len(parts) == 0 {
		return nil, invalid(at, "%s is %s; expected a string or a non-empty array of text parts", at, clip(string(raw)))
	}
	texts := make([]string, len(parts))
	for i, p := range parts {
		if p.Type != "text" {
			return nil, schemas.Errorf(schemas.KindUnsupported, schemas.OpUnsupported, "%s[%d].type %.40q is not supported yet", at, i, p.Type).
				WithParam(fmt.Sprintf("%s[%d].type", at, i)).WithHint(`send parts of type "text"`)
		}
		if p.Text == nil {
			return nil, invalid(fmt.Sprintf("%s[%d].text", at, i), "%s[%d].text is missing; expected a string", at, i)
		}
		texts[i] = *p.Text
	}
	out, e := json.Marshal(strings.Join(texts, "\n"))
	if e != nil {
		return nil, schemas.AsError(e, opParse)
	}
	return out, nil
}

func orMissing(raw json.RawMessage) string {
	if raw == nil {
		return "missing"
	}
	return clip(string(raw))
}
