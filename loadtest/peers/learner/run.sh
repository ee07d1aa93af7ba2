#!/usr/bin/env bash
# The learner beside PyTorch with transformers on the same small model, weights and data, in turns.
# Installs and writes what it needs in `work/`, which git ignores. Arguments go to compare.py.
set -euo pipefail
cd "$(dirname "$0")"
mkdir -p work

[ -d work/venv ] || python3 -m venv work/venv
. work/venv/bin/activate
pip install --quiet --requirement requirements.txt
[ -f work/lessons.safetensors ] || python make.py work

cargo build --release --quiet
python compare.py "$@"
