#!/usr/bin/env bash
# Compiles every CUDA kernel for sm_80 and sm_90a, in float32 and in bfloat16, without a GPU or a toolkit: with
# PyPI's NVRTC, which it installs into .cache/nvrtc. It also holds the arguments that Go passes to what the
# kernels read. Fails if nothing was compiled.
set -euo pipefail
cd "$(dirname "$0")/.."
version=13.0.88
venv=$PWD/.cache/nvrtc

if [ ! -f "$venv/.$version" ]; then
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install -q --disable-pip-version-check --only-binary=:all: "nvidia-cuda-nvrtc==$version"
  touch "$venv/.$version"
fi
libraries=$(dirname "$(find "$venv" -name 'libnvrtc.so.13' | sed -n 1p)")

log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
# The libraries come first on the loader's path, so that another NVRTC of the machine is not taken.
VIRTUAL_ENV=$venv LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} \
  timeout 600 go test -count=1 -v -run 'TestKernelsCompile|TestSubmitCompiles|TestCompileError' ./gpu/cuda >"$log" 2>&1 || status=$?
compiled=$(grep -c -- '--- PASS: TestKernelsCompile/' "$log" || true)
if [ "$status" -ne 0 ] || [ "$compiled" -eq 0 ]; then
  grep -v -E '^=== |--- PASS' "$log" >&2
  echo "check_cuda: $compiled modules compiled, and something failed" >&2
  exit 1
fi
echo "check_cuda: $compiled modules compiled with NVRTC $version"
