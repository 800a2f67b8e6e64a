"""Every example that `troupe schema` shows obeys the JSON Schema beside it, and so does a real answer."""

import json
import os
import subprocess
import urllib.request

import jsonschema

out = subprocess.run([os.environ["TROUPE_BIN"], "schema", "--json"], check=True, capture_output=True, timeout=20).stdout
exchanges = {x["subject"]: x for x in json.loads(out)}
checks = 0
for subject, x in exchanges.items():
    for part in ("request", "reply", "event"):
        if part in x:
            validator = jsonschema.Draft202012Validator(x[part]["schema"])
            validator.check_schema(x[part]["schema"])
            errors = [e.message for e in validator.iter_errors(x[part]["example"])]
            if errors:
                raise SystemExit(f"schema_python: FAILED: the example of {subject}'s {part}: {errors}")
            checks += 1

body = json.dumps({"prompt": "The king", "max_tokens": 3}).encode()
request = urllib.request.Request(os.environ["TROUPE_HTTP_URL"] + "/v1/completions", body, {"Content-Type": "application/json"})
answer = json.load(urllib.request.urlopen(request, timeout=20))
jsonschema.validate(answer, exchanges["inf.v1.generate"]["reply"]["schema"])
print(f"schema_python.py: {checks + 1} checks passed")
