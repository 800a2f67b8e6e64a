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
answer = client.chat.completions.create(
    model=model,
    messages=[{"role": "user", "content": "The wall should be green."}],
    tools=[{"type": "function", "function": paint}],
    tool_choice="required",
    max_tokens=200,
)
for call in answer.choices[0].message.tool_calls:
    print(call.function.name, json.loads(call.function.arguments))
