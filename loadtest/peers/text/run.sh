#!/usr/bin/env bash
# Compares the throughput of text encoders on Raisonné and sentence-transformers: the same titles, the same threads.
# Needs a built program, RAISONNE, and Python 3.10 or later. It installs Python packages in a folder beside this script,
# or in the one named by VENV.
#
#     RAISONNE=target/release/raisonne ./run.sh --titles titles.txt --threads 2 FOLDER...
#
# A FOLDER holds a pretrained encoder: a BERT, or a static table with its tokenizer.
set -euo pipefail
cd_back=$PWD
cd "$(dirname "$0")"

. ../environment.sh
environment "$PWD" 'torch, numpy, safetensors, sentence_transformers, tokenizers'

here=$PWD
cd "$cd_back"
exec "$python" "$here/compare.py" "${RAISONNE:-raisonne}" "$@"
