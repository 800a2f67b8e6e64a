#!/usr/bin/env python3
"""Validate a running server's replies and stream events against OpenAI's API description.

usage: validate_openai.py BASE_URL OPENAPI.json[.gz]        (needs: pip install jsonschema)

Exits 1 and prints every violation. These liberties are taken with the description, where OpenAI's own replies
differ from it: "nullable" (OpenAPI 3.0) is read as 3.1 means it; events of a streamed completion may have a null
finish_reason; embeddings may be base64; the first token of an echoed prompt has the log-probability null.
"""
import gzip
import json
import sys
import urllib.error
import urllib.request

from jsonschema import Draft202012Validator

MESSAGES = [{"role": "user", "content": "Once upon a time"}]
CHAT = {"messages": MESSAGES, "max_tokens": 4}
TEXT = {"prompt": "Once upon a time", "max_tokens": 4}
RESPONSE = {"input": "Once upon a time", "max_output_tokens": 16}
STREAM = {"stream": True}
USAGE = {"stream": True, "stream_options": {"include_usage": True}}

COLORS = {"type": "object", "properties": {"color": {"enum": ["red", "green"]}}, "required": ["color"], "additionalProperties": False}
PAINT = {"name": "paint", "description": "Paints the wall.", "parameters": COLORS, "strict": True}
TOOLS = {"tools": [{"type": "function", "function": PAINT}], "tool_choice": "required", "max_tokens": 200}
NAMED = TOOLS | {"tool_choice": {"type": "function", "function": {"name": "paint"}}}
SCHEMA = {"response_format": {"type": "json_schema", "json_schema": {"name": "wall", "schema": COLORS, "strict": True}}, "max_tokens": 60}
RESPONSE_TOOLS = {"tools": [{"type": "function"} | PAINT], "tool_choice": "required", "max_output_tokens": 200}
RESPONSE_SCHEMA = {"text": {"format": {"type": "json_schema", "name": "wall", "schema": COLORS, "strict": True}}, "max_output_tokens": 60}
RESPONSE_ITEMS = {"input": [
    {"role": "user", "content": [{"type": "input_text", "text": "Paint it."}]},
    {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Which colour?", "annotations": []}]},
    {"role": "user", "content": "Red."}]}
LOGPROBS = {"logprobs": True, "top_logprobs": 3}

WHOLE_CHAT, CHAT_EVENT, COMPLETION = "CreateChatCompletionResponse", "CreateChatCompletionStreamResponse", "CreateCompletionResponse"
WHOLE_RESPONSE, RESPONSE_EVENT, EMBEDDING, ERROR = "Response", "ResponseStreamEvent", "CreateEmbeddingResponse", "ErrorResponse"

# method, path, body, schema of the reply or of each event
CASES = [
    ("POST", "/v1/chat/completions", CHAT, WHOLE_CHAT),
    ("POST", "/v1/chat/completions", CHAT | {"n": 3, "temperature": 1.5}, WHOLE_CHAT),
    ("POST", "/v1/chat/completions", CHAT | STREAM, CHAT_EVENT),
    ("POST", "/v1/chat/completions", CHAT | USAGE | {"n": 2}, CHAT_EVENT),
    ("POST", "/v1/chat/completions", CHAT | LOGPROBS, WHOLE_CHAT),
    ("POST", "/v1/chat/completions", CHAT | LOGPROBS | USAGE, CHAT_EVENT),
    ("POST", "/v1/chat/completions", CHAT | TOOLS, WHOLE_CHAT),
    ("POST", "/v1/chat/completions", CHAT | TOOLS | STREAM, CHAT_EVENT),
    ("POST", "/v1/chat/completions", CHAT | NAMED | LOGPROBS | USAGE, CHAT_EVENT),
    ("POST", "/v1/chat/completions", CHAT | TOOLS | {"tool_choice": "auto"}, WHOLE_CHAT),
    ("POST", "/v1/chat/completions", CHAT | SCHEMA, WHOLE_CHAT),
    ("POST", "/v1/chat/completions", CHAT | SCHEMA | STREAM, CHAT_EVENT),
    ("POST", "/v1/completions", TEXT, COMPLETION),
    ("POST", "/v1/completions", TEXT | {"prompt": ["a b", "c d"], "n": 2}, COMPLETION),
    ("POST", "/v1/completions", TEXT | {"prompt": [1, 2, 3]} | USAGE, COMPLETION),
    ("POST", "/v1/completions", TEXT | {"logprobs": 5}, COMPLETION),
    ("POST", "/v1/completions", TEXT | {"logprobs": 2} | STREAM, COMPLETION),
    ("POST", "/v1/completions", TEXT | {"logprobs": 2, "echo": True, "max_tokens": 0}, COMPLETION),
    ("POST", "/v1/responses", RESPONSE, WHOLE_RESPONSE),
    ("POST", "/v1/responses", RESPONSE | STREAM, RESPONSE_EVENT),
    ("POST", "/v1/responses", RESPONSE | {"instructions": "Be brief.", "metadata": {"a": "b"}, "temperature": 0, "user": "u", "store": False}, WHOLE_RESPONSE),
    ("POST", "/v1/responses", RESPONSE | {"include": ["message.output_text.logprobs"], "top_logprobs": 2}, WHOLE_RESPONSE),
    ("POST", "/v1/responses", RESPONSE | {"include": ["message.output_text.logprobs"], "top_logprobs": 2} | STREAM, RESPONSE_EVENT),
    ("POST", "/v1/responses", RESPONSE | RESPONSE_TOOLS, WHOLE_RESPONSE),
    ("POST", "/v1/responses", RESPONSE | RESPONSE_TOOLS | STREAM, RESPONSE_EVENT),
    ("POST", "/v1/responses", RESPONSE | RESPONSE_SCHEMA, WHOLE_RESPONSE),
    ("POST", "/v1/responses", RESPONSE | RESPONSE_SCHEMA | STREAM, RESPONSE_EVENT),
    ("POST", "/v1/responses", RESPONSE | RESPONSE_ITEMS, WHOLE_RESPONSE),
    ("POST", "/v1/embeddings", {"input": "a king"}, EMBEDDING),
    ("POST", "/v1/embeddings", {"input": [[1, 2], [3]], "encoding_format": "float"}, EMBEDDING),
    ("POST", "/v1/embeddings", {"input": ["a", "b"], "encoding_format": "base64"}, EMBEDDING),
    ("GET", "/v1/models", None, "ListModelsResponse"),
    ("GET", "/v1/models/no-such-model", None, ERROR),
    ("GET", "/v1/no-such-path", None, ERROR),
    ("DELETE", "/v1/chat/completions", None, ERROR),
    ("POST", "/v1/chat/completions", {"messages": []}, ERROR),
    ("POST", "/v1/chat/completions", CHAT | {"temperature": "hot"}, ERROR),
    ("POST", "/v1/chat/completions", CHAT | {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": 5}}}}, ERROR),
    ("POST", "/v1/completions", TEXT | {"suffix": "the end"}, ERROR),
    ("POST", "/v1/responses", RESPONSE | {"previous_response_id": "resp_1"}, ERROR),
    ("POST", "/v1/embeddings", {"input": "a", "dimensions": 3}, ERROR),
]


def repair(schema):
    """Turn nullable into a union with null, everywhere."""
    if isinstance(schema, list):
        return [repair(s) for s in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {k: repair(v) for k, v in schema.items()}
    if schema.pop("nullable", False) is True:
        return {"anyOf": [schema, {"type": "null"}]}
    return schema


def ask(base, method, path, body):
    """Return the reply's objects: one, or those of a stream."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(base + path, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            text = reply.read().decode()
            streamed = reply.headers["Content-Type"].startswith("text/event-stream")
    except urllib.error.HTTPError as e:
        return [json.loads(e.read())]
    if not streamed:
        return [json.loads(text)]
    blocks = [b for b in text.split("\n\n") if b and not b.startswith(":")]
    if path != "/v1/responses":  # whose last event says itself that it is the last
        assert blocks.pop() == "data: [DONE]", f"the stream of {path} does not end with [DONE]"
    objects = []
    for block in blocks:
        name, _, line = block.rpartition("\n")
        obj = json.loads(line.removeprefix("data: "))
        assert name == (f"event: {obj['type']}" if path == "/v1/responses" else ""), block
        objects.append(obj)
    return objects


def forgive(obj, body, name):
    """Take the liberties that the top of this file lists."""
    if name == COMPLETION:
        for choice in obj["choices"]:
            if body.get("stream"):
                choice["finish_reason"] = choice["finish_reason"] or "stop"
            if body.get("echo") and choice["logprobs"]:
                assert choice["logprobs"]["token_logprobs"].pop(0) is None
                assert choice["logprobs"]["top_logprobs"].pop(0) is None
        if obj.get("usage", 0) is None:
            del obj["usage"]
    if name == EMBEDDING and body.get("encoding_format") == "base64":
        for element in obj["data"]:
            assert isinstance(element["embedding"], str)
            element["embedding"] = []


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    base, path = sys.argv[1].rstrip("/"), sys.argv[2]
    with (gzip.open if path.endswith(".gz") else open)(path, "rt") as f:
        description = repair(json.load(f))
    objects = violations = 0
    for method, path, body, name in CASES:
        validator = Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": description["components"]})
        for obj in ask(base, method, path, body):
            objects += 1
            if obj.get("error") and name not in (ERROR, RESPONSE_EVENT):
                violations += 1
                print(f"{method} {path} {json.dumps(body)}: refused: {obj['error']['message']}")
                continue
            forgive(obj, body, name)
            for e in validator.iter_errors(obj):
                violations += 1
                print(f"{method} {path} {json.dumps(body)}: {e.json_path}: {e.message[:2000]}\n  {json.dumps(obj)}")
    print(f"{objects} objects, {violations} violations")
    sys.exit(violations > 0)


if __name__ == "__main__":
    main()
