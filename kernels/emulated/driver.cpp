// A CUDA driver and a cuBLAS without a GPU: memory is the machine's, kernels are emulated, products are plain
// loops. Libraries of this name in the way of the real ones let the whole runner be tested anywhere.
//
// What is called is counted by name, and written to the file that EMULATED_CALLS names each time that the
// program waits for the device, so that a test can see what a step costs. Memory that is taken is filled with
// not-a-number: whoever reads what nobody wrote shows.
#define EMULATED
#include "../decoder.cu"
#include "../scorer.cu"

#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <tuple>
#include <utility>

namespace {

const int FINE = 0, NOT_FOUND = 500;

std::map<std::string, unsigned long> &calls() {
  static std::map<std::string, unsigned long> all;
  return all;
}

int count(const char *name) {
  calls()[name]++;
  return FINE;
}

void tell() {
  const char *path = getenv("EMULATED_CALLS");
  FILE *file = path ? fopen(path, "w") : nullptr;
  if (!file) return;
  for (auto &call : calls()) fprintf(file, "%s %lu\n", call.first.c_str(), call.second);
  fclose(file);
}

typedef std::function<void(void **)> Function;

template <class... A, size_t... I>
Function callable(void (*kernel)(A...), std::index_sequence<I...>) {
  return [kernel](void **arguments) { kernel(*static_cast<std::remove_reference_t<A> *>(arguments[I])...); };
}

template <class... A>
Function callable(void (*kernel)(A...)) {
  return callable(kernel, std::index_sequence_for<A...>());
}

std::map<std::string, Function> &functions() {
#define NAMED(KERNEL) {#KERNEL, callable(KERNEL)}
#define GROUPS(DIM)                                                                             \
  NAMED(attend_##DIM##_1), NAMED(attend_##DIM##_2), NAMED(attend_##DIM##_3), NAMED(attend_##DIM##_4)
#define MORE_GROUPS(DIM)                                                                        \
  GROUPS(DIM), NAMED(attend_##DIM##_5), NAMED(attend_##DIM##_6), NAMED(attend_##DIM##_7), NAMED(attend_##DIM##_8)
  static std::map<std::string, Function> all = {
      NAMED(embed),        NAMED(add_norm),        NAMED(pick),        NAMED(columns),
      NAMED(place_heads),  NAMED(attend_merge),    NAMED(silu_mul),    GROUPS(8),
      MORE_GROUPS(16),     MORE_GROUPS(32),        MORE_GROUPS(64),    MORE_GROUPS(128),
      NAMED(place_rows),   NAMED(encode_histories), NAMED(score_candidates)};
  return all;
}

int take(unsigned long long *address, size_t bytes) {
  void *memory = malloc(bytes ? bytes : 1);
  memset(memory, 0xff, bytes);
  *address = (unsigned long long)memory;
  return FINE;
}

}  // namespace

extern "C" {

// --- the driver ---

int cuInit(unsigned) { return count("cuInit"); }
int cuDriverGetVersion(int *version) { *version = 13000; return FINE; }
int cuDeviceGetCount(int *devices) { *devices = 1; return FINE; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return ordinal == 0 ? FINE : 101; }
int cuDeviceGetName(char *name, int length, int) { snprintf(name, (size_t)length, "emulated"); return FINE; }
int cuDeviceGetAttribute(int *value, int, int) { *value = 0; return FINE; }
int cuDevicePrimaryCtxRetain(void **context, int) { *context = (void *)1; return FINE; }
int cuDevicePrimaryCtxRelease_v2(int) { return FINE; }
int cuCtxGetCurrent(void **context) { *context = (void *)1; return FINE; }
int cuCtxSetCurrent(void *) { return FINE; }
int cuCtxSynchronize() { tell(); return FINE; }
int cuStreamCreate(void **stream, unsigned) { *stream = (void *)2; return FINE; }
int cuStreamDestroy_v2(void *) { return FINE; }
int cuStreamSynchronize(void *) { tell(); return count("cuStreamSynchronize"); }
int cuMemAlloc_v2(unsigned long long *address, size_t bytes) { count("cuMemAlloc"); return take(address, bytes); }
int cuMemAllocAsync(unsigned long long *address, size_t bytes, void *) { count("cuMemAlloc"); return take(address, bytes); }
int cuMemFree_v2(unsigned long long address) { free((void *)address); return count("cuMemFree"); }
int cuMemFreeAsync(unsigned long long address, void *) { free((void *)address); return count("cuMemFree"); }
int cuMemGetInfo_v2(size_t *left, size_t *all) { *left = *all = (size_t)1 << 34; return FINE; }
int cuMemsetD8Async(unsigned long long to, unsigned char value, size_t bytes, void *) {
  memset((void *)to, value, bytes);
  return count("cuMemset");
}
int cuMemcpyHtoDAsync_v2(unsigned long long to, const void *from, size_t bytes, void *) {
  memcpy((void *)to, from, bytes);
  return count("cuMemcpyHtoD");
}
int cuMemcpyDtoHAsync_v2(void *to, unsigned long long from, size_t bytes, void *) {
  memcpy(to, (const void *)from, bytes);
  return count("cuMemcpyDtoH");
}
int cuModuleLoadData(void **module, const void *) { *module = (void *)3; return FINE; }
int cuModuleUnload(void *) { return FINE; }
int cuModuleGetFunction(void **function, void *, const char *name) {
  auto found = functions().find(name);
  if (found == functions().end()) return NOT_FOUND;
  *function = &*found;
  return FINE;
}
int cuFuncSetAttribute(void *, int, int) { return FINE; }
int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned, unsigned, unsigned shared,
                   void *, void **arguments, void **) {
  auto &named = *static_cast<std::pair<const std::string, Function> *>(function);
  count("launch");
  count(named.first.c_str());
  emulated::launch({gx, gy, gz}, {bx, 1, 1}, [&] { named.second(arguments); }, shared);
  return FINE;
}
int cuGetErrorName(int, const char **text) { *text = "EMULATED"; return FINE; }
int cuGetErrorString(int, const char **text) { *text = "an emulated driver's error"; return FINE; }

// --- cuBLAS ---

int cublasCreate_v2(void **handle) { *handle = (void *)4; return FINE; }
int cublasDestroy_v2(void *) { return FINE; }
int cublasSetStream_v2(void *, void *) { return FINE; }
int cublasSetWorkspace_v2(void *, void *, size_t) { return FINE; }

// C (n, m) = B (n, k) A (m, k)^T in rows: what `op(A) = A^T, op(B) = B` of bf16 into f32 means in columns.
int cublasGemmEx(void *, int a_op, int b_op, int m, int n, int k, const void *alpha, const void *a, int a_type, int lda,
                 const void *b, int b_type, int ldb, const void *beta, void *c, int c_type, int ldc, int, int) {
  const int TRANSPOSED = 1, AS_IT_IS = 0, F32 = 0, BF16 = 14, UNSUPPORTED = 15;
  const bool known = a_op == TRANSPOSED && b_op == AS_IT_IS && a_type == BF16 && b_type == BF16 && c_type == F32;
  if (!known || *(const float *)alpha != 1.0f || *(const float *)beta != 0.0f) return UNSUPPORTED;
  for (int row = 0; row < n; row++)
    for (int column = 0; column < m; column++) {
      float sum = 0.0f;
      for (int i = 0; i < k; i++)
        sum += __bfloat162float(((const bf16 *)a)[(size_t)column * lda + i]) *
               __bfloat162float(((const bf16 *)b)[(size_t)row * ldb + i]);
      ((float *)c)[(size_t)row * ldc + column] = sum;
    }
  count("launch");
  return count("cublasGemmEx");
}

}  // extern "C"
