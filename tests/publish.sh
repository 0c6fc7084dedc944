#!/usr/bin/env bash
# Publishes the command line for machines without .NET: linux-x64, linux-arm64, win-x64 with the runtime in one file each;
# the one that fits this machine is run. With --aot also the native program of linux-x64 (minutes), at both of its
# instruction sets; without a C compiler and linker that is an error.
# usage: tests/publish.sh [--aot] [OUT]     (OUT keeps what is made; else it goes to a temporary folder)
set -euo pipefail
cd "$(dirname "$0")/.."
aot=false
if [ "${1-}" = --aot ]; then aot=true; shift; fi
out=${1-}
if [ -z "$out" ]; then out=$(mktemp -d); trap 'rm -rf "$out"' EXIT; fi
mkdir -p "$out"
out=$(cd "$out" && pwd)

fail() { echo "publish: $*" >&2; exit 1; }
publish() { # RID FOLDER [properties]
  local rid=$1 folder=$2; shift 2
  local log; log=$(dotnet publish src/Repeng.Cli -c Release -r "$rid" -v quiet --nologo -o "$folder" "$@" 2>&1) || { echo "$log" >&2; fail "$rid could not be published"; }
  if grep -qE 'warning (IL|AOT)|: warning' <<<"$log"; then echo "$log" >&2; fail "$rid: warnings"; fi
}
size() { du -sm "$1" | cut -f1; }
# Run as a person without .NET would: from another folder, and with nothing of an SDK to be found.
program() { (cd / && env -u DOTNET_ROOT PATH=/usr/bin:/bin "$@"); }

# Prints what doctor says of the CPU and the demo model, and requires both.
doctor() { # PROGRAM
  local said; said=$(program "$1" doctor 2>&1) || { echo "$said" >&2; fail "doctor of $1 ended with an error"; }
  grep -E '^CPU: +.' <<<"$said" || { echo "$said" >&2; fail "doctor of $1 names no CPU"; }
  grep -E '^demo model: +whole' <<<"$said" || { echo "$said" >&2; fail "the demo model of $1 is not whole"; }
}

for rid in linux-x64 linux-arm64 win-x64; do
  rm -rf "$out/$rid"
  publish "$rid" "$out/$rid" --self-contained -p:PublishSingleFile=true
  file="$out/$rid/repeng-native"; [ "$rid" != win-x64 ] || file="$file.exe"
  [ -f "$file" ] || fail "$file is missing"
  # Machine of the program: ELF's e_machine at byte 18, PE's behind the offset that stands at byte 60.
  case $rid in
    linux-x64) want=3e00 at=18 ;;
    linux-arm64) want=b700 at=18 ;;
    win-x64) want=6486 at=$(($(od -An -tu4 -j60 -N4 "$file") + 4)) ;;
  esac
  got=$(od -An -tx1 -j"$at" -N2 "$file" | tr -d ' \n')
  [ "$got" = "$want" ] || fail "$file is for machine $got, not $want"
  echo "$rid: $(size "$file") MiB, $(size "$out/$rid") MiB with all that lies beside it"
done
[ "$(uname -sm)" = "Linux x86_64" ] || { echo "no program of this machine among them; none was run"; exit 0; }
doctor "$out/linux-x64/repeng-native"

$aot || exit 0
# What a person keeps in the publish folder stays there.
rm -rf "$out/aot"
mkdir -p "$out/aot/models/mine"
echo kept | tee "$out/aot/models/mine/model" > "$out/aot/libmine.so"
publish linux-x64 "$out/aot" -p:PublishAot=true
[ "$(cat "$out/aot/models/mine/model" "$out/aot/libmine.so")" = "$(printf 'kept\nkept')" ] || fail "publishing touched files that it did not make"
rm -r "$out/aot/models" "$out/aot/libmine.so"
file="$out/aot/repeng-native"
[ "$(ls "$out/aot")" = repeng-native ] || fail "the native program is not one file: $(ls -m "$out/aot")"
export XDG_CACHE_HOME=$out/cache
rm -rf "$XDG_CACHE_HOME"
echo "linux-x64, native: $(size "$file") MiB, $(size "$out/aot") MiB with all that lies beside it"
doctor "$file"
# One line and no more where the cache, or the program itself, is closed; root can read any file.
said=$(program env XDG_CACHE_HOME=/proc/self "$file" generate --prompt x 2>&1) && fail "the native program took a cache that cannot be written"
[[ "$said" == *"set XDG_CACHE_HOME"* && "$said" != *defect* ]] || fail "a closed cache ends in: $said"
if [ "$(id -u)" != 0 ]; then
  chmod a-r "$file"
  said=$(program "$file" generate --prompt x 2>&1) && fail "the native program read itself without permission"
  chmod a+r "$file"
  [[ "$said" == *"chmod a+r"* && "$said" != *defect* ]] || fail "a program that cannot be read ends in: $said"
fi
# Both halves train, where the machine can run both, the files of the run and the plots included.
halves=0
program env DOTNET_EnableAVX512=0 "$file" doctor | grep -E '^CPU:.*SIMD AVX2$'
if [[ "$(program "$file" doctor)" == *"SIMD AVX-512"* ]]; then halves="1 0"; fi
for switch in $halves; do
  rm -rf "$out/run-$switch"
  program env DOTNET_EnableAVX512=$switch "$file" train --quick --output_dir "$out/run-$switch" > "$out/train-$switch.txt" 2>&1 || { tail -5 "$out/train-$switch.txt" >&2; fail "the native program could not train"; }
  [ -s "$(echo "$out/run-$switch"/*/dose_response.png)" ] || fail "the native program drew no plot"
done
if [ "$halves" = 0 ]; then echo "the native program trains with AVX2; this machine has no AVX-512 to run its other half"; else echo "the native program trains at both instruction sets"; fi
