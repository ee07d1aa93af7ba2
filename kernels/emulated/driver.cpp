// A CUDA driver and a cuBLAS without a GPU: memory is the machine's, kernels are emulated, products are plain
// loops. Libraries of this name in the way of the real ones let the whole runner be tested anywhere.
//
// What is called is counted by name, and written to the file that EMULATED_CALLS names each time that the
// program waits for the device, so that a test can see what a step costs. Memory that is taken is filled with
// not-a-number: whoever reads what nobody wrote shows. While launches are captured, whatever can't be captured is
// refused.
//
// What lies in the file that EMULATED_FAULTS names is read once and removed. `launch 3 719`: the third launch from
// now on fails with error 719, and so does all that comes after it, as on a device that is lost, until its context
// is released; but after error 2, out of memory, the device goes on. `memory 1000000 0`: the device has so many
// bytes.
#define EMULATED
#include "../decoder.cu"
#include "../scorer.cu"

#include <cstdio>
#include <cstdlib>
#include <functional>
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

const int OUT_OF_MEMORY = 2, INVALID_VALUE = 1, NOT_WHILE_CAPTURING = 900, CAPTURE_INVALIDATED = 901;

struct Fault {
  unsigned long left;
  int error;
};

std::map<std::string, Fault> &faults() {
  static std::map<std::string, Fault> all;
  return all;
}

int lost = FINE;
size_t memory_max = (size_t)1 << 34, memory_taken = 0;

void hear() {
  const char *path = getenv("EMULATED_FAULTS");
  FILE *file = path ? fopen(path, "r") : nullptr;
  if (!file) return;
  char name[64];
  unsigned long number;
  int error;
  while (fscanf(file, "%63s %lu %d", name, &number, &error) == 3) {
    if (strcmp(name, "memory") == 0) memory_max = number;
    else faults()[name] = {number, error};
  }
  fclose(file);
  remove(path);
}

// Counts a call, and says whether it fails.
int count(const char *name) {
  calls()[name]++;
  hear();
  if (lost) return lost;
  auto found = faults().find(name);
  if (found == faults().end() || --found->second.left > 0) return FINE;
  const int error = found->second.error;
  faults().erase(found);
  if (error != OUT_OF_MEMORY) lost = error;
  return error;
}

void tell() {
  const char *path = getenv("EMULATED_CALLS");
  FILE *file = path ? fopen(path, "w") : nullptr;
  if (!file) return;
  for (auto &call : calls()) fprintf(file, "%s %lu\n", call.first.c_str(), call.second);
  fclose(file);
}

typedef std::function<void()> Work;
// A kernel with copies of the arguments that it is launched with.
typedef std::function<Work(void **)> Function;

template <class... A, size_t... I>
Function callable(void (*kernel)(A...), std::index_sequence<I...>) {
  return [kernel](void **arguments) -> Work {
    const std::tuple<A...> copies{*static_cast<A *>(arguments[I])...};
    return [kernel, copies] { std::apply(kernel, copies); };
  };
}

template <class... A>
Function callable(void (*kernel)(A...)) {
  return callable(kernel, std::index_sequence_for<A...>());
}

// Launches that are being captured, or were.
struct Graph {
  std::vector<Work> launches;
  bool broken = false;
};

Graph *capturing = nullptr;

// Says whether a call that can't be captured fails.
int count_uncaptured(const char *name) {
  if (!capturing) return count(name);
  capturing->broken = true;
  return NOT_WHILE_CAPTURING;
}

