#!/usr/bin/env bash
# Puts a ZIP behind the code of the published program: the ZIP, its length in eight bytes, and the mark (see ProgramParts.cs).
# usage: parts.sh PROGRAM ZIP   (called by the publish of the project, see Native.targets)
set -eu
program=$1 zip=$2
length=$(stat -c %s "$zip")
{ cat "$zip"
  for shift in 0 8 16 24 32 40 48 56; do printf "\\x$(printf %02x $(((length >> shift) & 255)))"; done
  printf REPENG01
} >> "$program"
