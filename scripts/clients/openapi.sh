#!/usr/bin/env bash
# Replies and stream events obey OpenAI's API description, and no request that can be made of ours gets a 5xx, but
# for 504, with which a client's own deadline_ms ends:
# scripts/validate_openai.py, and schemathesis (installed once into .cache) for SCHEMATHESIS_SECONDS.
set -euo pipefail
description=../shared/openai/openapi.json.gz
if [ -f "$description" ]; then
  python3 scripts/validate_openai.py "$TROUPE_HTTP_URL" "$description"
else
  description=
  echo "openapi.sh: SKIPPED: ../shared/openai/openapi.json.gz is not here; replies are not validated against it"
fi

VERSION=4.32.5
tool=.cache/schemathesis
if [ "$(cat "$tool/.version" 2>/dev/null)" != "$VERSION" ]; then
  rm -rf "$tool"
  python3 -m venv "$tool"
  "$tool/bin/pip" install --quiet --disable-pip-version-check "schemathesis==$VERSION"
  echo "$VERSION" >"$tool/.version"
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 scripts/openapi.py "$TROUPE_HTTP_URL" ${description:+"$description"} >"$work/openapi.json"
cat >"$work/schemathesis.toml" <<'END'
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", "504"]
END
if ! (cd "$work" && "$OLDPWD/$tool/bin/st" run openapi.json --url "$TROUPE_HTTP_URL" --checks not_a_server_error --phases coverage,fuzzing \
  --max-examples 40 --max-time "${SCHEMATHESIS_SECONDS:-45}" --request-timeout 60 --no-shrink --suppress-health-check all --warnings off) >"$work/log" 2>&1; then
  tail -60 "$work/log" >&2
  echo 'openapi.sh: FAILED: schemathesis' >&2
  exit 1
fi
echo "openapi.sh: schemathesis:$(grep -A1 'Test cases:' "$work/log" | tail -1)"
