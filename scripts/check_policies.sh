#!/usr/bin/env bash
# Serves real traffic under the scheduling policies of examples/policies, which run in processes of their own, checks
# them with `troupe conform`, kills one in the middle, and prints what the boundary costs each step. scripts/setup.sh
# installs what they need. Usage: scripts/check_policies.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export TROUPE_BIN=${TROUPE_BIN:-$PWD/bin/troupe} PATH=$PWD/.tools/venv/bin:$PATH
work=$(mktemp -d)
engine='' policies=()
cleanup() {
  local pid
  for pid in $engine "${policies[@]}"; do
    kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  done
  rm -rf "$work"
}
trap cleanup EXIT

fail() {
  printf 'check_policies: FAILED: %s\n' "$1" >&2
  [ ! -s "$work/log" ] || { echo "the engine's last warnings:" >&2; grep -E 'WRN|ERR|panic' "$work/log" | tail -5 >&2 || true; }
  exit 1
}

# value FILE NAME: a string of a JSON file with one field per line.
value() { sed -n "s/.*\"$2\": \"\\(.*\\)\",*/\\1/p" "$1"; }

# until_true SECONDS COMMAND...: wait until it succeeds.
until_true() {
  local tries=$(($1 * 10))
  shift
  for _ in $(seq "$tries"); do
    if "$@"; then return 0; fi
    sleep 0.1
  done
  return 1
}

# policy_start NAME COMMAND...: starts a policy and waits until it listens.
policy_start() {
  local name=$1
  shift
  "$@" "$name" "$nats" >"$work/$name.out" 2>&1 &
  policies+=($!)
  until_true 20 grep -q 'answers on' "$work/$name.out" || { cat "$work/$name.out" >&2; fail "$name does not start"; }
}

# rank FIELD: a count of the active policy.
rank() { "$TROUPE_BIN" policy --nats "$nats" --json | jq -r ".rank.$1"; }

# ledger: steps and the host's microseconds per step so far.
ledger() { curl -sf "$http/debug/scheduler/state" | jq -c '.ledger'; }

# load COUNT: real requests, more at once than there are places; every one must end with an answer.
load() {
  timeout 240 "$TROUPE_BIN" bench serve --base-url "$http" --num-prompts "$1" --max-concurrency 32 --random-input-len 64 \
    --random-output-len 48 --random-range-ratio 0.8 --ignore-eos --save-result --result-filename "$work/result.json" >"$work/bench.out" 2>&1 ||
    { tail -5 "$work/bench.out" >&2; fail "the load did not end"; }
  jq -e ".completed == $1 and .failed == 0" "$work/result.json" >/dev/null ||
    fail "of $1 requests $(jq -c '{completed, failed}' "$work/result.json")"
}

# tell LABEL BEFORE AFTER: what a step of the host cost between two ledgers.
tell() {
  jq -rn --arg what "$1" --argjson a "$2" --argjson b "$3" --slurpfile r "$work/result.json" '
    ($b.steps - $a.steps) as $n | [$what, "\($n) steps,",
    "scheduling \((($b.schedule_ns - $a.schedule_ns) / $n / 100 | round) / 10) µs a step,",
    "device idle \((($b.idle_ns - $a.idle_ns) / $n / 100 | round) / 10) µs,",
    "\($r[0].output_throughput | round) tokens/s,", "TTFT \($r[0].mean_ttft_ms | round) ms"] | "  " + join(" ")'
}

: >"$work/banner" # it is read before the engine has opened it
"$TROUPE_BIN" serve --http 127.0.0.1:0 --nats-listen 127.0.0.1:0 --sequences-max 8 --shadow fair --json >"$work/banner" 2>"$work/log" &
engine=$!
listening() { [ -n "$(value "$work/banner" nats)" ]; }
until_true 20 listening || { cat "$work/log" >&2; fail 'the engine did not start'; }
nats=$(value "$work/banner" nats) http=$(value "$work/banner" http)

policy_start python-sjf python3 examples/policies/python/policy.py
cp examples/policies/javascript/policy.mjs .tools/node/ # Node looks for packages beside the program
policy_start javascript-sjf node .tools/node/policy.mjs

for name in python-sjf javascript-sjf; do
  timeout 120 "$TROUPE_BIN" conform scheduler --subject "$name" --nats "$nats" --limit 500ms || fail "$name does not conform"
done

# In virtual time, which waits for the process: the same twice, and better than FCFS where lengths differ.
simulated() {
  timeout 200 "$TROUPE_BIN" simulate --nats "$nats" --num-prompts 300 --request-rate 20 --output-len lognormal:128,250 --sequences-max 8 \
    --policy "$1" --quiet --json >"$work/$2" || fail "$1 cannot be simulated"
}
simulated fcfs fcfs.json
simulated nats:python-sjf sjf.json
simulated nats:python-sjf again.json
cmp "$work/sjf.json" "$work/again.json" || fail 'two simulations of python-sjf differ'
jq -e -s '.[0].rank.answered > 100 and .[0].rank.late == 0 and .[0].ttft_ms.mean < 0.8 * .[1].ttft_ms.mean' "$work/sjf.json" "$work/fcfs.json" >/dev/null ||
  fail "python-sjf simulated: $(jq -c '{rank, ttft_ms}' "$work/sjf.json"), fcfs: $(jq -c .ttft_ms "$work/fcfs.json")"
