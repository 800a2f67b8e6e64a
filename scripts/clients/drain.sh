#!/usr/bin/env bash
# SIGTERM: the running stream finishes, a new request gets 503, the exit code is 0; a second signal, or the
# end of the grace period, cuts off.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
work=$(mktemp -d)
engine=
trap '[ -z "$engine" ] || kill -KILL "$engine" 2>/dev/null || true; rm -rf "$work"' EXIT
# Slow enough to be caught in the middle: one thread of plain Go.
export TROUPE_CPU_TIER=go

start() { # OPTIONS...: sets $engine and $url
  : >"$work/banner" # it is read before the engine has opened it
  "$TROUPE_BIN" serve --http 127.0.0.1:0 --nats-listen none --threads 1 --json "$@" >"$work/banner" 2>"$work/log" &
  engine=$!
  for _ in $(seq 100); do
    url=$(sed -n 's/.*"http": "\(.*\)".*/\1/p' "$work/banner")
    [ -z "$url" ] || return 0
    sleep 0.1
  done
  fail "the engine did not start" "$(cat "$work/log")"
}

stream() { # TOKENS: streams into $work/stream and waits for the first event
  curl -sS -m 60 -N -H 'Content-Type: application/json' -d "{\"prompt\": \"a\", \"max_tokens\": $1, \"ignore_eos\": true, \"stream\": true}" \
    "$url/v1/completions" >"$work/stream" 2>&1 &
  reader=$!
  for _ in $(seq 100); do
    ! grep -q '^data: {' "$work/stream" || return 0
    sleep 0.05
  done
  fail "the stream did not start" "$(cat "$work/stream")"
}

status() { curl -sS -m 5 -o /dev/null -w '%{http_code}' -H 'Content-Type: application/json' -d '{"prompt": "a", "max_tokens": 2}' "$url/v1/completions"; }
exit_code() { # waits for the engine
  code=0
  wait "$engine" || code=$?
  engine=
}

start --grace 60s
stream 600
same "a request before the signal" "$(status)" 200
kill -TERM "$engine"
sleep 0.3
same "a request after the signal" "$(status)" 503
wait "$reader" || fail "the running stream broke" "$(tail -c 500 "$work/stream")"
has "the stream's end" "$(tail -5 "$work/stream")" '^data: \[DONE\]'
has "its finish reason" "$(cat "$work/stream")" '"finish_reason":"length"'
exit_code
same "exit code after a drain" "$code" 0

start --grace 300ms
stream 1900
kill -INT "$engine"
wait "$reader" || true
has "a stream cut off by the grace period says why" "$(cat "$work/stream")" 'shutting down; the answer is incomplete'
exit_code
same "exit code after a cut" "$code" 0

start --grace 60s
stream 1900
kill -TERM "$engine"
sleep 0.3
kill -TERM "$engine"
exit_code
same "exit code after two signals" "$code" 143
wait "$reader" || true
passed
