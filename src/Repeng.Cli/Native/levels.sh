#!/usr/bin/env bash
# Compiles the program a second time, for AVX-512, and makes of it an object that can be linked beside the first.
# usage: levels.sh ILC RESPONSE_FILE OUT_DIR NATIVE_LIBRARY…   (called by the publish of the project, see Native.targets)
# Everything in that object is local but main_avx512: both halves have a runtime and class library of their own, and
# the sections whose ends the linker names (code, stubs, modules) are renamed so that each runtime finds its own.
set -eu
ilc=$1 response=$2 out=$3
shift 3
here=$(cd "$(dirname "$0")" && pwd)
sed -e "s#^-o:.*#-o:$out/avx512-managed.o#" -e 's/^--instruction-set:.*/--instruction-set:x86-64-v4/' \
    -e '/^--exportsfile:/d' "$response" > "$out/avx512.ilc.rsp"
grep -q '^--instruction-set:x86-64-v4$' "$out/avx512.ilc.rsp" || { echo "levels.sh: $response names no instruction set" >&2; exit 1; }
# avx512.o tells the build that all of this is done: it takes its name last.
rm -f "$out/avx512.o"
"${CC:-gcc}" -O2 -Wall -Werror -c "$here/levels.c" -o "$out/levels.o"
"$ilc" "@$out/avx512.ilc.rsp"
libraries=()
for file in "$@"; do
  [ -z "$file" ] || libraries+=("$file")
done
ld -r --force-group-allocation -o "$out/avx512-whole.o" "$out/avx512-managed.o" --start-group "${libraries[@]}" --end-group
rename=()
for section in modules managedcode unbox; do
  rename+=(--rename-section "__$section=__${section}_avx512")
  for end in start stop; do
    rename+=(--redefine-sym "__${end}___$section=__${end}___${section}_avx512")
  done
done
objcopy --strip-debug "${rename[@]}" --redefine-sym main=main_avx512 --keep-global-symbol=main_avx512 "$out/avx512-whole.o" "$out/avx512-local.o"
rm "$out/avx512-whole.o" "$out/avx512-managed.o"
mv "$out/avx512-local.o" "$out/avx512.o"
