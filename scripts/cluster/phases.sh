#!/usr/bin/env bash
# One replica for prompts and one for answers against two that do both, in turns, under the same load: what phases.sh
# measures is in docs/bench/cluster.md. Each replica has one thread. Options of troupe bench serve may follow.
#
#   MODEL=smollm2-135m ROUNDS=2 scripts/cluster/phases.sh --num-prompts 16 --request-rate 1
set -euo pipefail
cd "$(dirname "$0")/../.."

model=${MODEL:-}
rounds=${ROUNDS:-2}
work=$(mktemp -d)
pids=()
stop() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
  pids=()
}
trap '[ $BASHPID != $$ ] || { stop; rm -rf "$work"; }' EXIT # not of a child that was told to stop before it became another program
trap 'exit 1' INT TERM

go build -o "$work/troupe" ./cmd/troupe
common=(--log-level warn)
[ -n "$model" ] && common+=(--model "$model")

start() { # the phases of the two replicas
  "$work/troupe" serve "${common[@]}" --actors gateway --http 127.0.0.1:18080 --nats-listen none --leaf 127.0.0.1:17422 > "$work/hub.log" 2>&1 &
  pids+=($!)
  for phase in "$@"; do
    "$work/troupe" attach nats-leaf://127.0.0.1:17422 "${common[@]}" --actors replica --node "r${#pids[@]}" --threads 1 --replica-phase "$phase" --nats-listen none > "$work/r${#pids[@]}.log" 2>&1 &
    pids+=($!)
  done
  for _ in $(seq 300); do
    if curl -sf http://127.0.0.1:18080/metrics | grep -q '^troupe_replicas 2'; then return; fi
    sleep 0.1
  done
  echo "FAIL: the replicas did not come" >&2
  tail "$work"/*.log >&2
  exit 1
}

for round in $(seq "$rounds"); do
  for phases in "both both" "prefill decode"; do
    # shellcheck disable=SC2086 # two words
    start $phases
    "$work/troupe" bench serve --base-url http://127.0.0.1:18080 "${common[@]}" --ignore-eos --num-warmups 4 --save-result --result-filename "$work/result.json" "$@" > "$work/bench.log" 2>&1 || { cat "$work/bench.log" >&2; exit 1; }
    curl -sf http://127.0.0.1:18080/metrics | awk '/^troupe_(requests_handed_over|handovers_failed|handed_over_bytes)_total/ {printf "%s%s %s", s, $1, $2; s=", "} END {print ""}' > "$work/handed"
    python3 - "$work/result.json" "$round" "$phases" "$(cat "$work/handed")" <<'PY'
import json, sys
r = json.load(open(sys.argv[1]))
print(f"round {sys.argv[2]}, {sys.argv[3]}: " + ", ".join(f"{k} {r[k]:.1f}" for k in ("median_ttft_ms", "p99_ttft_ms", "median_tpot_ms", "p99_itl_ms", "output_throughput")) + f" ({sys.argv[4]})")
PY
    stop
  done
done