echo "in virtual time: mean TTFT $(jq '.ttft_ms.mean | round' "$work/fcfs.json") ms by fcfs, $(jq '.ttft_ms.mean | round' "$work/sjf.json") by python-sjf"

# A routing policy of the same kind as the built-in one chooses as that does, a millisecond later.
policy_start python-route python3 examples/policies/python/route.py
routed() {
  timeout 200 "$TROUPE_BIN" simulate --nats "$nats" --num-prompts 400 --request-rate 40 --replicas 4 --prefixes 12 --prefix-len 400 --input-len 64 --kv-blocks 600 \
    --routing "$1" --quiet --json >"$work/$2" || fail "routing $1 cannot be simulated"
}
routed round-robin turns.json
routed prefix prefix.json
routed nats:python-route route.json
jq -e -s 'def near(a; b): (a - b | fabs) < 0.03 * b; near(.[0].prefix_hit_rate; .[1].prefix_hit_rate) and .[0].prefix_hit_rate > 1.08 * .[2].prefix_hit_rate' \
  "$work/route.json" "$work/prefix.json" "$work/turns.json" >/dev/null ||
  fail "hit rates of python-route, prefix and round-robin: $(jq -c .prefix_hit_rate "$work/route.json" "$work/prefix.json" "$work/turns.json" | xargs)"
echo "in virtual time: $(jq -rs 'map(.prefix_hit_rate * 1000 | round / 10 | "\(.) %") | join(", ")' "$work/turns.json" "$work/prefix.json" "$work/route.json") of prompts found by round-robin, prefix and python-route"

# The same load under the built-in policy and under each of the others. The limit is long: here they share two cores
# with the model.
echo 'boundary tax:'
load 100 # warm
for policy in fcfs shortest 'nats:python-sjf?limit=200ms' 'nats:javascript-sjf?limit=200ms' 'nats:python-sjf?limit=200ms&wait'; do
  "$TROUPE_BIN" policy "$policy" --nats "$nats" >/dev/null
  before=$(ledger)
  load 200
  tell "$(printf '%-32s' "$policy")" "$before" "$(ledger)"
  case $policy in
    nats:*)
      "$TROUPE_BIN" policy --nats "$nats" | sed -n 's/^  \(answer\|tax per step\) */     \1: /p'
      [ "$(rank ranked)" -gt 50 ] || fail "$policy chose only $(rank ranked) steps"
      ;;
  esac
done

# Over HTTP, while requests run.
load 100 &
loading=$!
for name in fair priority prefix deadline nats:python-sjf shortest; do
  curl -sf "$http/debug/scheduler/policy" -H 'Content-Type: application/json' -d "{\"name\": \"$name\"}" | jq -e ".active == \"$name\"" >/dev/null ||
    fail "switching to $name over HTTP"
  sleep 0.1
done
wait "$loading" || fail 'requests were lost while policies were switched'
echo 'switched six times over HTTP under load: 100 of 100 requests answered'

# kill -9 in the middle: the fallback takes over, nothing is lost, and a new process is found by itself.
for name in python-sjf javascript-sjf; do
  "$TROUPE_BIN" policy "nats:$name?limit=200ms&fallback=shortest" --nats "$nats" >/dev/null
  load 300 &
  loading=$!
  ranked() { [ "$(rank ranked)" -gt 20 ]; }
  until_true 30 ranked || fail "$name does not decide"
  [ "$name" = python-sjf ] && victim=${policies[0]} || victim=${policies[1]}
  kill -KILL "$victim"
  wait "$victim" 2>/dev/null || true
  wait "$loading" || fail "requests were lost after $name was killed"
  fell=$(rank fell)
  { [ "$fell" -ge 1 ] && [ "$(rank unranked)" -gt 0 ] && [ "$(rank active)" = false ]; } || fail "the fallback did not take over from $name"
  echo "kill -9 of $name: 300 of 300 requests answered; $(rank ranked) steps in its order, $(rank unranked) in the fallback's ($(rank reason))"
done
grep -q 'policy_fallback' "$work/log" || fail 'the engine did not warn that a policy was gone'

policy_start python-sjf python3 examples/policies/python/policy.py
"$TROUPE_BIN" policy 'nats:python-sjf?limit=200ms' --nats "$nats" >/dev/null
load 60
[ "$(rank answered)" -gt 0 ] || fail 'a new process of the policy is not asked'
echo "a new process of python-sjf: $(rank ranked) steps in its order"

# The shadow has seen all of it.
"$TROUPE_BIN" policy shadow --nats "$nats" | sed -n 1,8p # not head: under pipefail its early end kills the writer
[ "$(curl -sf "$http/debug/scheduler/shadow" | jq .decisions)" -gt 100 ] || fail 'the shadow saw too few decisions'

code=0
kill -TERM "$engine"
wait "$engine" || code=$?
engine=
if [ "$code" -ne 0 ] || grep -Eq 'panic|ERR|"level":"error"' "$work/log"; then
  grep -E 'panic|ERR|"level":"error"' "$work/log" | sed -n 1,5p >&2
  fail "the engine ended with $code"
fi
echo 'check_policies: all passed'
