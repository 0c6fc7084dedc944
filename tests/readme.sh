#!/usr/bin/env bash
# Runs the README's two commands (the fenced blocks after <!-- run --> and <!-- test -->) in a fresh clone of HEAD.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
clone=$(mktemp -d)/repeng-native
git clone -q "$here" "$clone"
# The golden files stand beside the repository; the clone looks for them at the same place.
export REPENG_GOLDEN=${REPENG_GOLDEN:-$here/../shared/golden}
cd "$clone"
for mark in run test; do
  command=$(awk -v mark="<!-- $mark -->" '$0 == mark { found = 1; next } found && /^```/ { if (inside) exit; inside = 1; next } inside' README.md)
  echo "== $mark: $command"
  bash -c "$command"
done
