#!/usr/bin/env python3
"""Print an OpenAPI description of a running server's client endpoints, made of the JSON Schemas in its /debug listing.

usage: openapi.py BASE_URL [OPENAPI.json[.gz]]

With OpenAI's own description, requests are described by it on the paths that both have.
"""
import gzip
import json
import sys
import urllib.request


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    with urllib.request.urlopen(sys.argv[1].rstrip("/") + "/debug", timeout=20) as reply:
        listing = json.load(reply)
    published, components = {}, {}
    if len(sys.argv) == 3:
        path = sys.argv[2]
        with (gzip.open if path.endswith(".gz") else open)(path, "rt") as f:
            description = json.load(f)
        published, components = description["paths"], description["components"]
    paths = {}
    for client in listing["clients"]:
        path = client.get("path")
        if not path:
            continue
        method = "get" if path == "/v1/models" else "post"
        operation = {"operationId": client["subject"], "responses": {"default": {"description": "a reply or an error"}}}
        if method == "post":
            schema = client["request_schema"]
            theirs = published.get(path.removeprefix("/v1"), {}).get("post")
            if theirs:
                schema = theirs["requestBody"]["content"]["application/json"]["schema"]
            operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": inline(schema, f"{path}")}}}
        paths[path] = {method: operation}
    paths["/v1/models/{model}"] = {"get": {"operationId": "model", "responses": {"default": {"description": "a reply or an error"}},
                                           "parameters": [{"name": "model", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}]}}
    components = {"schemas": components.get("schemas", {}) | DEFINITIONS}
    json.dump({"openapi": "3.1.0", "info": {"title": "Troupe", "version": "1"}, "paths": paths, "components": components}, sys.stdout)


DEFINITIONS = {}


def inline(schema, prefix):
    """Move a schema's $defs to the components, where OpenAPI looks for them."""
    prefix = prefix.strip("/").replace("/", "_")

    def rename(node):
        if isinstance(node, list):
            return [rename(n) for n in node]
        if not isinstance(node, dict):
            return node
        node = {k: rename(v) for k, v in node.items() if k not in ("$schema", "$id")}
        if node.get("$ref", "").startswith("#/$defs/"):
            node["$ref"] = "#/components/schemas/" + prefix + "_" + node["$ref"].removeprefix("#/$defs/")
        return node

    schema = rename(schema)
    for name, definition in schema.pop("$defs", {}).items():
        DEFINITIONS[prefix + "_" + name] = definition
    return schema


if __name__ == "__main__":
    main()
