#!/usr/bin/env bash
# Builds what run.sh needs on a machine with a GPU and nothing to build with: the program, and the tests that
# hold a device against the processor. All compressed, in `packed/`, which git ignores.
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
    made = json.loads(line)
    if made.get("executable") and "test" in made["target"]["kind"]:
        print(made["target"]["name"] + "=" + made["executable"])')
for made in "raisonne=$target/release/raisonne" $tests; do
  strip -o "$out/${made%%=*}" "${made#*=}"
  xz --force -9 --threads=0 "$out/${made%%=*}"
done
ls -l "$out"
