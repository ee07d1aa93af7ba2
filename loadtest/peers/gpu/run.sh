#!/usr/bin/env bash
# Checks the engine on a machine with a GPU, PyTorch and transformers, and compares its speed with transformers' with a
# static cache and CUDA graphs. Needs the output of pack.sh, and builds nothing. Each step runs only if the one before it
# passed: the small models of the fixtures, the scorer and the gradients of adapters; logits of an 8B in prefill and
# decode; times; and the learner's losses beside PyTorch's.
#
#   loadtest/peers/gpu/run.sh [MODEL]     creates MODEL if it does not exist: 16 GB, by default in /dev/shm
#
# TINY=1 creates a tiny model instead. DEVICE=cpu runs the same steps without a GPU, as a test of this script.
set -euo pipefail
cd "$(dirname "$0")/../../.."
here=loadtest/peers/gpu
model=${1:-/dev/shm/raisonne-model}
device=${DEVICE:-cuda}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
for name in raisonne cuda cuda_scorer cuda_backprop; do
  python3 -c 'import lzma, shutil, sys; shutil.copyfileobj(lzma.open(sys.argv[1]), open(sys.argv[2], "wb"))' \
    "$here/packed/$name.xz" "$scratch/$name"
  chmod +x "$scratch/$name"
done
# The folder of PyTorch's cuBLAS.
libraries=$(python3 -c 'import os
try:
    import nvidia
    print(":".join(os.path.join(path, "cu13", "lib") for path in nvidia.__path__))
except ImportError:
    pass')
export LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}

step() { printf '\n-- %s\n' "$*"; }
if [ "$device" != cpu ]; then
  step "device"
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv
  step "the small models, the scorer, and the gradients of adapters"
  "$scratch/cuda" --test-threads 1
  "$scratch/cuda_scorer" --test-threads 1
  "$scratch/cuda_backprop" --test-threads 1 --nocapture
  step "the scorer's times"
  "$scratch/raisonne" bench scorer --device "$device" --slates 64 --candidates 100
fi
step "model"
[ -f "$model/config.json" ] || python3 "$here/peer.py" make "$model" ${TINY:+--tiny}
step "logits"
# A CPU has no E4M3, and other blocks of 8-bit integers.
dtypes=bf16
[ "$device" = cpu ] || dtypes="bf16 fp8 int8"
logits() {
  "$scratch/raisonne" bench logits --model "$model" --device "$device" --tokens "$model/tokens.json" \
    --out "$scratch/$1.safetensors" "${@:2}"
}
for quantize in $dtypes; do logits "$quantize" --quantize "$quantize"; done
[ "$device" = cpu ] || logits cache_fp8 --quantize bf16 --quantize-cache fp8
python3 "$here/peer.py" check "$model" "$scratch"/*.safetensors
step "transformers"
python3 "$here/peer.py" time "$model" | tee "$scratch/theirs.json"
read -r bandwidth peak < <(python3 -c 'import json, sys
report = json.load(open(sys.argv[1]))
print(report.get("bandwidth", 10e9) / 1e9, report.get("peak", 1e11) / 1e12)' "$scratch/theirs.json")
step "the engine"
measure() {
  "$scratch/raisonne" bench engine --model "$model" --device "$device" --max-batched-tokens 2048 \
    --bandwidth "$bandwidth" --peak "$peak" --batches 1,8,64 --prompt-tokens 1024 --tokens 64 "$@"
}
for quantize in $dtypes; do measure --quantize "$quantize"; done
[ "$device" = cpu ] || measure --quantize fp8 --quantize-cache fp8
step "the learner"
rank=16 batch=16 rows=16384
[ -z "${TINY:-}" ] || { rank=4 batch=4 rows=256; }
learn() {
  "$scratch/raisonne" bench learner --model "$model" --lessons "$model/lessons.safetensors" --device "$device" \
    --adapter-rank "$rank" --bf16 --recompute --steps 6 --batch "$batch" --max-batched-tokens "$rows" "$@"
}
learn --reinforce
learn --json > "$scratch/learned.json"
python3 "$here/peer.py" learn "$model" "$scratch/learned.json"
