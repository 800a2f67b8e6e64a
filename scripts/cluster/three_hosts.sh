#!/usr/bin/env bash
# Three hosts on one machine: network namespaces joined by a bridge, with the commands of docs/cluster.md. Checks that
# they answer what one node alone answers, that a killed replica is not missed, and that strangers stay outside;
# with "measure", also the throughput of two replicas against one, and what 1 ms of network costs the first token.
# Needs root, ip and curl. Exits with 77 where namespaces cannot be made.
set -euo pipefail
cd "$(dirname "$0")/../.."

NET=10.77.0
work=$(mktemp -d)
pids=()
tag=tr$$

cleanup() {
  trap - EXIT
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
  for host in hub a b; do ip netns del "$tag$host" 2>/dev/null || true; done
  rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 1' INT TERM
fail() { echo "FAIL: $*" >&2; tail -n 5 "$work"/*.log >&2; exit 1; }

ip netns add "${tag}hub" 2>/dev/null || { echo "SKIP: network namespaces cannot be made here" >&2; exit 77; }
ip netns add "${tag}a"
ip netns add "${tag}b"
on() { local host=$1; shift; ip netns exec "$tag$host" "$@"; }
on hub ip link add br0 type bridge
on hub ip addr add $NET.1/24 dev br0
on hub ip link set br0 up
on hub ip link set lo up
n=2
for host in a b; do
  ip link add "$tag$host" netns "${tag}hub" type veth peer name eth0 netns "$tag$host"
  on hub ip link set "$tag$host" master br0 up
  on $host ip addr add $NET.$n/24 dev eth0
  on $host ip link set eth0 up
  on $host ip link set lo up
  n=$((n + 1))
done

go build -trimpath -o "$work/troupe" ./cmd/troupe
go build -trimpath -o "$work/slow" ./scripts/cluster/slow
troupe() { "$work/troupe" "$@"; }

# start HOST LOG COMMAND…: in the background; its process id is in $!
start() {
  local host=$1 log=$2; shift 2
  ip netns exec "$tag$host" "$@" >"$work/$log.log" 2>&1 &
  pids+=($!)
}
stop() { kill -s "${2:-TERM}" "$1"; wait "$1" 2>/dev/null || true; }
nodes() { on hub "$work/troupe" nodes --nats tls://127.0.0.1:4222 --keys "$work/keys" "$@"; }
# until_nodes COUNT: that many replicas report
until_nodes() {
  for _ in $(seq 30); do
    [ "$(nodes --json 2>/dev/null | grep -c '"numerics"')" = "$1" ] && return
    sleep 0.3
  done
  fail "there are not $1 replicas"
}
ask() { # PROMPT-NUMBER URL
  on hub curl -sS -m 60 "$2/v1/completions" -H 'Content-Type: application/json' \
    -d "{\"prompt\": \"Once upon a time $1\", \"max_tokens\": 120, \"seed\": $1, \"ignore_eos\": true}" | sed 's/.*"text":"\(.*\)","logprobs".*/\1/'
}
expect() { # URL LABEL: twelve answers at once equal those of one node
  local i; local -a asked=()
  for i in $(seq 12); do ask "$i" "$1" >"$work/$2.$i" & asked+=($!); done
  wait "${asked[@]}"
  for i in $(seq 12); do cmp -s "$work/alone.$i" "$work/$2.$i" || fail "$2: answer $i is $(cat "$work/$2.$i"), one node says $(cat "$work/alone.$i")"; done
  echo "ok: $2"
}

# What one node alone says.
start hub alone "$work/troupe" serve --http 127.0.0.1:8001 --nats-listen none --threads 1
alone=$!
for _ in $(seq 50); do on hub curl -sf -m 2 127.0.0.1:8001/health/ready >/dev/null && break; sleep 0.2; done
for i in $(seq 12); do ask "$i" 127.0.0.1:8001 >"$work/alone.$i"; done
stop $alone

# The four commands.
troupe keys --host $NET.1 --dir "$work/keys" >/dev/null
start hub hub "$work/troupe" serve --config "$work/keys/hub.yaml" --actors gateway --http 127.0.0.1:8000 --threads 1
sleep 0.5
start a a taskset -c 0 "$work/troupe" attach --config "$work/keys/replica.yaml" --node a --threads 1
a=$!
start b b taskset -c $(($(nproc) > 1)) "$work/troupe" attach --config "$work/keys/replica.yaml" --node b --threads 1
b=$!
until_nodes 2
nodes
expect 127.0.0.1:8000 "two replicas answer like one node"

# A replica dies under load.
expect 127.0.0.1:8000 "a killed replica is not missed" & load=$!
sleep 0.15
stop $b KILL
wait $load || exit 1
for _ in $(seq 50); do # the load may be over before the replica is
  ! grep -q 'given up' "$work/hub.log" || break
  sleep 0.1
done
grep -h 'given up' "$work/hub.log" || fail "the killed replica was not given up"

# Strangers stay outside: no key, and a key of somebody else.
if on a timeout 20 "$work/troupe" attach nats-leaf://$NET.1:7422 --node x >"$work/stranger.log" 2>&1; then fail "a stranger was let in"; fi
grep -q 'certificates do not fit\|does not know these credentials' "$work/stranger.log" || fail "a stranger is not told why: $(cat "$work/stranger.log")"
echo "ok: a stranger stays outside and is told why"

[ "${1:-}" = measure ] || exit 0

bench() { on hub "$work/troupe" bench serve --base-url http://127.0.0.1:8000 --num-prompts "$1" --max-concurrency "$2" --ignore-eos \
  --random-input-len 64 --random-output-len 64 --save-result --result-filename "$work/bench.json" >"$work/bench.log" 2>&1 || fail "bench"; }
field() { sed -n "s/.*\"$1\": *\([0-9.]*\).*/\1/p" "$work/bench.json" | sed -n 1p; }
ticks() { awk '{print $14 + $15}' "/proc/$1/stat"; }

hubpid=$(on hub sh -c 'ss -ltnpH "sport = :8000" 2>/dev/null' | sed -n 's/.*pid=\([0-9]*\).*/\1/p')
for round in 1 2 3; do
  until_nodes 1
  bench 192 64; one=$(field output_throughput); ttft1=$(field median_ttft_ms)
  start b b2 taskset -c $(($(nproc) > 1)) "$work/troupe" attach --config "$work/keys/replica.yaml" --node b$round --threads 1
  b=$!
  until_nodes 2
  [ -z "$hubpid" ] || before=$(ticks "$hubpid")
  from=$(date +%s.%N)
  bench 192 64; two=$(field output_throughput)
  cpu=""
  [ -z "$hubpid" ] || cpu=", hub $(echo "$(ticks "$hubpid") $before $(date +%s.%N) $from $(nproc)" | awk '{printf "%.1f %% of the processors", ($1 - $2) / ($3 - $4) / $5}')"
  echo "throughput: one replica $one tok/s, two $two: $(echo "$one $two" | awk '{printf "%.2f", $2 / $1}') times$cpu"
  bench 16 1; near=$(field median_ttft_ms)
  stop $b; stop "$a"
  # The same over a link that takes 1 ms each way.
  start a slow "$work/slow" 127.0.0.1:7422 $NET.1:7422 1ms; slow=$!
  start a a2 taskset -c 0 "$work/troupe" attach nats-leaf://127.0.0.1:7422 --actors replica --credentials "$work/keys/replica.nk" \
    --tls-ca "$work/keys/ca.pem" --tls-cert "$work/keys/replica.pem" --tls-key "$work/keys/replica-key.pem" --node far$round --threads 1
  a=$!
  until_nodes 1
  bench 16 1
  echo "first token, one at a time: $near ms (median); over 1 ms of network each way: $(field median_ttft_ms) ms"
  stop $a; stop $slow
  start a a3 taskset -c 0 "$work/troupe" attach --config "$work/keys/replica.yaml" --node a$round --threads 1
  a=$!
done
