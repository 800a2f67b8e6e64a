#!/usr/bin/env bash
# Installs the pinned tools that the checks need into .tools, with the ordinary package clients. A tool that
# is there in its version is left alone. Usage: scripts/setup.sh [go] [nats] [lint] [python] [node]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD/.tools

NATS_CLI=v0.5.1
GOLANGCI_LINT=v2.15.0
PYTHON_PACKAGES=(openai==3.54.0 nats-py==2.16.0 msgpack==1.2.4 tokenizers==0.23.3 jsonschema==4.26.0)
NODE_PACKAGES=(openai@7.57.0 @nats-io/transport-node@3.4.0 @msgpack/msgpack@3.1.3)

# need NAME VERSION: false if .tools has it already; remembers it otherwise, once `did` is called.
need() { [ "$(cat "$root/.$1" 2>/dev/null)" != "$2" ]; }
did() { printf '%s' "$2" >"$root/.$1"; }

go_tool() { # NAME MODULE VERSION
  need "$1" "$3" || return 0
  echo "setup: $1 $3"
  GOBIN=$root/bin GOFLAGS='' go install "$2@$3"
  did "$1" "$3"
}

python_packages() {
  need python "${PYTHON_PACKAGES[*]}" || return 0
  echo "setup: python ${PYTHON_PACKAGES[*]}"
  rm -rf "$root/venv"
  python3 -m venv "$root/venv"
  "$root/venv/bin/pip" install --quiet --disable-pip-version-check "${PYTHON_PACKAGES[@]}"
  did python "${PYTHON_PACKAGES[*]}"
}

node_packages() {
  need node "${NODE_PACKAGES[*]}" || return 0
  echo "setup: node ${NODE_PACKAGES[*]}"
  rm -rf "$root/node"
  mkdir -p "$root/node"
  (cd "$root/node" && echo '{"private": true}' >package.json && npm install --silent --no-audit --no-fund "${NODE_PACKAGES[@]}")
  did node "${NODE_PACKAGES[*]}"
}

mkdir -p "$root/bin"
[ $# -gt 0 ] || set -- nats lint python node
for what; do
  case $what in
    nats) go_tool nats github.com/nats-io/natscli/nats "$NATS_CLI" ;;
    lint) go_tool golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint "$GOLANGCI_LINT" ;;
    python) python_packages ;;
    node) node_packages ;;
    *) echo "setup: unknown part $what" >&2; exit 2 ;;
  esac
done
