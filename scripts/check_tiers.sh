#!/usr/bin/env bash
# Runs the goldens and stories on every tier of CPU kernels that this processor has: the eleven architectures against
# transformers, as they are stored and quantized, and the real model's story. Tiers that it lacks are named and skipped.
# The kernels of all tiers are held to the reference, on one thread and on several.
# Usage: scripts/check_tiers.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

has() {
  local flag
  for flag in "$@"; do grep -qw "$flag" /proc/cpuinfo || return 1; done
}

tiers=(go)
if has avx2 fma f16c; then tiers+=(avx2); else echo 'SKIPPED: this processor has no tier avx2' >&2; fi
if has avx2 fma f16c avx512f avx512dq; then tiers+=(avx512); else echo 'SKIPPED: this processor has no tier avx512' >&2; fi
for tier in "${tiers[@]}"; do
  echo "tier $tier"
  TROUPE_CPU_TIER=$tier go test ./actors/compute/model -run 'Golden|Story'
done
go test ./gpu/cpu -run TestConformance
