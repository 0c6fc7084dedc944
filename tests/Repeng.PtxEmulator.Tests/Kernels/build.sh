#!/usr/bin/env bash
# Compiles the test kernels by clang-19 (Debian); the PTX is committed.
set -eu
cd "$(dirname "$0")"
for f in *.cu; do
  clang-19 -x cuda --cuda-device-only --cuda-gpu-arch=sm_80 --cuda-feature=+ptx78 -nocudainc -nocudalib -O3 -gline-tables-only -fdebug-prefix-map="$PWD"=. -S "$f" -o "${f%.cu}.ptx"
done
