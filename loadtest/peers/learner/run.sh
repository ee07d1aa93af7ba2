#!/usr/bin/env bash
# Compares the learner with PyTorch and transformers on the same small model, weights and data, alternately.
# Installs and writes into `work/`, which git ignores. Arguments go to compare.py.
set -euo pipefail
cd "$(dirname "$0")"
mkdir -p work

. ../environment.sh
VENV="${VENV:-$(realpath work)/venv}" environment "$PWD" 'numpy, safetensors, torch, transformers'
export PATH="$(dirname "$python"):$PATH"
[ -f work/lessons.safetensors ] || python make.py work

cargo build --release --quiet
python compare.py "$@"
