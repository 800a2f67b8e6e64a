"""Random JSON schemas through a running engine: every answer parses and validates, whatever max_tokens is.

GUIDED_SCHEMAS says how many (default 40), GUIDED_SEED with which seed.
"""

import concurrent.futures
import json
import os
import random
import time
import urllib.error
import urllib.request

import jsonschema

URL = os.environ["TROUPE_HTTP_URL"] + "/v1/chat/completions"
COUNT, SEED = int(os.environ.get("GUIDED_SCHEMAS", "40")), int(os.environ.get("GUIDED_SEED", "1"))


def schema(r, depth):
    kind = r.choice(["string", "integer", "number", "boolean", "enum", "const", "null"] + ["object", "array", "anyOf"] * (depth > 0))
    if kind == "object":
        names = r.sample(["name", "age", "ok", "items", "größe", "a b", 'q"'], r.randint(1, 4))
        return {"type": "object", "properties": {n: schema(r, depth - 1) for n in names},
                "required": r.sample(names, r.randint(0, len(names))), "additionalProperties": r.choice([False, False, True, {"type": "integer"}])}
    if kind == "array":
        low = r.randint(0, 2)
        return {"type": "array", "items": schema(r, depth - 1), "minItems": low, "maxItems": low + r.randint(0, 3)}
    if kind == "anyOf":
        return {"anyOf": [schema(r, depth - 1) for _ in range(r.randint(1, 3))]}
    if kind == "enum":
        return {"enum": r.sample(["red", "", 0, -3, 1.5, True, None, "\n", "日本", [1, 2], {"k": "v"}], r.randint(1, 4))}
    if kind == "const":
        return {"const": r.choice(["x", 7, None, False])}
    s = {"type": kind}
    if kind == "string":
        low = r.randint(0, 3)
        s |= r.choice([{}, {"minLength": low, "maxLength": low + r.randint(0, 9)}, {"pattern": "^[a-z]{2,5}-[0-9]+$"}, {"format": "date"}])
    elif kind in ("integer", "number"):
        low = r.randint(-50, 50)
        s |= r.choice([{}, {"minimum": low}, {"minimum": low, "maximum": low + r.randint(0, 99)}, {"exclusiveMaximum": low}])
    return s


def distinct(pairs):
    """An object, if no name comes twice."""
    if len(dict(pairs)) < len(pairs):
        raise ValueError(f"a name comes twice: {pairs}")
    return dict(pairs)


def ask(i):
    r = random.Random(SEED * 1_000_003 + i)
    s = schema(r, 3)
    body = {"messages": [{"role": "user", "content": "Describe it."}], "seed": i, "temperature": r.choice([0, 0.7, 1.5]),
            "max_tokens": r.choice([60, 120, 300]), "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": s}}}
    for _ in range(600):
        request = urllib.request.Request(URL, json.dumps(body).encode(), {"Content-Type": "application/json"})
        try:
            answer = json.load(urllib.request.urlopen(request, timeout=60))
            break
        except urllib.error.HTTPError as e:
            error = json.load(e)["error"]
            if e.code == 429:
                time.sleep(0.2)
                continue
            # The only reason to refuse: no answer is that short. Then it must be right about a longer one.
            if e.code == 400 and error["param"] in ("max_tokens", "max_completion_tokens") and body["max_tokens"] < 1500:
                body["max_tokens"] = 1500
                continue
            return f"schema {i}: {e.code} {error}: {json.dumps(s)}"
    else:
        return f"schema {i}: overloaded for too long"
    text = answer["choices"][0]["message"]["content"]
    try:
        jsonschema.Draft202012Validator(s, format_checker=jsonschema.FormatChecker()).validate(json.loads(text, object_pairs_hook=distinct))
    except (ValueError, jsonschema.ValidationError) as e:
        return f"schema {i}: {e}\n{json.dumps(s)}\n{text}"
    return None


with concurrent.futures.ThreadPoolExecutor(16) as pool:
    failures = [f for f in pool.map(ask, range(COUNT)) if f]
for f in failures[:5]:
    print("guided_python: FAILED:", f)
if failures:
    raise SystemExit(f"guided_python: {len(failures)} of {COUNT} answers are not what their schema says")
print(f"guided_python.py: {COUNT} checks passed")
