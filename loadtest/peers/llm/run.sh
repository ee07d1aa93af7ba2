#!/usr/bin/env bash
# The engine beside llama.cpp on the same random weights of the Qwen3-0.6B shape, in one run.
# Installs and builds what it needs in `work/`, which git ignores. Arguments go to compare.py.
set -euo pipefail
cd "$(dirname "$0")"
mkdir -p work

[ -d work/venv ] || python3 -m venv work/venv
. work/venv/bin/activate
pip install --quiet --requirement requirements.txt

# The source package of llama-cpp-python carries llama.cpp.
if [ ! -x work/build/bin/llama-batched-bench ]; then
  pip download --quiet --no-deps --no-binary :all: --no-build-isolation --dest work \
    llama-cpp-python==0.3.36
  tar --extract --gzip --directory work --file work/llama_cpp_python-0.3.36.tar.gz
  cmake -S work/llama_cpp_python-0.3.36/vendor/llama.cpp -B work/build -G Ninja \
    -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=OFF -DLLAMA_CURL=OFF \
    -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF
  cmake --build work/build --target llama-batched-bench llama-quantize
fi
[ -f work/model/bf16.gguf ] || python make.py work/model
[ -f work/q8_0.gguf ] || work/build/bin/llama-quantize work/model/bf16.gguf work/q8_0.gguf Q8_0

cargo build --release --quiet
python compare.py "$@"
