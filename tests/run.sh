#!/usr/bin/env bash
# Builds everything and runs every test project; the last line counts what really ran.
# usage: tests/run.sh [xunit arguments]
set -u
cd "$(dirname "$0")/.."
dotnet build Repeng.Native.sln -c Release -v quiet --nologo || exit 1
args=("$@")
passed=0; failed=0; skipped=0; broken=0
log=$(mktemp); trap 'rm -f "$log"' EXIT
for project in tests/Repeng.*.Tests; do
  name=$(basename "$project")
  echo "== $name"
  dotnet "$project/bin/Release/net10.0/$name.dll" -noLogo -noColor "${args[@]}" 2>&1 | tee "$log"
  status=${PIPESTATUS[0]}
  line=$(grep -E 'Total: [0-9]+' "$log" | tail -1)
  number() { sed -nE "s/.*$1: ([0-9]+).*/\1/p" <<<"$line"; }
  total=$(number Total); errors=$(number Errors); bad=$(number Failed); left=$(number Skipped); none=$(number 'Not Run')
  if [ -z "$total" ]; then
    # No summary: the project crashed, or no test was selected in it.
    [ "$status" -eq 0 ] || grep -q 'No tests' "$log" || { echo "$name ended without a summary (exit $status)"; broken=$((broken + 1)); }
    continue
  fi
  passed=$((passed + total - bad - errors - left - ${none:-0})); failed=$((failed + bad + errors)); skipped=$((skipped + left))
done
failed=$((failed + broken))
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
