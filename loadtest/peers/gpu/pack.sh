#!/usr/bin/env bash
# Builds what run.sh needs on a machine with a GPU and nothing to build with: the program, and the test that
# holds a device against the processor. Both compressed, in `packed/`, which git ignores.
set -euo pipefail
cd "$(dirname "$0")/../../.."
out=loadtest/peers/gpu/packed
target=${CARGO_TARGET_DIR:-target}
mkdir -p "$out"

NVCC=$(scripts/cuda-toolchain "$target/cuda/toolchain")
export NVCC
cargo build --release --features cuda
test=$(cargo test --release --features cuda --test cuda --no-run --message-format=json |
  python3 -c 'import json, sys
for line in sys.stdin:
    made = json.loads(line)
    if made.get("executable") and made["target"]["name"] == "cuda":
        print(made["executable"])')
for file in "$target/release/raisonne" "$test"; do
  case $file in "$test") name=self-test ;; *) name=raisonne ;; esac
  strip -o "$out/$name" "$file"
  xz --force -9 --threads=0 "$out/$name"
done
ls -l "$out"
