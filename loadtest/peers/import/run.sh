#!/bin/bash
# Compares `raisonne import` with the same join and checks in polars: ratios of wall time, processor time and peak memory.
#
#   bash loadtest/peers/import/run.sh [EVENTS]
#
# PYTHON is a Python with requirements.txt; RAISONNE is a release binary; WORK is a folder with room for the log.
set -euo pipefail
here=$(dirname "$0")
events=${1:-50000000}
python=${PYTHON:-python3}
raisonne=${RAISONNE:-target/release/raisonne}
work=${WORK:-$(mktemp -d)}
rounds=${ROUNDS:-3}
games=../shared/data/amazon-video-games-2018

compare() { # name, items, events, columns, options of ours
  echo "== $1"
  "$python" "$here/measure.py" --rounds "$rounds" \
    "$raisonne import --items $2 --events $3 $4 ${5:-} --out OUT" \
    "$python $here/polars_import.py --items $2 --events $3 $4 --out OUT"
}

if [ -d "$games" ]; then
  # Three of its titles are longer than a title may be.
  compare amazon-video-games-2018 "$games/items.csv.zst" "$games/interactions.csv.zst" "--column time=timestamp" --skip-rejects
else
  echo "skipped: there is no $games"
fi
[ -f "$work/events.parquet" ] || "$python" "$here/simulate.py" --events "$events" --out "$work"
compare "$events simulated events" "$work/items.csv" "$work/events.parquet" ""
