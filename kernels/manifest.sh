#!/usr/bin/env bash
# Prints the manifest of a folder of PTX: sources, flags, compiler, and what a launch needs to know of each kernel.
# usage: manifest.sh folder compiler flags   (from kernels/; build.sh calls it)
# Registers come from resources.tsv (kernels/check.sh writes it where ptxas is there), for PTX of the same hash; else null.
set -eu
export LC_ALL=C
hash() { sha256sum | cut -c1-64; }
printf '{\n  "compiler": "%s",\n  "flags": "%s",\n  "target": "sm_80",\n  "modules": [\n' "$2" "$3"
first=1
for source in *.cu; do
  name=${source%.cu}
  [ $first = 1 ] || printf ',\n'
  first=0
  ptx=$(hash <"$1/$name.ptx")
  printf '    {\n      "name": "%s",\n      "source": "%s",\n      "ptx": "%s",\n      "launch": [' "$name" "$(cat "$source" *.cuh | hash)" "$ptx"
  # //! family | kernels | block | grid | shared | notes
  awk -F ' *\\| *' '/^\/\/! / {
      sub(/^\/\/! /, ""); gsub(/"/, "\\\"");
      printf "%s\n        { \"kernels\": \"%s\", \"block\": \"%s\", \"grid\": \"%s\", \"shared\": \"%s\"%s }", n++ ? "," : "", $2, substr($3, 7), substr($4, 6), substr($5, 8), $6 == "" ? "" : ", \"note\": \"" $6 "\""
    }' "$source"
  printf '\n      ],\n      "kernels": ['
  awk -v ptx="$ptx" '
    FNR == NR { if ($1 == ptx) known[$3] = known[$3] (known[$3] == "" ? "" : ", ") "\"" $2 "\": " $4; next }
    function finish() {
      if (name == "") return
      printf "%s\n        { \"name\": \"%s\", \"threads\": %d, \"static_shared\": %d, \"params\": [%s], \"registers\": %s }", n++ ? "," : "", name, threads, shared, params, known[name] == "" ? "null" : "{ " known[name] " }"
      name = ""
    }
    /^\.visible \.entry / { finish(); name = $3; sub(/\(.*/, "", name); params = ""; threads = 0; shared = 0 }
    name != "" && $1 == ".param" {
      type = $2; sub(/^\./, "", type)
      if (type == "align") { match($0, /\[[0-9]+\]/); type = "bytes" substr($0, RSTART, RLENGTH) }
      params = params (params == "" ? "" : ", ") "\"" type "\""
    }
    name != "" && $1 == ".maxntid" { threads = $2 + 0 }
    name != "" && $1 == ".shared" { match($0, /\[[0-9]+\]/); shared += substr($0, RSTART + 1, RLENGTH - 2) }
    END { finish() }' resources.tsv "$1/$name.ptx"
  printf '\n      ]\n    }'
done
printf '\n  ]\n}\n'
