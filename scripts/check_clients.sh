#!/usr/bin/env bash
# Starts an engine on free ports and runs the clients of scripts/clients against it. scripts/setup.sh installs
# what they need. Usage: scripts/check_clients.sh [CLIENT...]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export TROUPE_BIN=$PWD/bin/troupe PATH=$PWD/.tools/bin:$PWD/.tools/venv/bin:$PATH
work=$(mktemp -d)
engine=
cleanup() {
  [ -z "$engine" ] || kill -KILL "$engine" 2>/dev/null || true
  rm -rf "$work"
}
trap cleanup EXIT

: >"$work/banner" # it is read before the engine has opened it
"$TROUPE_BIN" serve --http 127.0.0.1:0 --nats-listen 127.0.0.1:0 --json >"$work/banner" 2>"$work/log" &
engine=$!
for _ in $(seq 100); do
  TROUPE_HTTP_URL=$(sed -n 's/.*"http": "\(.*\)",*/\1/p' "$work/banner")
  TROUPE_NATS_URL=$(sed -n 's/.*"nats": "\(.*\)",*/\1/p' "$work/banner")
  [ -z "$TROUPE_NATS_URL" ] || break
  sleep 0.1
done
export TROUPE_HTTP_URL TROUPE_NATS_URL
if [ -z "$TROUPE_NATS_URL" ]; then
  echo "check_clients: the engine did not start:" >&2
  cat "$work/log" >&2
  exit 1
fi

clients=("$@")
[ ${#clients[@]} -gt 0 ] || clients=(curl.sh nats_cli.sh openai_python.py nats_python.py schema_python.py guided_python.py openai_js.mjs nats_js.mjs openapi.sh drain.sh)
status=0
for client in "${clients[@]}"; do
  case $client in
    *.sh) run=(bash "scripts/clients/$client") ;;
    *.py) run=(python3 "scripts/clients/$client") ;;
    # Node looks for packages beside the program.
    *.mjs) cp "scripts/clients/$client" .tools/node/ && run=(node ".tools/node/$client") ;;
  esac
  if ! timeout 240 "${run[@]}"; then
    echo "check_clients: $client failed; the engine's last lines:" >&2
    tail -5 "$work/log" >&2
    status=1
  fi
done

code=0
kill -TERM "$engine"
wait "$engine" || code=$?
engine=
if [ "$code" -ne 0 ] || grep -Eq 'panic|ERR|"level":"error"' "$work/log"; then
  echo "check_clients: the engine ended with $code; its errors:" >&2
  grep -E 'panic|ERR|"level":"error"' "$work/log" | sed -n 1,20p >&2
  status=1
fi
exit $status
