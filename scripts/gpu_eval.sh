#!/usr/bin/env bash
# Measures what quantized weights cost on a CUDA device: perplexity and divergence from bfloat16, on a real text.
#
#   scripts/gpu_eval.sh build TEXT  puts SmolLM2-135M-Instruct, the text and troupe into .cache/gpu_eval/1 to 4, folders of
#                                   at most 34 MB that may be brought to another machine one by one (needs Go and a network)
#   scripts/gpu_eval.sh [TOKENS]    measures with the text's first TOKENS tokens, or 12000 (needs a GPU, neither Go nor a network)
#
# Every measurement is printed as a line of JSON, and all are kept in .cache/gpu_eval/results.jsonl. Steps of 64 tokens go the
# way of prefill, steps of 8 that of decode: see docs/quantization.md.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$PWD/.cache/gpu_eval

if [ "${1:-}" = build ]; then
  text=${2:?the second argument is a text file, UTF-8}
  model=$(scripts/fetch_smollm2.sh)
  mkdir -p "$work/1" "$work/2" "$work/3" "$work/4"
  parts=("$work"/1/part "$work"/2/part "$work"/3/part)
  bytes=$((($(stat -c %s "$model") + 2) / 3))
  for i in 0 1 2; do
    tail -c "+$((i * bytes + 1))" "$model" | head -c "$bytes" >"${parts[i]}" || true # tail is cut off
  done
  cat "${parts[@]}" | cmp - "$model"
  CGO_ENABLED=0 go build -ldflags='-s -w' -o "$work/4/troupe" ./cmd/troupe
  gzip -f "$work/4/troupe"
  head -c 400000 "$text" | iconv -c -f utf-8 -t utf-8 >"$work/4/text"
  du -m "$work"/[1-4]
  exit
fi

tokens=${1:-12000}
export TROUPE_CACHE=${TROUPE_CACHE:-$PWD/.cache/gpu}
gunzip -c "$work/4/troupe.gz" >"$work/troupe"
chmod +x "$work/troupe"
if ! [ -f "$work/bf16.gguf" ]; then
  cat "$work"/1/part "$work"/2/part "$work"/3/part >"$work/stored.gguf"
  "$work/troupe" quantize "$work/stored.gguf" -o "$work/bf16.gguf" --type bf16 --requantize >/dev/null
fi
: >"$work/results.jsonl"
for step in 64 8; do
  for quant in fp8 q8 q4; do
    if timeout 300 "$work/troupe" eval --device "${DEVICE:-cuda}" --compute bf16 --model "$work/bf16.gguf" --quant "$quant" --step "$step" \
      --text "$work/4/text" --tokens "$tokens" --window 1024 --stride 512 --json >"$work/report" 2>"$work/errors"; then
      tr -d '\n' <"$work/report" | tee -a "$work/results.jsonl"
      echo | tee -a "$work/results.jsonl"
    else
      echo "FAILED: $quant, steps of $step: $(tail -c 400 "$work/errors")"
    fi
  done
done
