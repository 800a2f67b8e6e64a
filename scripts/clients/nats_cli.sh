#!/usr/bin/env bash
# The nats command line: requests, streams, the directory of actors, and taps.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
export NATS_URL=$TROUPE_NATS_URL
work=$(mktemp -d)
listener=
trap '[ -z "$listener" ] || kill "$listener" 2>/dev/null || true; rm -rf "$work"' EXIT
request() { timeout 20 nats req --raw --timeout 10s -H Content-Type:application/json "$@" 2>&1; }

out=$(request inf.v1.models '{}')
has "models" "$out" '"object":"list"'

out=$(request inf.v1.generate '{"prompt": "Once upon a time", "max_tokens": 8, "temperature": 0}')
same "a whole answer" "$(jq -r .usage.completion_tokens <<<"$out")" 8
whole=$(jq -r '.choices[0].text' <<<"$out")

out=$(request --wait-for-empty inf.v1.generate '{"prompt": "Once upon a time", "max_tokens": 8, "temperature": 0, "stream": true}')
same "the streamed text" "$(grep '^{' <<<"$out" | jq -rj '.choices[].text')" "$whole"
same "sequence numbers" "$(grep '^{' <<<"$out" | jq -r .seq | sed -n 1,2p | paste -sd,)" 1,2

out=$(request --wait-for-empty inf.v1.chat '{"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4, "stream": true}')
has "a chat" "$out" '"object":"chat.completion.chunk"'

out=$(request inf.v1.generate '{"prompt": "a", "temperature": -1}')
same "a refused field" "$(grep '^{' <<<"$out" | jq -r .error.param)" temperature
out=$(request inf.v1.cancel '{"id": "cmpl-0000010000000100"}')
same "nothing to cancel" "$(jq -r .cancelled <<<"$out")" false

# The actors are NATS services, with schema and examples.
out=$(timeout 20 nats micro ls 2>&1)
for service in api gateway tokenizer scheduler memory compute; do has "nats micro ls" "$out" "\\b$service\\b"; done
out=$(timeout 20 nats micro info scheduler 2>&1)
has "nats micro info" "$out" 'inf\.v1\.scheduler\.submit'
has "its schema" "$(timeout 20 nats micro info api --json 2>&1)" 'request_schema'
out=$(timeout 20 nats micro stats api --json 2>&1)
[ "$(jq -r '[.. | .endpoints? // empty | .[] | select(.name == "generate") | .num_requests] | add' <<<"$out")" -ge 3 ] ||
  fail "nats micro stats counts requests" "$out"

# What the actors say to each other: tap.> raw, peek.> for people. A listener must be there first.
listen() { # SUBJECT FILE
  timeout 20 nats sub "$1" --count 5 --headers-only >"$2.headers" 2>&1 &
  timeout 20 nats sub "$1" --count 5 >"$2" 2>&1 &
  listener=$!
  for _ in $(seq 50); do grep -q 'Subscribing' "$2" "$2.headers" && break || sleep 0.1; done
  sleep 0.3
  request inf.v1.generate '{"prompt": "Once upon a time", "max_tokens": 8}' >/dev/null
  wait "$listener" || fail "nats sub $1" "$(cat "$2")"
  listener=
}
listen 'tap.>' "$work/tap"
has "tap" "$(tr -d '\0' <"$work/tap")" 'tap\.inf\.v1\.'
listen 'peek.>' "$work/peek"
has "peek" "$(cat "$work/peek")" 'peek\.inf\.v1\.'
has "peek is JSON" "$(cat "$work/peek")" '^\{"'
passed
