// Enough of CUDA C++ to run kernels on a CPU: a fiber for each thread of a block, and one block after another. It checks
// what a kernel computes, and where it reads and writes. It shows neither speed nor races.
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <limits>
#include <vector>

#define INFINITE std::numeric_limits<float>::infinity()
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
// Blocks run one after another, so shared memory can be static.
#define __shared__ static
#define __expf expf
#define DYNAMIC_SHARED(NAME) float *NAME = emulated::dynamic_shared()

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};
struct uint2 {
  unsigned x, y;
};
struct alignas(8) float2 {
  float x, y;
};
struct uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct __nv_bfloat16 {
  uint16_t bits;
};

static dim3 threadIdx, blockIdx, blockDim, gridDim;

static inline float __bfloat162float(__nv_bfloat16 half) {
  const uint32_t bits = (uint32_t)half.bits << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// Rounds to the nearest, ties to even. Not-a-number stays not-a-number.
static inline __nv_bfloat16 __float2bfloat16(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  if (value != value) return {0x7fff};
  return {(uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

// Rounds to the nearest, ties to even. Not-a-number becomes zero.
static inline int __float2int_rn(float value) { return value == value ? (int)lrintf(value) : 0; }

// The same bits as another type.
template <class To, class From>
static inline To bits_as(From value) {
  To to;
  memcpy(&to, &value, sizeof to);
  return to;
}

static inline int __float_as_int(float value) { return bits_as<int>(value); }
static inline float __uint_as_float(uint32_t bits) { return bits_as<float>(bits); }
static inline uint32_t __float_as_uint(float value) { return bits_as<uint32_t>(value); }
static inline float rsqrtf(float value) { return 1.0f / sqrtf(value); }
static inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
static inline unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }
static inline int min(int a, int b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a > b ? a : b; }
static inline int __ffs(unsigned bits) { return __builtin_ffs((int)bits); }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }

namespace emulated {

const int WARP = 32;
const size_t STACK = 256 << 10;

// A barrier of threads.
struct Barrier {
  int wanted = 0, here = 0, turn = 0;
};

// What one thread passes to the others of its warp.
union Passed {
  unsigned word;
  float number;
  const void *address;
  // Fragments of the left and the right matrix of a product.
  struct {
    float left[8], right[4];
  } fragment;
};

// A pending copy of up to 16 bytes. The rest of the 16 bytes become zeros.
struct Copy {
  void *to;
  const void *from;
  size_t bytes;
};

// A fiber is started once, and then resumed by a jump: `swapcontext` needs a system call each time.
struct Thread {
  ucontext_t beginning;
  jmp_buf place;
  std::vector<char> stack;
  bool started = false, done = false;
  // Copies that it started: its groups, and those in no group yet.
  std::deque<std::vector<Copy>> groups;
  std::vector<Copy> started_copies;
};

static jmp_buf scheduler;
static std::deque<Thread> threads;
static std::vector<Barrier> warps;
static Barrier block;
static int current;
static Passed passed[32][2][WARP];
static std::function<void()> kernel;
// Dynamic shared memory of a block. It is not-a-number when a block begins, and the guard behind it must stay.
static std::vector<float4> shared;
static const float4 GUARD = {7.0f, 7.5f, 8.0f, 8.5f};

static inline float *dynamic_shared() { return &shared.data()->x; }

static inline void restore_thread() {
  threadIdx.x = (unsigned)current;
}

static inline void yield_fiber() {
  if (!_setjmp(threads[current].place)) _longjmp(scheduler, 1);
}

static inline void wait(Barrier &barrier) {
  const int turn = barrier.turn;
  if (++barrier.here == barrier.wanted) {
    barrier.here = 0;
    barrier.turn++;
  }
  while (barrier.turn == turn) yield_fiber();
  restore_thread();
}

// The loop of a fiber: a thread of one block after another.
static void run_threads() {
  for (;;) {
    kernel();
    threads[current].done = true;
    // Barriers don't wait for threads that have returned.
    for (Barrier *barrier : {&block, &warps[current / WARP]}) {
      barrier->wanted--;
      if (barrier->wanted > 0 && barrier->here == barrier->wanted) {
        barrier->here = 0;
        barrier->turn++;
      }
    }
    yield_fiber();
  }
}

static void resume(Thread &thread) {
  if (_setjmp(scheduler)) return;
  if (thread.started) _longjmp(thread.place, 1);
  thread.started = true;
  setcontext(&thread.beginning);
}

static void run_block() {
  const int count = (int)blockDim.x;
  const float not_a_number = std::numeric_limits<float>::quiet_NaN();
  std::fill(shared.begin(), shared.end() - 1, float4{not_a_number, not_a_number, not_a_number, not_a_number});
  shared.back() = GUARD;
  block = Barrier{count, 0, 0};
  warps.assign((count + WARP - 1) / WARP, Barrier{});
  for (int i = 0; i < count; i++) {
    warps[i / WARP].wanted++;
    threads[i].done = false;
    threads[i].groups.clear();
    threads[i].started_copies.clear();
  }
  for (bool left = true; left;) {
    left = false;
    for (current = 0; current < count; current++) {
      if (threads[current].done) continue;
      left = true;
      restore_thread();
      resume(threads[current]);
    }
  }
  if (memcmp(&shared.back(), &GUARD, sizeof GUARD) != 0) {
    fprintf(stderr, "a kernel writes behind its %zu bytes of shared memory\n", (shared.size() - 1) * sizeof GUARD);
    abort();
  }
}

static void launch(dim3 grid, dim3 threads_of_block, std::function<void()> what, size_t shared_bytes = 0) {
  shared.resize((shared_bytes + sizeof(float4) - 1) / sizeof(float4) + 1);
  gridDim = grid;
  blockDim = threads_of_block;
  kernel = what;
  while (threads.size() < blockDim.x) {
    Thread &thread = threads.emplace_back();
    thread.stack.resize(STACK);
    getcontext(&thread.beginning);
    thread.beginning.uc_stack.ss_sp = thread.stack.data();
    thread.beginning.uc_stack.ss_size = thread.stack.size();
    thread.beginning.uc_link = nullptr;
    makecontext(&thread.beginning, run_threads, 0);
  }
  for (blockIdx.z = 0; blockIdx.z < grid.z; blockIdx.z++)
    for (blockIdx.y = 0; blockIdx.y < grid.y; blockIdx.y++)
      for (blockIdx.x = 0; blockIdx.x < grid.x; blockIdx.x++) run_block();
}

}  // namespace emulated

static inline void __syncthreads() { emulated::wait(emulated::block); }

static inline void __syncwarp() { emulated::wait(emulated::warps[emulated::current / emulated::WARP]); }

namespace emulated {

// Passes a value to the warp, and returns those of all its threads. Two sets of values alternate: no thread reaches the
// next but one before all have read this one.
template <class Fill>
static inline const Passed *pass_around(Fill fill) {
  Barrier &warp = warps[current / WARP];
  Passed *all = passed[current / WARP][warp.turn % 2];
  fill(all[current % WARP]);
  wait(warp);
  return all;
}

static inline unsigned word(const Passed &of, unsigned) { return of.word; }
static inline float word(const Passed &of, float) { return of.number; }
static inline void pass_value(Passed &to, unsigned value) { to.word = value; }
static inline void pass_value(Passed &to, float value) { to.number = value; }

static inline float half(unsigned pair, int which) { return __bfloat162float({(uint16_t)(pair >> 16 * which)}); }

static inline const void *aligned(const void *address) {
  if ((uintptr_t)address % 16) {
    fprintf(stderr, "a kernel loads or copies 16 bytes from an unaligned address\n");
    abort();
  }
  return address;
}

}  // namespace emulated

template <class T>
static inline T __shfl_xor_sync(unsigned, T value, int far) {
  const int lane = emulated::current % emulated::WARP;
  return emulated::word(emulated::pass_around([&](emulated::Passed &to) { emulated::pass_value(to, value); })[lane ^ far], value);
}

template <class T>
static inline T __shfl_sync(unsigned, T value, int lane) {
  return emulated::word(emulated::pass_around([&](emulated::Passed &to) { emulated::pass_value(to, value); })[lane], value);
}

static inline unsigned __ballot_sync(unsigned, bool is) {
  const emulated::Passed *all = emulated::pass_around([&](emulated::Passed &to) { to.word = is; });
  unsigned those = 0;
  for (int lane = 0; lane < emulated::WARP; lane++) those |= all[lane].word << lane;
  return those;
}

// --- the warp-wide operations, which `tensor.h` documents ---

static inline void multiply_add(float (&sums)[4], const unsigned (&left)[4], unsigned right, unsigned right_below) {
  const emulated::Passed *all = emulated::pass_around([&](emulated::Passed &to) {
    for (int i = 0; i < 8; i++) to.fragment.left[i] = emulated::half(left[i / 2], i % 2);
    for (int i = 0; i < 4; i++) to.fragment.right[i] = emulated::half(i < 2 ? right : right_below, i % 2);
  });
  const int lane = emulated::current % emulated::WARP;
  for (int i = 0; i < 4; i++) {
    const int lower = i / 2, column = lane % 4 * 2 + i % 2;
    double sum = sums[i];
    for (int k = 0; k < 16; k++) {
      const int of_pair = k % 8 / 2, behind = k / 8, which = k % 2;
      const float a = all[lane / 4 * 4 + of_pair].fragment.left[(behind * 2 + lower) * 2 + which];
      sum += (double)a * all[column * 4 + of_pair].fragment.right[behind * 2 + which];
    }
    sums[i] = (float)sum;
  }
}

static inline void load_matrices(unsigned (&to)[4], const void *row) {
  const emulated::Passed *all = emulated::pass_around([&](emulated::Passed &to) { to.address = emulated::aligned(row); });
  const int lane = emulated::current % emulated::WARP;
  for (int matrix = 0; matrix < 4; matrix++)
    memcpy(&to[matrix], (const char *)all[matrix * 8 + lane / 4].address + lane % 4 * 4, 4);
}

static inline void load_matrices_transposed(unsigned (&to)[4], const void *row) {
  const emulated::Passed *all = emulated::pass_around([&](emulated::Passed &to) { to.address = emulated::aligned(row); });
  const int lane = emulated::current % emulated::WARP;
  for (int matrix = 0; matrix < 4; matrix++)
    for (int i = 0; i < 2; i++)
      memcpy((char *)&to[matrix] + 2 * i, (const char *)all[matrix * 8 + lane % 4 * 2 + i].address + lane / 4 * 2, 2);
}

// The target is not-a-number until the copy is awaited. So a missing wait shows, and so does a copy to memory that is
// still read.
static inline void start_copy_of(void *to, const void *from, unsigned bytes) {
  memset((void *)emulated::aligned(to), 0xff, 16);
  emulated::threads[emulated::current].started_copies.push_back({to, bytes ? emulated::aligned(from) : nullptr, bytes});
}

static inline void start_copy(void *to, const void *from, bool copies) { start_copy_of(to, from, copies ? 16 : 0); }

static inline void commit_copies() {
  emulated::Thread &thread = emulated::threads[emulated::current];
  thread.groups.push_back(std::move(thread.started_copies));
  thread.started_copies.clear();
}

template <int GROUPS>
static inline void await_copies() {
  auto &groups = emulated::threads[emulated::current].groups;
  for (; groups.size() > GROUPS; groups.pop_front())
    for (const emulated::Copy &copy : groups.front()) {
      memset(copy.to, 0, 16);
      if (copy.bytes) memcpy(copy.to, copy.from, copy.bytes);
    }
}

static inline float power_of_two(float value) { return exp2f(value); }

static inline unsigned pair_of(float first, float second) {
  return __float2bfloat16(first).bits | (unsigned)__float2bfloat16(second).bits << 16;
}

static inline unsigned load_pair(const __nv_bfloat16 *from) {
  unsigned pair;
  memcpy(&pair, from, 4);
  return pair;
}

static inline void store_pair(__nv_bfloat16 *to, unsigned pair) { memcpy(to, &pair, 4); }
