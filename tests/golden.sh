#!/usr/bin/env bash
# Runs exactly the golden tests on a root of golden files (default: ../shared/golden, or $REPENG_GOLDEN).
# usage: tests/golden.sh [ROOT [FOLDER…]]     e.g. tests/golden.sh ../shared/golden models adapter
set -eu
cd "$(dirname "$0")/.."
if [ $# -gt 0 ]; then
  REPENG_GOLDEN=$(realpath "$1")
  export REPENG_GOLDEN
  shift
fi
args=()
for folder in "$@"; do args+=(-trait "Golden=$folder"); done
[ ${#args[@]} -eq 0 ] && args=(-trait Category=Golden)
exec bash tests/run.sh "${args[@]}"
