package gateway

import (
	"encoding/json"

	"github.com/troupe-engine/troupe/schemas"
)

// checkTools lets tools through to the template when the answer cannot call them: calls are not parsed yet.
func checkTools(tools, choice json.RawMessage) (json.RawMessage, *schemas.Error) {
	var list []map[string]json.RawMessage
	if tools != nil {
		if err := json.Unmarshal(tools, &list); err != nil {
			return nil, invalid("tools", "tools is %s; expected an array of objects", clip(string(tools)))
		}
	}
	none := choice != nil && string(choice) == `"none"`
	if len(list) == 0 {
		if choice != nil && !none && string(choice) != `"auto"` {
			return nil, invalid("tool_choice", "tool_choice is %s, but there are no tools", clip(string(choice)))
		}
		return nil, nil
	}
	if !none {
		return nil, schemas.Errorf(schemas.KindUnsupported, schemas.OpUnsupported, "tools: tool calls are not supported yet").
			WithParam("tools").WithHint(`leave tools out, or send tool_choice "none" to only show them to the model`)
	}
	return tools, nil
}
