"""Lets the model call a function, whose arguments obey their schema. Needs: pip install openai"""

import json
import os

from openai import OpenAI

client = OpenAI(base_url=os.environ.get("TROUPE_HTTP_URL", "http://127.0.0.1:8000") + "/v1", api_key=os.environ.get("TROUPE_API_KEY", "-"))
model = client.models.list().data[0].id
paint = {
    "name": "paint",
    "description": "Paints the wall.",
    "parameters": {
        "type": "object",
        "properties": {"color": {"type": "string", "enum": ["red", "green"]}},
        "required": ["color"],
        "additionalProperties": False,
    },
}
tools = [{"type": "function", "function": paint}]
messages = [{"role": "user", "content": "The wall should be green."}]
answer = client.chat.completions.create(model=model, messages=messages, tools=tools, tool_choice="required", max_tokens=200)
messages.append(answer.choices[0].message)
for call in answer.choices[0].message.tool_calls:
    print(call.function.name, json.loads(call.function.arguments))
    messages.append({"role": "tool", "tool_call_id": call.id, "content": "The wall is painted."})
told = client.chat.completions.create(model=model, messages=messages, tools=tools, tool_choice="none", max_tokens=40)
print(told.choices[0].message.content)
