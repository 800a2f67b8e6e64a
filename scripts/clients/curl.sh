#!/usr/bin/env bash
# HTTP with curl: whole and streamed answers, the framing of server-sent events, and errors.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
url=$TROUPE_HTTP_URL
json='Content-Type: application/json'

# request PATH BODY [curl options]: sets $status, $headers and $body.
request() {
  local path=$1 data=$2 out
  shift 2
  out=$(curl -sS -m 20 -D - -w '\n%{http_code}' -H "$json" ${data:+-d "$data"} "$@" "$url$path" | tr -d '\r')
  status=${out##*$'\n'}
  out=${out%$'\n'*}
  headers=${out%%$'\n\n'*}
  body=${out#*$'\n\n'}
}

request /health ''
same "health" "$status" 200
request /health/ready ''
same "ready" "$status" 200
request /v1/models ''
model=$(jq -er '.data[0].id' <<<"$body")

request /v1/completions '{"prompt": "Once upon a time", "max_tokens": 8, "temperature": 0}'
same "completion" "$status" 200
same "its object" "$(jq -r .object <<<"$body")" text_completion
same "its length" "$(jq -r .usage.completion_tokens <<<"$body")" 8
whole=$(jq -r '.choices[0].text' <<<"$body")
[ -n "$whole" ] || fail "the completion is empty" "$body"

# Server-sent events: every block is one data line and an empty line; the last is [DONE].
request /v1/completions '{"prompt": "Once upon a time", "max_tokens": 8, "temperature": 0, "stream": true}' -N
same "stream" "$status" 200
has "its type" "$headers" '^[Cc]ontent-[Tt]ype: text/event-stream'
lines=$(grep -v '^:' <<<"$body")
same "lines that are not data" "$(grep -cvE '^(data: .*)?$' <<<"$lines" || true)" 0
same "the last event" "$(grep . <<<"$lines" | tail -1)" 'data: [DONE]'
same "two data lines in a row" "$(awk '/^data: /{n++; if (n>1) bad++} /^$/{n=0} END{print bad+0}' <<<"$lines")" 0
text=$(grep '^data: {' <<<"$lines" | sed 's/^data: //' | jq -rj '.choices[].text')
same "the streamed text" "$text" "$whole"

request /v1/chat/completions '{"messages": [{"role": "user", "content": "Tell me a story."}], "max_tokens": 8, "stream": true, "stream_options": {"include_usage": true}}' -N
events=$(grep '^data: {' <<<"$body" | sed 's/^data: //')
same "the first chat event's role" "$(head -1 <<<"$events" | jq -r '.choices[0].delta.role')" assistant
same "the last chat event's usage" "$(tail -1 <<<"$events" | jq -r '.usage.completion_tokens')" 8
same "finish reasons" "$(jq -r '.choices[]?.finish_reason // empty' <<<"$events")" length

# Errors have OpenAI's shape and name the field.
refused() { # WHAT PATH BODY STATUS PARAM
  request "$2" "$3"
  same "$1: status" "$status" "$4"
  same "$1: param" "$(jq -r '.error.param' <<<"$body")" "$5"
  has "$1: message" "$(jq -r '.error.message' <<<"$body")" .
}
refused "temperature" /v1/completions '{"prompt": "a", "temperature": -1}' 400 temperature
refused "unknown field" /v1/completions '{"prompt": "a", "temprature": 1}' 400 temprature
refused "no prompt" /v1/completions '{}' 400 prompt
refused "unknown model" /v1/completions '{"prompt": "a", "model": "nosuch"}' 404 model
refused "not JSON" /v1/completions '{"prompt": ' 400 null
refused "bad role" /v1/chat/completions '{"messages": [{"role": "king", "content": "x"}]}' 400 'messages[0].role'
refused "too long" /v1/completions '{"prompt": "a", "max_tokens": 10000000}' 400 max_tokens
request /nowhere ''
same "unknown path" "$status" 404
request /v1/models '{}'
same "wrong method" "$status" 405
has "allowed methods" "$headers" '^Allow: .*GET'

request /metrics ''
has "our metrics" "$body" "^troupe_generation_tokens_total\{model_name=\"$model\"\} [1-9]"
has "vLLM's names" "$body" "^vllm:generation_tokens_total\{model_name=\"$model\"\} [1-9]"
request /debug/scheduler/state ''
same "the scheduler's state" "$(jq -r .running <<<"$body")" 0

# A client that goes away frees its sequence.
curl -sS -m 0.3 -N -H "$json" -d '{"prompt": "a", "max_tokens": 1900, "ignore_eos": true, "stream": true}' "$url/v1/completions" >/dev/null 2>&1 || true
for _ in $(seq 50); do
  request /debug/memory/state ''
  used=$(jq -r .used <<<"$body")
  [ "$used" != 0 ] || break
  sleep 0.1
done
same "blocks in use after the client left" "$used" 0
passed
