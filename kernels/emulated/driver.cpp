// A CUDA driver and a cuBLAS without a GPU: memory is the host's, kernels are emulated, and products are plain loops. The
// program loads these libraries instead of the real ones, so its whole GPU path can be tested anywhere.
//
// Calls are counted by name, and written to the file EMULATED_CALLS each time that the program waits for the device, so
// that a test sees what a pass costs. Allocated memory is filled with not-a-number, so reads of unwritten memory show.
// During a capture, calls that can't be captured are refused.
//
// The file EMULATED_FAULTS is read once and removed. `launch 3 719`: the third launch from now on fails with error 719,
// and so does every later call, as on a lost device, until its context is released. After error 2, out of memory, the
// device goes on. `memory 1000000 0`: the device has so many bytes.
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
size_t memory_max = (size_t)1 << 34, memory_used = 0;

void read_faults() {
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

// Counts a call, and returns its error.
int count(const char *name) {
  calls()[name]++;
  read_faults();
  if (lost) return lost;
  auto found = faults().find(name);
  if (found == faults().end() || --found->second.left > 0) return FINE;
  const int error = found->second.error;
  faults().erase(found);
  if (error != OUT_OF_MEMORY) lost = error;
  return error;
}

void write_calls() {
  const char *path = getenv("EMULATED_CALLS");
  FILE *file = path ? fopen(path, "w") : nullptr;
  if (!file) return;
  for (auto &call : calls()) fprintf(file, "%s %lu\n", call.first.c_str(), call.second);
  fclose(file);
}

typedef std::function<void()> Work;
// Binds a kernel to copies of its arguments.
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

// Captured launches.
struct Graph {
  std::vector<Work> launches;
  bool broken = false;
};

Graph *capturing = nullptr;

// Counts a call that can't be captured, and returns its error.
int count_uncaptured(const char *name) {
  if (!capturing) return count(name);
  capturing->broken = true;
  return NOT_WHILE_CAPTURING;
}

// Runs some work now, or when the current capture is replayed.
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
#define NAMED(KERNEL) {#KERNEL, callable(KERNEL)},
#define NAMED_OF_SHAPE(DIM, GROUP)                                                                          \
  NAMED(attend_rows_##DIM##_##GROUP) NAMED(attend_parts_##DIM##_##GROUP)                                    \
  NAMED(attend_rows_float8_##DIM##_##GROUP) NAMED(attend_parts_float8_##DIM##_##GROUP)
  static std::map<std::string, Function> all = {FOR_EACH_KERNEL(NAMED) FOR_EACH_HEAD_SHAPE(NAMED_OF_SHAPE)};
  return all;
}

// The bytes allocated at each address.
std::map<unsigned long long, size_t> &allocated() {
  static std::map<unsigned long long, size_t> all;
  return all;
}

int allocate(unsigned long long *address, size_t bytes) {
  if (const int error = count_uncaptured("cuMemAlloc")) return error;
  if (bytes > memory_max - std::min(memory_used, memory_max)) return OUT_OF_MEMORY;
  void *memory = malloc(bytes ? bytes : 1);
  memset(memory, 0xff, bytes);
  *address = (unsigned long long)memory;
  allocated()[*address] = bytes;
  memory_used += bytes;
  return FINE;
}

// Memory of a lost device is freed as well, or the next test would have too little.
int free_memory(unsigned long long address) {
  const int error = count_uncaptured("cuMemFree");
  memory_used -= allocated()[address];
  allocated().erase(address);
  free((void *)address);
  return error;
}

int wait() {
  const int error = count_uncaptured("cuStreamSynchronize");
  write_calls();
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
  // A real lost device would need another process.
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
int cuMemAlloc_v2(unsigned long long *address, size_t bytes) { return allocate(address, bytes); }
int cuMemAllocAsync(unsigned long long *address, size_t bytes, void *) { return allocate(address, bytes); }
int cuMemFree_v2(unsigned long long address) { return free_memory(address); }
int cuMemFreeAsync(unsigned long long address, void *) { return free_memory(address); }
int cuMemGetInfo_v2(size_t *left, size_t *all) {
  read_faults();
  *all = memory_max;
  *left = memory_max - std::min(memory_used, memory_max);
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
struct LaunchConfig {
  unsigned grid_x, grid_y, grid_z, block_x, block_y, block_z, shared;
};
int cuLaunchKernelEx(const LaunchConfig *config, void *function, void **arguments, void **) {
  auto &named = *static_cast<std::pair<const std::string, Function> *>(function);
  Work work = named.second(arguments);
  const LaunchConfig of = *config;
  return launch(named.first.c_str(), [=] {
    emulated::launch({of.grid_x, of.grid_y, of.grid_z}, {of.block_x, 1, 1}, work, of.shared);
  });
}

// A graph and its instance are one here, and are freed with the instance.
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

// A matrix stored by columns, and more of the same shape behind it.
struct Layout {
  int type;
  uint64_t rows, columns;
  int64_t leading;
  int32_t count = 1;
  int64_t apart = 0;
};

// Which sides of a product are transposed, its compute type, and the dtype of its factors.
struct Description {
  int left, right, compute, factors;
};

// An algorithm of cuBLAS: into how many parts it splits a sum.
struct Algorithm {
  uint64_t data[8];
};
struct Offer {
  Algorithm algorithm;
  size_t workspace;
  int state;
  float waves;
  int reserved[4];
};

int cublasLtCreate(void **handle) { *handle = (void *)4; return FINE; }
int cublasLtDestroy(void *) { return FINE; }
int cublasLtMatmulDescCreate(Description **what, int compute, int factors) { *what = new Description{0, 0, compute, factors}; return FINE; }
int cublasLtMatmulDescDestroy(Description *what) { delete what; return FINE; }
int cublasLtMatmulDescSetAttribute(Description *what, int attribute, const void *value, size_t bytes) {
  const int OF_THE_LEFT = 3, OF_THE_RIGHT = 4, UNSUPPORTED = 15;
  if ((attribute != OF_THE_LEFT && attribute != OF_THE_RIGHT) || bytes != sizeof(int)) return UNSUPPORTED;
  (attribute == OF_THE_LEFT ? what->left : what->right) = *static_cast<const int *>(value);
  return FINE;
}
int cublasLtMatrixLayoutCreate(void **layout, int type, uint64_t rows, uint64_t columns, int64_t leading) {
  *layout = new Layout{type, rows, columns, leading};
  return FINE;
}
int cublasLtMatrixLayoutSetAttribute(void *layout, int attribute, const void *value, size_t bytes) {
  const int COUNT = 5, APART = 6, UNSUPPORTED = 15;
  Layout &of = *static_cast<Layout *>(layout);
  if (attribute == COUNT && bytes == sizeof of.count) memcpy(&of.count, value, bytes);
  else if (attribute == APART && bytes == sizeof of.apart) memcpy(&of.apart, value, bytes);
  else return UNSUPPORTED;
  return FINE;
}
int cublasLtMatrixLayoutDestroy(void *layout) { delete static_cast<Layout *>(layout); return FINE; }
int cublasLtMatmulPreferenceCreate(void **preference) { *preference = (void *)5; return FINE; }
int cublasLtMatmulPreferenceDestroy(void *) { return FINE; }
int cublasLtMatmulPreferenceSetAttribute(void *, int, const void *, size_t) { return FINE; }
// Two algorithms are offered: one that doesn't split sums, and one that splits them in two and is configured not to.
int cublasLtMatmulAlgoGetHeuristic(void *, void *, void *, void *, void *, void *, void *, int, Offer *offers, int *count) {
  *count = 2;
  for (int i = 0; i < 2; i++) offers[i] = Offer{Algorithm{{(uint64_t)i + 1, 0, 0, 0, 0, 0, 0, (uint64_t)i}}, 0, FINE, 1.0f, {}};
  return FINE;
}
int cublasLtMatmulAlgoConfigSetAttribute(Algorithm *algorithm, int attribute, const void *value, size_t bytes) {
  const int PIECES = 2, INVALID = 7;
  if (bytes != sizeof(uint32_t)) return INVALID;
  if (attribute == PIECES) algorithm->data[0] = *static_cast<const uint32_t *>(value);
  return FINE;
}
int cublasLtMatmulAlgoCheck(void *, void *, void *, void *, void *, void *, const Algorithm *, Offer *said) {
  said->workspace = 0;
  return FINE;
}

// D = alpha op(A) op(B) + beta C, in columns: bf16 or E4M3 into f32 or bf16, or integers of 8 bits into those of 32.
int cublasLtMatmul(void *, const Description *what, const void *alpha, const void *a, const Layout *of_a, const void *b,
                   const Layout *of_b, const void *beta, const void *c, const Layout *of_c, void *d, const Layout *of_d,
                   const Algorithm *algorithm, void *, size_t, void *) {
  const int F32 = 0, I8 = 3, I32 = 10, HALF = 14, E4M3 = 28, ADDS_F32 = 68, ADDS_I32 = 72;
  const int ALLOC_FAILED = 3, INVALID = 7, EXECUTION_FAILED = 13, UNSUPPORTED = 15;
  const Description of = *what;
  const Layout left = *of_a, right = *of_b, out = *of_d, old = *of_c;
  const size_t m = out.rows, n = out.columns, k = of.left ? left.rows : left.columns;
  const bool integers = left.type == I8;
  const bool compute = of.compute == (integers ? ADDS_I32 : ADDS_F32) && of.factors == (integers ? I32 : F32);
  const bool known = compute && left.type == right.type && old.type == out.type &&
                     (integers ? out.type == I32 : (left.type == HALF || left.type == E4M3) && (out.type == F32 || out.type == HALF));
  if (!known) return UNSUPPORTED;
  const float factor = integers ? (float)*(const int *)alpha : *(const float *)alpha;
  const float kept = integers ? (float)*(const int *)beta : *(const float *)beta;
  if (integers && (factor != 1.0f || kept != 0.0f)) return UNSUPPORTED;
  const auto is = [](const Layout &of, size_t rows, size_t columns, bool transposed) {
    return of.rows == (transposed ? columns : rows) && of.columns == (transposed ? rows : columns) && of.leading >= (int64_t)of.rows;
  };
  const bool alike = left.count == out.count && right.count == out.count && old.count == out.count;
  if (!is(left, m, k, of.left) || !is(right, k, n, of.right) || !is(old, m, n, false) || !is(out, m, n, false) || !alike)
    return INVALID;
  // 8-bit operands must have rows of whole groups.
  const size_t among = left.type == E4M3 ? 16 : integers ? 4 : 1;
  if (k % among || m % among || (left.type != HALF && (!of.left || of.right))) return UNSUPPORTED;
  const size_t pieces = algorithm ? algorithm->data[0] : 1;
  const int error = launch("cublasLtMatmul", [=] {
    // Sixteen products at a time, as a tensor core compute them.
    const size_t AT_ONCE = 16;
    const auto number_of = [&](const void *of, size_t at) -> float {
      if (integers) return ((const int8_t *)of)[at];
      return left.type == HALF ? __bfloat162float(((const bf16 *)of)[at]) : from_float8(((const uint8_t *)of)[at]);
    };
    std::vector<float> ones(k), others(k * m);
    for (int32_t nth = 0; nth < out.count; nth++) {
      for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < k; j++)
          others[i * k + j] = number_of(a, nth * left.apart + (of.left ? i * left.leading + j : j * left.leading + i));
      for (size_t row = 0; row < n; row++) {
        for (size_t j = 0; j < k; j++)
          ones[j] = number_of(b, nth * right.apart + (of.right ? j * right.leading + row : row * right.leading + j));
        for (size_t column = 0; column < m; column++) {
          const size_t at = nth * out.apart + row * out.leading + column;
          if (integers) {
            int sum = 0;
            for (size_t j = 0; j < k; j++) sum += (int)others[column * k + j] * (int)ones[j];
            ((int *)d)[at] = sum;
            continue;
          }
          float sum = 0.0f;
          for (size_t piece = 0; piece < pieces; piece++) {
            float part = 0.0f;
            for (size_t from = k * piece / pieces; from < k * (piece + 1) / pieces; from += AT_ONCE) {
              double more = part;
              for (size_t j = from; j < std::min(from + AT_ONCE, k * (piece + 1) / pieces); j++)
                more += (double)others[column * k + j] * ones[j];
              part = (float)more;
            }
            sum += part;
          }
          sum *= factor;
          if (kept != 0.0f) {
            const size_t before = nth * old.apart + row * old.leading + column;
            sum += kept * (out.type == F32 ? ((const float *)c)[before] : __bfloat162float(((const bf16 *)c)[before]));
          }
          if (out.type == F32) ((float *)d)[at] = sum;
          else ((bf16 *)d)[at] = __float2bfloat16(sum);
        }
      }
    }
  });
  return error == OUT_OF_MEMORY ? ALLOC_FAILED : error ? EXECUTION_FAILED : FINE;
}

}  // extern "C"
