#!/usr/bin/env bash
# Checks and times the CUDA device on a machine with an NVIDIA GPU, with one command.
#
#   scripts/gpu_check.sh build    compiles the tests and copies the golden models to .cache/gpu (needs Go, no GPU)
#   scripts/gpu_check.sh          runs them (needs a GPU, no Go if built before)
#   scripts/gpu_check.sh timings  only the timings
#   scripts/gpu_check.sh bench    only troupe bench gpu: ceilings, matrix products, decode and prefill of an 8B shape
#   scripts/gpu_check.sh sanitize only the kernel tests, under compute-sanitizer's memcheck and racecheck
#
# The device must be there: a skipped test is a failure. The golden models come from
# $TROUPE_GOLDEN or ../shared/golden; without them the models are not compared, and it says so.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$PWD/.cache/gpu

build() {
  mkdir -p "$work"
  CGO_ENABLED=0 go test -c -ldflags='-s -w' -o "$work/cuda.test" ./gpu/cuda
  CGO_ENABLED=0 go build -ldflags='-s -w' -o "$work/troupe" ./cmd/troupe
  local golden=${TROUPE_GOLDEN:-../shared/golden}
  if [ -d "$golden" ]; then
    rm -rf "$work/golden"
    cp -r "$golden" "$work/golden"
  fi
}

run() {
  local title=$1
  shift
  echo "== $title"
  local started=$SECONDS
  if (cd gpu/cuda && timeout 300 "$@"); then
    echo "== $title: passed in $((SECONDS - started)) s"
  else
    echo "== $title: FAILED in $((SECONDS - started)) s"
    failed=1
  fi
}

mode=${1:-all}
if [ "$mode" = build ]; then
  build
  exit
fi
[ -x "$work/cuda.test" ] && [ -x "$work/troupe" ] || build
export TROUPE_REQUIRE_CUDA=1 TROUPE_CACHE=${TROUPE_CACHE:-$work}
failed=0
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
if [ "$mode" = all ]; then
  run conformance "$work/cuda.test" -test.run 'TestConformance' -test.v
  run device "$work/cuda.test" -test.run 'TestMemoryLimit|TestFreed|TestUploads|TestClosed|TestFault|TestProbe' -test.v
  if [ -d "$work/golden" ]; then
    TROUPE_GOLDEN=$work/golden run 'golden models' "$work/cuda.test" -test.run 'TestGoldens' -test.v
  else
    echo "== golden models: NOT RUN, $work/golden is not there"
  fi
fi
if [ "$mode" = sanitize ]; then
  # The suite asks for more memory than there is on purpose, so failed calls are not reported.
  for tool in 'memcheck --report-api-errors no' racecheck; do
    # shellcheck disable=SC2086 # a tool and its options
    run "$tool" compute-sanitizer --tool $tool --error-exitcode 1 --print-limit 5 \
      "$work/cuda.test" -test.run 'TestConformance'
  done
fi
if [ "$mode" = all ] || [ "$mode" = timings ]; then
  TROUPE_CUDA_TIMINGS=1 run timings "$work/cuda.test" -test.run 'TestTimings' -test.v
fi
if [ "$mode" = all ] || [ "$mode" = bench ]; then
  run 'troupe bench gpu' "$work/troupe" bench gpu
fi
exit $failed
