#!/usr/bin/env bash
# The engine beside llama.cpp on the same random weights of the Qwen3-0.6B shape, in one run.
# Installs and builds everything in `work/`, which git ignores. Arguments go to compare.py, which
# runs twice: with all of this processor's instructions, and with both engines limited to AVX2.
set -euo pipefail
cd "$(dirname "$0")"
mkdir -p work

. ../environment.sh
VENV="${VENV:-$(realpath work)/venv}" environment "$PWD" 'cmake, gguf, ninja, numpy, scikit_build_core'
export PATH="$(dirname "$python"):$PATH"

# The source package of llama-cpp-python carries llama.cpp.
if [ ! -d work/llama_cpp_python-0.3.36 ]; then
  pip download --quiet --no-deps --no-binary :all: --no-build-isolation --dest work \
    llama-cpp-python==0.3.36
  tar --extract --gzip --directory work --file work/llama_cpp_python-0.3.36.tar.gz
fi
build() {
  local folder=$1
  shift
  [ -x "$folder/bin/llama-quantize" ] && return
  echo "building llama.cpp in $folder (output in $folder.log)" >&2
  {
    cmake -S work/llama_cpp_python-0.3.36/vendor/llama.cpp -B "$folder" -G Ninja \
      -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF -DLLAMA_CURL=OFF -DLLAMA_BUILD_TESTS=OFF \
      -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF "$@"
    cmake --build "$folder" --target llama-batched-bench llama-quantize
  } >"$folder.log" 2>&1
}
build work/native -DGGML_NATIVE=ON
build work/avx2 -DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON
[ -f work/model/bf16.gguf ] || python make.py work/model
[ -f work/q8_0.gguf ] || work/native/bin/llama-quantize work/model/bf16.gguf work/q8_0.gguf Q8_0 >&2
# The loader expects a tokenizer beside a GGUF file; this benchmark does not read it.
echo '{}' >work/tokenizer.json

cargo build --release --quiet
python compare.py "$@"
python compare.py --bench work/avx2/bin/llama-batched-bench --instructions avx2 "$@"
