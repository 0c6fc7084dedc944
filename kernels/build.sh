#!/usr/bin/env bash
# Compiles every kernels/*.cu to PTX for sm_80 with clang-19 alone and writes manifest.json.
# usage: kernels/build.sh [folder]   (default: kernels/ptx; an absolute path, or relative to kernels/)
# REPENG_CLANG names another clang. The output depends on sources, flags and compiler alone: the same bytes anywhere.
set -eu -o pipefail
cd "$(dirname "$0")"
export LC_ALL=C
out=${1:-ptx}
clang=${REPENG_CLANG:-clang-19}
command -v "$clang" >/dev/null || { echo "kernels/build.sh: $clang is not on PATH; on Debian: apt-get install clang-19" >&2; exit 1; }
flags="-x cuda --cuda-device-only --cuda-gpu-arch=sm_80 -nocudainc -nocudalib -std=c++17 -O3 -ffp-contract=off -gline-tables-only"
quiet="-fdebug-compilation-dir=. -fno-ident -Wall -Wextra -Wno-unused-parameter -Werror"
mkdir -p "$out"
rm -f "$out"/*.ptx "$out"/manifest.json

# Of the debug information only .file (relative paths) and .loc stay; sections that the driver has no use for, labels that
# only they name, and comments go.
clean() {
  awk '/^[ \t]*\.section[ \t]+\.debug/ { skip = 1 } !skip { print } skip && /}/ { skip = 0 }' |
    sed -e 's/[ \t]*\/\/.*$//' -e 's/^\(\.target .*\), debug$/\1/' -e '/^\$L__tmp[0-9]*:$/d' -e '/^\$L__func_[a-z]*[0-9]*:$/d' \
      -e '/^[ \t]*$/d' -e 's/"\.\/\(\.\/\)*/"/'
}

# Two at a time: most of the time is spent in a few large sources.
build() {
  "$clang" $flags $quiet -S "$1.cu" -o - | clean >"$out/$1.ptx"
}
running=0
pids=()
for source in *.cu; do
  build "${source%.cu}" &
  pids+=($!)
  running=$((running + 1))
  if [ $((running % 2)) = 0 ]; then for pid in "${pids[@]}"; do wait "$pid"; done; pids=(); fi
done
for pid in "${pids[@]}"; do wait "$pid"; done

bash manifest.sh "$out" "$("$clang" --version | sed -n '1s/^.*clang version \([0-9.]*\).*/clang \1/p')" "$flags" >"$out/manifest.json.new"
mv "$out/manifest.json.new" "$out/manifest.json"
