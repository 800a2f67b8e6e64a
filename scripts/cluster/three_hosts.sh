#!/usr/bin/env bash
# Three hosts on one machine: network namespaces joined by a bridge, with the commands of docs/cluster.md. Checks that
# they answer what one node alone answers, that a killed replica is not missed, and that strangers stay outside;
# with "measure", also what measure.sh says. MODEL is what all nodes serve, by default the model in the program.
# Needs root, ip and curl. Exits with 77 where namespaces cannot be made.
#
#   scripts/cluster/three_hosts.sh
#   MODEL=$(scripts/fetch_smollm2.sh) scripts/cluster/three_hosts.sh measure
set -euo pipefail
cd "$(dirname "$0")/../.."

NET=10.77.0
work=$(mktemp -d)
declare -A running=() # process ids
tag=tr$$
model=()
[ -z "${MODEL:-}" ] || model=(--model "$MODEL")

cleanup() {
  [ "$BASHPID" = $$ ] || return 0 # a child that was told to stop before it became another program
  trap - EXIT
  for pid in "${!running[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${!running[@]}"; do wait "$pid" 2>/dev/null || true; done
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
  running[$!]=1
}
stop() { kill -s "${2:-TERM}" "$1"; wait "$1" 2>/dev/null || true; unset "running[$1]"; }
# serve OPTION…: one node alone on the hub's host, at port 8001, when it is ready
serve() {
  start hub alone "$work/troupe" serve --http 127.0.0.1:8001 --nats-listen none --threads 1 "${model[@]}" "$@"
  for _ in $(seq 50); do ! on hub curl -sf -m 2 127.0.0.1:8001/health/ready >/dev/null || return 0; sleep 0.2; done
  fail "the node alone is not ready"
}
# attach HOST NODE CORE: a replica on one core
attach() { start "$1" "$2" taskset -c "$3" "$work/troupe" attach --config "$work/keys/replica.yaml" --node "$2" --threads 1 "${model[@]}"; }
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
serve
alone=$!
for i in $(seq 12); do ask "$i" 127.0.0.1:8001 >"$work/alone.$i"; done
stop $alone

# The four commands.
troupe keys --host $NET.1 --dir "$work/keys" >/dev/null
start hub hub "$work/troupe" serve --config "$work/keys/hub.yaml" --actors gateway --http 127.0.0.1:8000 --threads 1 "${model[@]}"
hub=$!
sleep 0.5
second=$(($(nproc) > 1)) # core
attach a a 0
a=$!
attach b b $second
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

[ "${1:-}" != measure ] || . scripts/cluster/measure.sh
