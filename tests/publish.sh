#!/usr/bin/env bash
# Publishes the command line for machines without .NET: linux-x64, linux-arm64, win-x64 with the runtime in one file each;
# the one that fits this machine is run. With --aot also the native program of linux-x64 (minutes), at both of its
# instruction sets; without a C compiler and linker that is an error.
# usage: tests/publish.sh [--aot] [OUT]     (OUT keeps what is made; else it goes to a temporary folder)
set -eu
cd "$(dirname "$0")/.."
aot=false
if [ "${1-}" = --aot ]; then aot=true; shift; fi
out=${1-}
if [ -z "$out" ]; then out=$(mktemp -d); trap 'rm -rf "$out"' EXIT; fi

fail() { echo "publish: $*" >&2; exit 1; }
publish() { # RID FOLDER [properties]
  local rid=$1 folder=$2; shift 2
  rm -rf "$folder"
  local log; log=$(dotnet publish src/Repeng.Cli -c Release -r "$rid" -v quiet --nologo -o "$folder" "$@" 2>&1) || { echo "$log" >&2; fail "$rid could not be published"; }
  if grep -qE 'warning (IL|AOT)|: warning' <<<"$log"; then echo "$log" >&2; fail "$rid: warnings"; fi
}
size() { du -sm "$1" | cut -f1; }
# Run as a person without .NET would: from another folder, and with nothing of an SDK to be found.
program() { (cd / && env -u DOTNET_ROOT PATH=/usr/bin:/bin "$@"); }

for rid in linux-x64 linux-arm64 win-x64; do
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
program "$out/linux-x64/repeng-native" doctor | grep -E '^(CPU|demo model):'

$aot || exit 0
publish linux-x64 "$out/aot" -p:PublishAot=true
file="$out/aot/repeng-native"
[ "$(ls "$out/aot")" = repeng-native ] || fail "the native program is not one file: $(ls -m "$out/aot")"
export XDG_CACHE_HOME=$out/cache
echo "linux-x64, native: $(size "$file") MiB, $(size "$out/aot") MiB with all that lies beside it"
program "$file" doctor | grep -E '^(CPU|demo model):'
program env DOTNET_EnableAVX512=0 "$file" doctor | grep -E '^CPU:.*SIMD AVX2$'
# Both halves train, the files of the run and the plots included.
for switch in 1 0; do
  program env DOTNET_EnableAVX512=$switch "$file" train --quick --output_dir "$out/run-$switch" > "$out/train-$switch.txt" 2>&1 || { tail -5 "$out/train-$switch.txt" >&2; fail "the native program could not train"; }
  [ -s "$(echo "$out/run-$switch"/*/dose_response.png)" ] || fail "the native program drew no plot"
done
echo "the native program trains at both instruction sets"
