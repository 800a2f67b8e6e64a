#!/usr/bin/env bash
# Runs every block of README.md, or of another document, that is marked `run`, against an engine on free ports, and checks that no block
# of commands or code goes unmarked (`ci`: .ci/run has those lines itself). Usage: scripts/check_readme.sh [FILE]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
document=${1:-README.md}
export PATH=$root/.tools/bin:$root/.tools/venv/bin:$PATH
work=$(mktemp -d)
engine=
cleanup() {
  [ -z "$engine" ] || kill -KILL "$engine" 2>/dev/null || true
  rm -rf "$work" "$root/.tools/readme" "$root/load.troupe" "$root/bench.txt"
}
trap cleanup EXIT

# Splits the README into $work/N.LANGUAGE files.
awk -v dir="$work" '
  /^```[a-z]/ { split(substr($0, 4), word, " "); inside = 1
    if (word[2] == "run" || word[2] == "ci") { n++; file = sprintf("%s/%02d.%s.%s", dir, n, word[2], word[1]); printf "" > file }
    else { printf "%s:%d: block %s is marked neither run nor ci\n", FILENAME, FNR, $0; bad = 1; file = "" }
    next }
  /^```/ { if (inside) { inside = 0; file = ""; next } plain = !plain; next }
  inside && file { print > file }
  END { exit bad }
' "$document"

make -s build
: >"$work/banner" # it is read before the engine has opened it
bin/troupe serve --http 127.0.0.1:0 --nats-listen 127.0.0.1:0 --json >"$work/banner" 2>"$work/log" &
engine=$!
for _ in $(seq 100); do
  http=$(sed -n 's|.*"http": "http://\(.*\)",*|\1|p' "$work/banner")
  nats=$(sed -n 's|.*"nats": "nats://\(.*\)",*|\1|p' "$work/banner")
  [ -z "$nats" ] || break
  sleep 0.1
done
[ -n "$nats" ] || { cat "$work/log" >&2; exit 1; }
# `make run` must not wait for Ctrl-C, nor need the ports of the text.
export NATS_URL=nats://$nats ONCE=1 HTTP=127.0.0.1:0 NATS=127.0.0.1:0

count=0
shopt -s nullglob
for block in "$work"/*.run.* "$work"/*.ci.*; do
  language=${block##*.}
  if [[ $block == *.ci.* ]]; then
    while read -r line; do
      grep -qxF -- "$line" .ci/run || { echo "check_readme: .ci/run does not run: $line" >&2; exit 1; }
    done <"$block"
    continue
  fi
  sed -i "s/127\.0\.0\.1:8000/$http/g; s/127\.0\.0\.1:4222/$nats/g" "$block"
  case $language in
    sh) run=(bash -euo pipefail "$block") ;;
    python) run=(python3 "$block") ;;
    js) cp "$block" .tools/node/readme.mjs && run=(node .tools/node/readme.mjs) ;;
    go) mkdir -p .tools/readme && cp "$block" .tools/readme/main.go && run=(go run .tools/readme/main.go) ;;
    *) echo "check_readme: cannot run $language" >&2; exit 1 ;;
  esac
  if ! timeout 180 "${run[@]}" >"$work/out" 2>&1 </dev/null; then
    echo "check_readme: this block of $document failed:" >&2
    cat "$block" "$work/out" >&2
    exit 1
  fi
  # A command that is refused over NATS or HTTP exits with 0 all the same.
  if grep -aE '"error":|Nats-Service-Error|no responders|panic:' "$work/out"; then
    echo "check_readme: this block of $document was answered with an error:" >&2
    cat "$block" "$work/out" >&2
    exit 1
  fi
  [ -s "$work/out" ] || { echo "check_readme: this block prints nothing:" >&2; cat "$block" >&2; exit 1; }
  count=$((count + 1))
done

[ "$document" = README.md ] || examples=
for example in ${examples-openai_chat.py nats_generate.py openai_chat.mjs}; do
  export TROUPE_HTTP_URL=http://$http TROUPE_NATS_URL=nats://$nats
  case $example in
    *.py) timeout 60 python3 "examples/clients/$example" ;;
    *.mjs) cp "examples/clients/$example" .tools/node/ && timeout 60 node ".tools/node/$example" ;;
  esac >"$work/out"
  [ "$(wc -w <"$work/out")" -ge 5 ] || { echo "check_readme: $example printed too little" >&2; exit 1; }
  count=$((count + 1))
done
[ "$document" != README.md ] || timeout 120 go run ./examples/embed >/dev/null
kill -TERM "$engine"
wait "$engine" || { echo "check_readme: the engine ended with an error:" >&2; tail -5 "$work/log" >&2; exit 1; }
engine=
echo "check_readme: $count blocks and examples ran"
