#!/usr/bin/env bash
# Writes the table of registers, shared memory and occupancy between the two marks of a document.
# usage: table.sh document   (from kernels/; check.sh --write calls it)
set -eu
export LC_ALL=C
doc=$1
table=$(awk -F '\t' '
  # Threads and dynamic shared bytes from the launch comments (//!), registers from resources.tsv.
  FILENAME ~ /manifest/ {
    if (match($0, /"name": "[^"]*", "threads": [0-9]+/)) {
      split(substr($0, RSTART, RLENGTH), part, "\""); name = part[4]; match($0, /"threads": [0-9]+/); threads[name] = substr($0, RSTART + 11, RLENGTH - 11)
      order[++count] = name
    }
    next
  }
  /^#/ { next }
  { registers[$3, $2] = $4; shared[$3] = $7 }
  # Blocks an SM holds: by registers (a warp takes them by 256), shared memory (by 1 KiB more a block), warps, blocks.
  function occupancy(name, arch,   warps, blocks, byRegisters, byShared, room) {
    split(limits[arch], l, " ")
    warps = int((threads[name] + 31) / 32)
    blocks = int(l[1] / warps); if (blocks > l[3]) blocks = l[3]
    byRegisters = int(65536 / (int((registers[name, arch] * 32 + 255) / 256) * 256 * warps)); if (byRegisters < blocks) blocks = byRegisters
    byShared = int(l[2] * 1024 / (shared[name] + 1024)); if (byShared < blocks) blocks = byShared
    return int(100 * blocks * warps / l[1] + 0.5)
  }
  END {
    limits["sm_80"] = "64 164 32"; limits["sm_86"] = "48 100 16"; limits["sm_89"] = "48 100 24"; limits["sm_90"] = "64 228 32"
    print "| kernel | threads | registers 80 / 86 / 89 / 90 | static shared | occupancy % 80 / 86 / 89 / 90 |"
    print "|---|---|---|---|---|"
    for (i = 1; i <= count; i++) {
      n = order[i]
      printf "| `%s` | %d | %d / %d / %d / %d | %d | %d / %d / %d / %d |\n", n, threads[n], registers[n, "sm_80"], registers[n, "sm_86"], registers[n, "sm_89"], registers[n, "sm_90"], shared[n], occupancy(n, "sm_80"), occupancy(n, "sm_86"), occupancy(n, "sm_89"), occupancy(n, "sm_90")
    }
  }' ptx/manifest.json resources.tsv)
awk -v table="$table" '
  /<!-- table: kernels\/check.sh --write -->/ { print; print table; skip = 1; next }
  /<!-- end of table -->/ { skip = 0 }
  !skip { print }' "$doc" >"$doc.new"
mv "$doc.new" "$doc"
