#!/usr/bin/env bash
# Runs the linters of .golangci.yml. Usage: scripts/lint.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh lint
exec .tools/bin/golangci-lint run --timeout 10m ./...
