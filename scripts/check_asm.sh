#!/usr/bin/env bash
# Checks the generated assembly of gpu/cpu:
#   1. regenerating it gives the checked-in files, byte for byte;
#   2. every function that touches ymm or zmm registers clears their upper halves before each
#      RET, and none mixes in legacy SSE instructions: either makes the code around it slow.
# Usage: scripts/check_asm.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The generator writes to its parent directory and records its command line, so it runs in a
# copy with the same relative paths.
mkdir -p "$work/cpu"
cp -r gpu/cpu/asm "$work/cpu/asm"
status=0
for isa in avx2 avx512; do
  (cd "$work/cpu/asm" && go run . -isa "$isa" -out "../${isa}_amd64.s" -stubs "../${isa}_amd64.go" -pkg cpu)
  (cd "$work/cpu/asm" && go run . -isa "$isa" -quant -out "../quant_${isa}_amd64.s" -stubs "../quant_${isa}_amd64.go" -pkg cpu)
  for file in {,quant_}"${isa}"_amd64.{s,go}; do
    if ! diff -u "gpu/cpu/$file" "$work/cpu/$file" | head -40; then
      echo "check_asm: gpu/cpu/$file is stale; run: go generate ./gpu/cpu" >&2
      status=1
    fi
  done
done

# lint prints the faults of one assembly file and fails if there are any.
lint() {
  awk -v file="$1" '
    function fault(text) { printf "%s:%d: %s: %s\n", file, FNR, name, text; faults++ }
    /^TEXT/ { name = $2; sub(/\(SB\).*/, "", name); wide = 0; previous = "" }
    /^\t[A-Z]/ {
      op = $1
      if ($0 ~ /[^A-Z][YZ][0-9]+/) wide = 1
      if (op == "RET" && wide && previous != "VZEROUPPER") fault("RET without VZEROUPPER")
      # An X register without a V instruction is legacy SSE.
      if ($0 ~ /[^A-Z]X[0-9]+/ && op !~ /^V/) fault("legacy SSE instruction " op)
      previous = op
    }
    END { exit faults > 0 }
  ' "$1"
}

shopt -s nullglob
for file in gpu/cpu/*_amd64.s; do
  lint "$file" || status=1
done

# The lint must be able to fail: a function without VZEROUPPER and with an SSE move.
printf 'TEXT \302\267bad(SB), NOSPLIT, $0-0\n\tVADDPS Y0, Y1, Y1\n\tMOVSS X0, X1\n\tRET\n' >"$work/bad.s"
if [ "$(lint "$work/bad.s" | wc -l)" -ne 2 ]; then
  echo "check_asm: the lint no longer finds faults it must find" >&2
  status=1
fi

[ "$status" -eq 0 ] && echo "check_asm: ok"
exit "$status"
