#!/usr/bin/env bash
# docs/report.png from a report: the newest below ./lake, or the one that is named. Needs chromium.
#
#   make demo && docs/picture.sh [lake/runs/ds=.../.../report.html]
set -euo pipefail
cd "$(dirname "$0")/.."
report=${1:-$(ls -t lake/runs/ds=*/*/report.html | head -1)}
root=()
[ "$(id -u)" = 0 ] && root=(--no-sandbox) # it does not start as root with one
profile=$(mktemp -d)
trap 'rm -rf "$profile"' EXIT
chromium --headless --disable-gpu --hide-scrollbars --no-first-run "${root[@]}" \
  --disable-dev-shm-usage --user-data-dir="$profile" --window-size=1000,1780 \
  --screenshot="$PWD/docs/report.png" "file://$(realpath "$report")" 2> "$profile/log" || {
  cat "$profile/log" >&2
  exit 1
}
size=$(stat -c %s docs/report.png)
[ "$size" -lt 250000 ] || { echo "docs/report.png has $size bytes, more than 250,000" >&2; exit 1; }
