#!/usr/bin/env bash
# Trains LightGBM's LambdaMART on the scorer's own features and the place in the order given, tunes it
# on the validation slates of a recipe, and measures it on the test slates beside the scored order.
# Needs cargo and Python 3.10 or later. It installs Python packages in a folder beside this script, or
# in the one named by VENV. RAISONNE names a built binary.
#
#   loadtest/peers/lambdamart/run.sh RECIPE WORK CASES [--set KEY=VALUE …] [-- options of lambdamart.py]
#
# WORK is a folder in which `raisonne bundle make --work WORK` ran with that recipe, and CASES what
# `raisonne eval --cases CASES` wrote for its bundle.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
recipe="$1" work="$2" cases="$3"
shift 3
sets=()
while [ $# -gt 0 ] && [ "$1" != "--" ]; do
  sets+=("$1")
  shift
done
[ $# -gt 0 ] && shift

. "$here/../environment.sh"
environment "$here" 'lightgbm, numpy, safetensors'

examples="$(mktemp --suffix=.safetensors)"
trap 'rm -f "$examples"' EXIT
${RAISONNE:-cargo run --quiet --release --} export --features --recipe "$recipe" --work "$work" \
  --out "$examples" "${sets[@]}"
"$python" "$here/lambdamart.py" "$examples" "$cases" "$@"
