#!/usr/bin/env python3
"""Validate a running server's replies and stream events against OpenAI's API description.

usage: validate_openai.py BASE_URL OPENAPI.json[.gz]        (needs: pip install jsonschema)

Exits 1 and prints every violation. Two liberties are taken with the description: "nullable" (OpenAPI 3.0) is
read as 3.1 means it, and events of a streamed completion may have a null finish_reason, as OpenAI's own do.
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
USAGE = {"stream": True, "stream_options": {"include_usage": True}}

# method, path, body, schema of the reply or of each event
CASES = [
    ("POST", "/v1/chat/completions", CHAT, "CreateChatCompletionResponse"),
    ("POST", "/v1/chat/completions", CHAT | {"n": 3, "temperature": 1.5}, "CreateChatCompletionResponse"),
    ("POST", "/v1/chat/completions", CHAT | {"stream": True}, "CreateChatCompletionStreamResponse"),
    ("POST", "/v1/chat/completions", CHAT | USAGE | {"n": 2}, "CreateChatCompletionStreamResponse"),
    ("POST", "/v1/completions", TEXT, "CreateCompletionResponse"),
    ("POST", "/v1/completions", TEXT | {"prompt": ["a b", "c d"], "n": 2}, "CreateCompletionResponse"),
    ("POST", "/v1/completions", TEXT | {"prompt": [1, 2, 3]} | USAGE, "CreateCompletionResponse"),
    ("GET", "/v1/models", None, "ListModelsResponse"),
    ("GET", "/v1/models/no-such-model", None, "ErrorResponse"),
    ("GET", "/v1/no-such-path", None, "ErrorResponse"),
    ("POST", "/v1/chat/completions", {"messages": []}, "ErrorResponse"),
    ("POST", "/v1/chat/completions", CHAT | {"temperature": "hot"}, "ErrorResponse"),
    ("POST", "/v1/completions", TEXT | {"logprobs": 5}, "ErrorResponse"),
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
    assert blocks[-1] == "data: [DONE]", f"the stream ends with {blocks[-1]!r}"
    return [json.loads(b.removeprefix("data: ")) for b in blocks[:-1]]


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
            if "error" in obj and name != "ErrorResponse":
                violations += 1
                print(f"{method} {path} {json.dumps(body)}: refused: {obj['error']['message']}")
                continue
            if name == "CreateCompletionResponse" and body.get("stream"):
                for choice in obj["choices"]:
                    choice["finish_reason"] = choice["finish_reason"] or "stop"
                if obj.get("usage", 0) is None:
                    del obj["usage"]
            for e in validator.iter_errors(obj):
                violations += 1
                print(f"{method} {path} {json.dumps(body)}: {e.json_path}: {e.message}\n  {json.dumps(obj)}")
    print(f"{objects} objects, {violations} violations")
    sys.exit(violations > 0)


if __name__ == "__main__":
    main()
