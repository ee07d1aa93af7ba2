#!/usr/bin/env bash
# Trains DIN as PyTorch users know it on the examples of a recipe, and measures it on the same
# slates as Raisonné's scorer. Needs cargo and Python 3.10 or later. It installs Python packages in a
# folder beside this script, or in the one named by VENV.
#
#   loadtest/peers/din/run.sh RECIPE WORK [--set KEY=VALUE …] [-- options of din.py]
#
# WORK is a folder in which `raisonne bundle make --work WORK`, or the stages up to the text encoder,
# ran with that recipe.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
recipe="$1" work="$2"
shift 2
sets=()
while [ $# -gt 0 ] && [ "$1" != "--" ]; do
  sets+=("$1")
  shift
done
[ $# -gt 0 ] && shift

. "$here/../environment.sh"
environment "$here" 'torch, numpy, safetensors'

examples="$(mktemp --suffix=.safetensors)"
trap 'rm -f "$examples"' EXIT
${RAISONNE:-cargo run --quiet --release --} export --recipe "$recipe" --work "$work" --out "$examples" "${sets[@]}"
"$python" "$here/din.py" "$examples" "$@"
