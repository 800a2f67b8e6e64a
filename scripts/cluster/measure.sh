# shellcheck shell=bash disable=SC2154 # variables and functions are three_hosts.sh's, which reads this
# What three hosts cost and bring: the throughput of two replicas, one on each core, against one; the processor time that a token takes
# in the hub and in the replicas, against that of one node that does the same work alone; and what 1 ms of network each way costs the first token.
# ROUNDS, PROMPTS (at PARALLEL at once) and TOKENS (of prompt and of output) set the load.

rounds=${ROUNDS:-3} prompts=${PROMPTS:-192} parallel=${PARALLEL:-64} tokens=${TOKENS:-64}

bench() { # PORT PROMPTS AT-ONCE
  on hub "$work/troupe" bench serve --base-url "http://127.0.0.1:$1" --num-prompts "$2" --max-concurrency "$3" --ignore-eos \
    --random-input-len "$tokens" --random-output-len "$tokens" --save-result --result-filename "$work/bench.json" >"$work/bench.log" 2>&1 || fail "bench"
}
field() { sed -n "s/.*\"$1\": *\([0-9.]*\).*/\1/p" "$work/bench.json" | sed -n 1p; }
# used PID: processor time in ns; of all threads, for that of the process is counted in 10 ms
used() { cat "/proc/$1/task/"*/schedstat | awk '{ns += $1} END {printf "%.0f", ns}'; }
# load PORT PID…: tok/s in $rate, and in us[PID] the microseconds of processor that a token of output took there
declare -A us=()
load() {
  local port=$1 pid; shift
  local -A before=()
  bench "$port" "$parallel" "$parallel" # pages, caches
  for pid in "$@"; do before[$pid]=$(used "$pid"); done
  bench "$port" "$prompts" "$parallel"
  for pid in "$@"; do us[$pid]=$(calc "($(used "$pid") - ${before[$pid]}) / 1000 / ($prompts * $tokens)"); done
  rate=$(field output_throughput)
}
calc() { awk "BEGIN {printf \"%.2f\", $*}"; }

stop "$a"
for round in $(seq "$rounds"); do
  serve
  alone=$!
  load 8001 $alone
  echo "round $round: a node alone: $(calc "$rate") tok/s, ${us[$alone]} µs/token"
  stop $alone

  attach a "a$round" 0
  a=$!
  until_nodes 1
  load 8000 "$hub" $a
  one=$rate
  adds=$(calc "${us[$hub]} + ${us[$a]} - ${us[$alone]}")
  echo "  one replica: $(calc "$one") tok/s, hub ${us[$hub]} + replica ${us[$a]} µs/token: $adds more than the node alone"
  attach b "b$round" "$second"
  b=$!
  until_nodes 2
  load 8000 "$hub" $a $b
  echo "  two: $(calc "$rate") tok/s, $(calc "$rate / $one") times; hub ${us[$hub]} + replicas $(calc "${us[$a]} + ${us[$b]}") µs/token:" \
    "hub $(calc "${us[$hub]} * $rate / $(nproc) / 1e4") % of the processors, what it adds $(calc "$adds * $rate / $(nproc) / 1e4") %"
  bench 8000 16 1; near=$(field median_ttft_ms)
  stop $b; stop $a

  # The same over a link that takes 1 ms each way.
  start a slow "$work/slow" 127.0.0.1:7422 $NET.1:7422 1ms; slow=$!
  start a far taskset -c 0 "$work/troupe" attach nats-leaf://127.0.0.1:7422 --actors replica --credentials "$work/keys/replica.nk" "${model[@]}" \
    --tls-ca "$work/keys/ca.pem" --tls-cert "$work/keys/replica.pem" --tls-key "$work/keys/replica-key.pem" --node "far$round" --threads 1
  far=$!
  until_nodes 1
  bench 8000 16 1
  echo "  first token, one at a time: $(calc "$near") ms (median); over 1 ms of network each way: $(calc "$(field median_ttft_ms)") ms"
  stop $far; stop $slow
done
