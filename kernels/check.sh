#!/usr/bin/env bash
# Checks that the committed PTX is what the sources give; with ptxas, that every kernel assembles for each card generation
# without a spill; with nvcc, that the sources are plain CUDA C++ too.
# usage: kernels/check.sh            rebuild and compare; what tool is missing is said and left out
#        kernels/check.sh --write    build, assemble, and write ptx/, resources.tsv and the table in docs/cuda-kernels.md
# PTXAS and NVCC name the tools of a CUDA toolkit (kernels/toolkit.sh fetches Debian's); else those on PATH are taken.
set -eu -o pipefail
cd "$(dirname "$0")"
export LC_ALL=C
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
write=0
[ "${1:-}" = --write ] && write=1

if ! command -v "${REPENG_CLANG:-clang-19}" >/dev/null; then
  echo "kernels/check.sh: SKIPPED: no ${REPENG_CLANG:-clang-19} on PATH, so that the committed PTX was NOT compared with its sources"
  exit 0
fi
[ $write = 0 ] || bash build.sh
bash build.sh "$work/ptx"

ptxas=${PTXAS:-$(command -v ptxas || true)}
if [ -n "$ptxas" ]; then
  # Registers, spills and shared memory of every kernel on every generation that this ptxas knows.
  printf '# ptx\tarch\tkernel\tregisters\tspill_stores\tspill_loads\tstatic_shared\n' >"$work/resources.tsv"
  for arch in sm_80 sm_86 sm_89 sm_90; do
    grep -qw "$arch" <<<"$("$ptxas" --help)" || { echo "kernels/check.sh: this ptxas does not know $arch"; continue; }
    for ptx in "$work"/ptx/*.ptx; do
      "$ptxas" -arch=$arch -v "$ptx" -o "$work/cubin" 2>"$work/log" || { cat "$work/log" >&2; exit 1; }
      awk -v ptx="$(sha256sum <"$ptx" | cut -c1-64)" -v arch=$arch '
        /Compiling entry function/ { match($0, /\047[^\047]*\047/); name = substr($0, RSTART + 1, RLENGTH - 2) }
        /bytes spill stores/ { stores = $5; loads = $9 }
        / Used [0-9]+ registers/ {
          match($0, /Used [0-9]+/); used = substr($0, RSTART + 5, RLENGTH - 5)
          shared = 0; if (match($0, /[0-9]+ bytes smem/)) shared = substr($0, RSTART, RLENGTH - 11)
          printf "%s\t%s\t%s\t%d\t%d\t%d\t%d\n", ptx, arch, name, used, stores, loads, shared
        }' "$work/log" >>"$work/resources.tsv"
    done
  done
  if awk '!/^#/ && ($5 > 0 || $6 > 0) { print "kernels/check.sh: " $3 " spills on " $2 ": " $5 " bytes stored, " $6 " loaded"; bad = 1 } END { exit !bad }' "$work/resources.tsv"; then exit 1; fi
  echo "kernels/check.sh: $(grep -vc '^#' "$work/resources.tsv") assemblies of $(awk '!/^#/ { print $3 }' "$work/resources.tsv" | sort -u | wc -l) kernels by $("$ptxas" --version | sed -n 's/.*release \([0-9.]*\).*/ptxas \1/p'), no spill"
  if [ $write = 1 ]; then
    cp "$work/resources.tsv" resources.tsv
    bash build.sh
    bash build.sh "$work/ptx"
    bash table.sh ../docs/cuda-kernels.md
  elif ! diff -q "$work/resources.tsv" resources.tsv >/dev/null; then
    echo "kernels/check.sh: resources.tsv is not what this ptxas gives; run kernels/check.sh --write"
    exit 1
  fi
else
  echo "kernels/check.sh: no ptxas: registers and spills are those that resources.tsv kept"
fi

nvcc=${NVCC:-$(command -v nvcc || true)}
if [ -n "$nvcc" ]; then
  for source in *.cu; do
    "$nvcc" -std=c++17 -arch=sm_80 -fmad=false -ptx ${NVCC_FLAGS:-} "$source" -o "$work/nvcc.ptx" >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
  done
  echo "kernels/check.sh: $("$nvcc" --version | sed -n 's/.*release \([0-9.]*\).*/nvcc \1/p') compiles every source"
fi

if ! diff -rq "$work/ptx" ptx; then
  echo "kernels/check.sh: kernels/ptx is not what the sources give with $("${REPENG_CLANG:-clang-19}" --version | head -1); run kernels/build.sh and commit"
  exit 1
fi
echo "kernels/check.sh: kernels/ptx is what the sources give ($(ls ptx/*.ptx | wc -l) modules)"
