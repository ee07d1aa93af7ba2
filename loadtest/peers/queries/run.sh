#!/usr/bin/env bash
# Queries for ML-1M by RecBench+'s published construction: trains the scorer with its query path on the films, ranks the
# queries, and compares with a pretrained encoder's cosine, BM25 and popularity.
# Needs Python 3.10 or later; it installs packages in a folder beside this script, or in the one named by VENV.
#
#   loadtest/peers/queries/run.sh ML1M WORK [ENCODER] [-- --set KEY=VALUE …]
#
# ML1M holds the films and the log (see films.py), WORK gets everything that is made, and ENCODER is a folder of
# sentence-transformers. RAISONNE names a built binary. GROUPS_FILE names RecBench+'s queries of groups.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
ml1m="$1" work="$2"
shift 2
encoder=()
if [ $# -gt 0 ] && [ "$1" != "--" ]; then
  encoder=(--encoder "$1")
  shift
fi
[ $# -gt 0 ] && shift
raisonne="${RAISONNE:-cargo run --quiet --release --}"

venv="${VENV:-$here/.venv}"
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/python" -c 'import numpy, zstandard' 2>/dev/null ||
  "$venv/bin/pip" install --quiet -r "$here/requirements.txt"

if [ ! -d "$work/shop" ]; then
  "$venv/bin/python" "$here/films.py" "$ml1m" "$work/films"
  $raisonne import --items "$work/films/items.jsonl" --events "$ml1m/interactions.csv.zst" --out "$work/shop"
fi
sets=(--set name=films --set "shop.imported=$work/shop" --set split.train=0.02 --set split.validate=0.19
  --set split.test=0.22 --set slates.size=100 --set reward_model.examples_max=8000 --set 'query={}'
  --set cards.as_of=2000-09-01T00:00:00Z "$@")
recipe="$here/../../recipes/rivals/scorer.toml"
$raisonne bundle make --recipe "$recipe" --work "$work/work" --out "$work/bundle" "${sets[@]}"
$raisonne eval --bundle "$work/bundle" --data "$work/shop" --cases "$work/cases.jsonl" --json >"$work/report.json"
"$venv/bin/python" "$here/make.py" "$ml1m" "$work/cases.jsonl" "$work/asked" \
  ${GROUPS_FILE:+--group-queries "$GROUPS_FILE"}
for requests in "$work"/asked/requests.*.jsonl; do
  kind="${requests##*/requests.}"
  $raisonne rank --bundle "$work/bundle" --requests "$requests" --out "$work/asked/rankings.$kind"
  sed 's/"query": "[^"]*\(\\"[^"]*\)*", "candidates"/"candidates"/' "$requests" |
    $raisonne rank --bundle "$work/bundle" --requests - --out "$work/asked/silent.$kind"
done
"$venv/bin/python" "$here/compare.py" "$ml1m" "$work/asked" --silent "${encoder[@]}" | tee "$work/queries.md"