// Does some work now, or when what is being captured is replayed.
int launch(const char *name, Work work) {
  if (capturing) {
    capturing->launches.push_back([name, work] { calls()[name]++; work(); });
    return FINE;
  }
  if (const int error = count("launch")) return error;
  calls()[name]++;
  work();
  return FINE;
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

// How many bytes lie at each address.
std::map<unsigned long long, size_t> &taken() {
  static std::map<unsigned long long, size_t> all;
  return all;
}

int take(unsigned long long *address, size_t bytes) {
  if (const int error = count_uncaptured("cuMemAlloc")) return error;
  if (bytes > memory_max - std::min(memory_taken, memory_max)) return OUT_OF_MEMORY;
  void *memory = malloc(bytes ? bytes : 1);
  memset(memory, 0xff, bytes);
  *address = (unsigned long long)memory;
  taken()[*address] = bytes;
  memory_taken += bytes;
  return FINE;
}

// What lay on a device that is lost is given back as well, or the next test would find too little.
int give(unsigned long long address) {
  const int error = count_uncaptured("cuMemFree");
  memory_taken -= taken()[address];
  taken().erase(address);
  free((void *)address);
  return error;
}

int wait() {
  const int error = count_uncaptured("cuStreamSynchronize");
  tell();
  return error;
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
int cuDevicePrimaryCtxRelease_v2(int) {
  // A real device that was lost would need another process.
  lost = FINE;
  faults().clear();
  memory_max = (size_t)1 << 34;
  return FINE;
}
int cuCtxGetCurrent(void **context) { *context = (void *)1; return FINE; }
int cuCtxSetCurrent(void *) { return FINE; }
int cuCtxSynchronize() { return wait(); }
int cuStreamCreate(void **stream, unsigned) { *stream = (void *)2; return FINE; }
int cuStreamDestroy_v2(void *) { return FINE; }
int cuStreamSynchronize(void *) { return wait(); }
int cuMemAlloc_v2(unsigned long long *address, size_t bytes) { return take(address, bytes); }
int cuMemAllocAsync(unsigned long long *address, size_t bytes, void *) { return take(address, bytes); }
int cuMemFree_v2(unsigned long long address) { return give(address); }
int cuMemFreeAsync(unsigned long long address, void *) { return give(address); }
int cuMemGetInfo_v2(size_t *left, size_t *all) {
  hear();
  *all = memory_max;
  *left = memory_max - std::min(memory_taken, memory_max);
  return FINE;
}
int cuMemsetD8Async(unsigned long long to, unsigned char value, size_t bytes, void *) {
  if (const int error = count_uncaptured("cuMemset")) return error;
  memset((void *)to, value, bytes);
  return FINE;
}
int cuMemcpyHtoDAsync_v2(unsigned long long to, const void *from, size_t bytes, void *) {
  if (const int error = count_uncaptured("cuMemcpyHtoD")) return error;
  memcpy((void *)to, from, bytes);
  return FINE;
}
int cuMemcpyDtoHAsync_v2(void *to, unsigned long long from, size_t bytes, void *) {
  if (const int error = count_uncaptured("cuMemcpyDtoH")) return error;
  memcpy(to, (const void *)from, bytes);
  return FINE;
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
  Work work = named.second(arguments);
  return launch(named.first.c_str(), [=] { emulated::launch({gx, gy, gz}, {bx, 1, 1}, work, shared); });
}

// A graph and what is instantiated of it are one here, and go with the latter.
int cuStreamBeginCapture_v2(void *, int) {
  if (capturing) return INVALID_VALUE;
  capturing = new Graph;
  return count("cuStreamBeginCapture");
}
int cuStreamEndCapture(void *, void **graph) {
  if (!capturing) return INVALID_VALUE;
  *graph = std::exchange(capturing, nullptr);
  return static_cast<Graph *>(*graph)->broken ? CAPTURE_INVALIDATED : FINE;
}
int cuGraphInstantiateWithFlags(void **instance, void *graph, unsigned long long) {
  *instance = graph;
  return count("cuGraphInstantiate");
}
int cuGraphUpload(void *, void *) { return FINE; }
int cuGraphLaunch(void *instance, void *) {
  if (const int error = count_uncaptured("cuGraphLaunch")) return error;
  for (const Work &work : static_cast<Graph *>(instance)->launches) work();
  return FINE;
}
int cuGraphExecDestroy(void *instance) { delete static_cast<Graph *>(instance); return FINE; }
int cuGraphDestroy(void *) { return FINE; }
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
  const int TRANSPOSED = 1, AS_IT_IS = 0, F32 = 0, BF16 = 14;
  const int ALLOC_FAILED = 3, EXECUTION_FAILED = 13, UNSUPPORTED = 15;
  const bool known = a_op == TRANSPOSED && b_op == AS_IT_IS && a_type == BF16 && b_type == BF16 && c_type == F32;
  if (!known || *(const float *)alpha != 1.0f || *(const float *)beta != 0.0f) return UNSUPPORTED;
  const int error = launch("cublasGemmEx", [=] {
    for (int row = 0; row < n; row++)
      for (int column = 0; column < m; column++) {
        float sum = 0.0f;
        for (int i = 0; i < k; i++)
          sum += __bfloat162float(((const bf16 *)a)[(size_t)column * lda + i]) *
                 __bfloat162float(((const bf16 *)b)[(size_t)row * ldb + i]);
        ((float *)c)[(size_t)row * ldc + column] = sum;
      }
  });
  return error == OUT_OF_MEMORY ? ALLOC_FAILED : error ? EXECUTION_FAILED : FINE;
}

}  // extern "C"
