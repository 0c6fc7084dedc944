#!/usr/bin/env bash
# TorchSharp 0.107 is linked against GCC 13's libstdc++ (GLIBCXX_3.4.32). On systems with an older one (Debian 12,
# Ubuntu 22.04) this makes a folder with a small libstdc++.so.6 that names the newer version, defines its one missing
# function (it does nothing in GCC 13 either) and leaves the rest to the system's library.
# usage: LD_LIBRARY_PATH=$(bench/libstdcxx-shim.sh) dotnet run -c Release --project bench/Repeng.Bench -- matmul
set -eu
real=$(gcc -print-file-name=libstdc++.so.6)
real=$(readlink -f "$real")
if objdump -p "$real" | grep -q 'GLIBCXX_3\.4\.32$'; then
  dirname "$real"
  exit 0
fi
out=${1:-${TMPDIR:-/tmp}/repeng-libstdcxx-shim}
mkdir -p "$out"
cp "$real" "$out/libstdc++-system.so.6"
{
  objdump -p "$real" | sed -n '/Version definitions/,/^$/p' | grep -oE '(GLIBCXX|CXXABI)_[A-Z0-9_.]+$' | sort -u | sed 's/$/ {};/'
  echo 'GLIBCXX_3.4.31 {};'
  echo 'GLIBCXX_3.4.32 { global: _ZSt21ios_base_library_initv; };'
} > "$out/versions"
echo 'void _ZSt21ios_base_library_initv(void) {}' > "$out/shim.c"
: > "$out/stub.c"
gcc -shared -nostdlib -o "$out/stub.so" "$out/stub.c" -Wl,-soname,libstdc++-system.so.6
gcc -shared -fPIC -nostdlib -o "$out/libstdc++.so.6" "$out/shim.c" -Wl,-soname,libstdc++.so.6 \
  -Wl,--version-script,"$out/versions" -Wl,--no-as-needed "$out/stub.so" -Wl,-rpath,'$ORIGIN'
rm "$out"/stub.* "$out/shim.c" "$out/versions"
echo "$out"
