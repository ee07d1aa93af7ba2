#!/usr/bin/env bash
# One real shop and one retriever beside their rivals: imports the shop, trains the scorer alone, evaluates it beside
# the order given and the plain rules, exports the scorer's features, and tunes LambdaMART on them.
#
#   RAISONNE=target/release/raisonne loadtest/rivals.sh SHOP RETRIEVER DATA WORK [--set KEY=VALUE …]
#
# SHOP is one of: beauty retail toys games ml1m ml1m-sasrec ml-small. RETRIEVER is item_knn or blended. DATA is the
# folder that holds `amazon-beauty-2014` and the others, with their files as published in `shared/data`. WORK is a folder
# for everything that is made; a shop that was imported there is not imported again. It ends with the files
# WORK/SHOP.RETRIEVER.{report.json,cases.jsonl,lambdamart.json,lambdamart.md}.
#
# It needs what `loadtest/peers/lambdamart/run.sh` needs. VENV names a folder with its Python packages.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
shop="$1" retriever="$2" data="$(cd "$3" && pwd)" work="$4"
shift 4
raisonne="${RAISONNE:?names a built binary of raisonne}"
mkdir -p "$work"
work="$(cd "$work" && pwd)"

files=(interactions.csv.zst items.csv.zst) import=() set=()
case "$shop" in
  beauty) folder=amazon-beauty-2014 import=(--skip-rejects) ;;
  toys) folder=amazon-toys-2014 import=(--skip-rejects) ;;
  games) # titles are all that is known of an item
    folder=amazon-video-games-2018 import=(--skip-rejects)
    set=(split.train=0.8 split.validate=0.93 split.test=0.95)
    ;;
  retail)
    folder=online-retail-ii files=(events.csv.zst items.csv.zst)
    set=(split.train=0.3 split.validate=0.8 split.test=0.9 slates.refresh_days=28 shop.currency=£
      shop.mine_attributes=true reward_model.per_basket=4)
    ;;
  ml1m | ml1m-sasrec)
    folder=ml-1m import=(--attributes "genres,director")
    set=(split.train=0.02 split.validate=0.19 split.test=0.22 slates.size=100)
    ;;
  ml-small)
    folder=ml-latest-small files=(ratings.csv.zst movies.csv.zst)
    import=(--attributes genres --column user_id=userId --column item_id=movieId --column time=timestamp)
    set=(split.train=0.3 split.validate=0.7 split.test=0.85 slates.refresh_days=56)
    ;;
  *)
    echo "no shop $shop is known here" >&2
    exit 2
    ;;
esac
if [ "$shop.$retriever" = retail.blended ]; then # chosen on validation slates: its customers buy the same again
  set+=("slates.blend={ bought_before = 4.0 }")
fi
if [ "$shop" = ml1m-sasrec ]; then # the slates of a published SASRec are what is evaluated
  set+=("slates.given=$data/llmrank-candidates/ml-1m.sasrec.tsv.zst")
fi

imported="$work/data/$folder"
if [ ! -d "$imported" ]; then
  mkdir -p "$work/data"
  "$raisonne" import --events "$data/$folder/${files[0]}" --items "$data/$folder/${files[1]}" \
    --out "$imported" "${import[@]}"
fi

run="$work/$shop.$retriever"
sets=(--set "name=$shop" --set "shop.imported=$imported" --set "slates.retriever=$retriever")
for setting in "${set[@]}"; do sets+=(--set "$setting"); done
sets+=("$@")
recipe="$here/recipes/rivals/scorer.toml"
rm -rf "$run.bundle"
"$raisonne" bundle make --recipe "$recipe" --work "$run.work" --out "$run.bundle" "${sets[@]}"
"$raisonne" eval --bundle "$run.bundle" --data "$imported" --cases "$run.cases.jsonl" --json >"$run.report.json"
RAISONNE="$raisonne" "$here/peers/lambdamart/run.sh" "$recipe" "$run.work" "$run.cases.jsonl" "${sets[@]}" \
  -- --shop "$shop, $retriever" --out "$run.lambdamart.json" --cases-out "$run.cases.all.jsonl" |
  tee "$run.lambdamart.md"
