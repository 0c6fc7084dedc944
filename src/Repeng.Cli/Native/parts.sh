#!/usr/bin/env bash
# Puts what lies beside the published program behind its code (see ProgramParts.cs).
# usage: parts.sh collect PROGRAM FOLDER    moves the files into a folder of their own
#        parts.sh append PROGRAM ZIP        appends the ZIP, its length in eight bytes, and the mark
set -eu
program=$2
case $1 in
  collect)
    rm -rf "$3"
    mkdir -p "$3"
    mv "$(dirname "$program")/models" "$(dirname "$program")"/lib*.so "$3"
    ;;
  append)
    length=$(stat -c %s "$3")
    { cat "$3"
      for shift in 0 8 16 24 32 40 48 56; do printf "\\x$(printf %02x $(((length >> shift) & 255)))"; done
      printf REPENG01
    } >> "$program"
    ;;
esac
