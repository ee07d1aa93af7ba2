#!/usr/bin/env bash
# Builds the program and the GPU's tests for run.sh, for a machine with a GPU and no build tools. They are compressed in
# `packed/`, which git ignores.
set -euo pipefail
cd "$(dirname "$0")/../../.."
out=loadtest/peers/gpu/packed
target=${CARGO_TARGET_DIR:-target}
mkdir -p "$out"

NVCC=$(scripts/cuda-toolchain "$target/cuda/toolchain")
export NVCC
cargo build --release --features cuda
tests=$(cargo test --release --features cuda --test cuda --test cuda_scorer --test cuda_backprop --no-run --message-format=json |
  python3 -c 'import json, sys
for line in sys.stdin:
    artifact = json.loads(line)
    if artifact.get("executable") and "test" in artifact["target"]["kind"]:
        print(artifact["target"]["name"] + "=" + artifact["executable"])')
for built in "raisonne=$target/release/raisonne" $tests; do
  strip -o "$out/${built%%=*}" "${built#*=}"
  xz --force -9 --threads=0 "$out/${built%%=*}"
done
ls -l "$out"
