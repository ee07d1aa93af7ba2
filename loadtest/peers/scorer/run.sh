#!/usr/bin/env bash
# Compares the scorer's network on Raisonné, candle, ONNX Runtime and PyTorch.
# Needs cargo and Python 3.10 or later. It installs Python packages in a folder beside this script,
# or in the one named by VENV. Options are those of compare.py: --rounds, --repetitions. `BENCH` may
# name a built benchmark; without it, cargo builds one.
set -euo pipefail
cd "$(dirname "$0")"

. ../environment.sh
environment "$PWD" 'torch, numpy, safetensors, onnx, onnxscript, onnxruntime'

bench=${BENCH:-$(cargo bench --bench scorer --no-run --message-format=json 2>/dev/null |
  "$python" -c '
import json, sys
for line in sys.stdin:
    made = json.loads(line)
    if made.get("target", {}).get("name") == "scorer" and made.get("executable"):
        print(made["executable"])')}

# One core for all engines, where the system can pin them.
pin=()
if command -v taskset >/dev/null; then pin=(taskset -c "$(($(nproc) - 1))"); fi
exec "${pin[@]}" "$python" compare.py "$bench" "$@"
