#!/usr/bin/env bash
# Runs every fuzz target for a few seconds. Usage: scripts/fuzz.sh [SECONDS]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
seconds=${1:-5}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
targets=0
while IFS=: read -r file name; do
  package=./$(dirname "$file")
  if timeout $((seconds + 90)) go test -run '^$' -fuzz "^$name\$" -fuzztime "${seconds}s" "$package" >"$log" 2>&1 && grep -q "fuzz: elapsed" "$log"; then
    printf 'fuzz: %-45s %s\n' "$package" "$name: $(grep -o 'execs: [0-9]*' "$log" | tail -1)"
  # The fuzzer may report its own end of time as a failure (https://go.dev/issue/75804): without an
  # input there is none.
  elif grep -q 'context deadline exceeded' "$log" && ! grep -q 'Failing input written' "$log"; then
    printf 'fuzz: %-45s %s\n' "$package" "$name: time is over"
  else
    echo "fuzz: $package $name FAILED:" >&2
    cat "$log" >&2
    exit 1
  fi
  targets=$((targets + 1))
done < <(git grep -o 'func Fuzz[A-Za-z0-9_]*' -- '*_test.go' | sed 's/func //')
if [ "$targets" -eq 0 ]; then
  echo "fuzz: no target found" >&2
  exit 1
fi
echo "fuzz: $targets targets ran $seconds s each"
