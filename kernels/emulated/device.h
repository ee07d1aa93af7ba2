// Enough of CUDA C++ to run kernels on a processor: a fiber for each thread of a block, and one block
// after another. It shows what a kernel computes, and where it reads and writes; not how fast it is, and not
// what becomes of threads that race.
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
// Blocks run one after another, so what a block shares can be what the program shares.
#define __shared__ static
#define __expf expf
#define ROOM(NAME) float *NAME = emulated::room()

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

// To the nearest, ties to even; not-a-number stays that.
static inline __nv_bfloat16 __float2bfloat16(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  if (value != value) return {0x7fff};
  return {(uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

// To the nearest, ties to even; not-a-number to zero.
static inline int __float2int_rn(float value) { return value == value ? (int)lrintf(value) : 0; }

// The same bits, as something else.
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

// Where threads wait for each other.
struct Meeting {
  int wanted = 0, here = 0, turn = 0;
};

// What one thread hands to the others of its warp.
union Handed {
  unsigned word;
  float number;
  const void *address;
  // Of a product: the left matrix and the right one, each number by itself.
  struct {
    float left[8], right[4];
  } fragment;
};

// Up to 16 bytes that are being copied; zeros make up what is missing.
struct Copy {
  void *to;
  const void *from;
  size_t bytes;
};

// A fiber is begun once, and then jumped to: changing over by `swapcontext` asks the system each time.
struct Thread {
  ucontext_t beginning;
  jmp_buf place;
  std::vector<char> stack;
  bool begun = false, done = false;
  // Copies that it began: groups of them, and those that are in none so far.
  std::deque<std::vector<Copy>> groups;
  std::vector<Copy> begun_copies;
};

static jmp_buf scheduler;
static std::deque<Thread> threads;
static std::vector<Meeting> warps;
static Meeting block;
static int current;
static Handed handed[32][2][WARP];
static std::function<void()> kernel;
// What a block may share beside what its kernel names. Nobody has written to it when a block begins, and nobody may
// write behind it.
static std::vector<float4> shared;
static const float4 BEHIND = {7.0f, 7.5f, 8.0f, 8.5f};

static inline float *room() { return &shared.data()->x; }

static inline void come_back() {
  threadIdx.x = (unsigned)current;
}

static inline void give_way() {
  if (!_setjmp(threads[current].place)) _longjmp(scheduler, 1);
}

static inline void wait(Meeting &meeting) {
  const int turn = meeting.turn;
  if (++meeting.here == meeting.wanted) {
    meeting.here = 0;
    meeting.turn++;
  }
  while (meeting.turn == turn) give_way();
  come_back();
}

// A thread of one block after another.
static void live() {
  for (;;) {
    kernel();
    threads[current].done = true;
    // Those who left are not waited for.
    for (Meeting *meeting : {&block, &warps[current / WARP]}) {
      meeting->wanted--;
      if (meeting->wanted > 0 && meeting->here == meeting->wanted) {
        meeting->here = 0;
        meeting->turn++;
      }
    }
    give_way();
  }
}

static void go_on(Thread &thread) {
  if (_setjmp(scheduler)) return;
  if (thread.begun) _longjmp(thread.place, 1);
  thread.begun = true;
  setcontext(&thread.beginning);
}

static void run_block() {
  const int count = (int)blockDim.x;
  const float nothing = std::numeric_limits<float>::quiet_NaN();
  std::fill(shared.begin(), shared.end() - 1, float4{nothing, nothing, nothing, nothing});
  shared.back() = BEHIND;
  block = Meeting{count, 0, 0};
  warps.assign((count + WARP - 1) / WARP, Meeting{});
  for (int i = 0; i < count; i++) {
    warps[i / WARP].wanted++;
    threads[i].done = false;
    threads[i].groups.clear();
    threads[i].begun_copies.clear();
  }
  for (bool left = true; left;) {
    left = false;
    for (current = 0; current < count; current++) {
      if (threads[current].done) continue;
      left = true;
      come_back();
      go_on(threads[current]);
    }
  }
  if (memcmp(&shared.back(), &BEHIND, sizeof BEHIND) != 0) {
    fprintf(stderr, "a kernel writes behind the %zu bytes that it shares\n", (shared.size() - 1) * sizeof BEHIND);
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
    makecontext(&thread.beginning, live, 0);
  }
  for (blockIdx.z = 0; blockIdx.z < grid.z; blockIdx.z++)
    for (blockIdx.y = 0; blockIdx.y < grid.y; blockIdx.y++)
      for (blockIdx.x = 0; blockIdx.x < grid.x; blockIdx.x++) run_block();
}

}  // namespace emulated

static inline void __syncthreads() { emulated::wait(emulated::block); }

static inline void __syncwarp() { emulated::wait(emulated::warps[emulated::current / emulated::WARP]); }

namespace emulated {

// Hands something to the warp, and says what all of its threads handed. Two meetings take turns at the places: nobody
// comes to the next but one before everybody has left this one.
template <class Fill>
static inline const Handed *meet(Fill fill) {
  Meeting &warp = warps[current / WARP];
  Handed *all = handed[current / WARP][warp.turn % 2];
  fill(all[current % WARP]);
  wait(warp);
  return all;
}

static inline unsigned word(const Handed &of, unsigned) { return of.word; }
static inline float word(const Handed &of, float) { return of.number; }
static inline void hand(Handed &to, unsigned value) { to.word = value; }
static inline void hand(Handed &to, float value) { to.number = value; }

static inline float half(unsigned pair, int which) { return __bfloat162float({(uint16_t)(pair >> 16 * which)}); }

static inline const void *aligned(const void *address) {
  if ((uintptr_t)address % 16) {
    fprintf(stderr, "a kernel loads or copies 16 bytes from where none begin\n");
    abort();
  }
  return address;
}

}  // namespace emulated

template <class T>
static inline T __shfl_xor_sync(unsigned, T value, int far) {
  const int lane = emulated::current % emulated::WARP;
  return emulated::word(emulated::meet([&](emulated::Handed &to) { emulated::hand(to, value); })[lane ^ far], value);
}

template <class T>
static inline T __shfl_sync(unsigned, T value, int lane) {
  return emulated::word(emulated::meet([&](emulated::Handed &to) { emulated::hand(to, value); })[lane], value);
}

static inline unsigned __ballot_sync(unsigned, bool is) {
  const emulated::Handed *all = emulated::meet([&](emulated::Handed &to) { to.word = is; });
  unsigned those = 0;
  for (int lane = 0; lane < emulated::WARP; lane++) those |= all[lane].word << lane;
  return those;
}

// --- what `tensor.h` has of its own: there it says what each does ---

static inline void multiply_add(float (&sums)[4], const unsigned (&left)[4], unsigned right, unsigned right_below) {
  const emulated::Handed *all = emulated::meet([&](emulated::Handed &to) {
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
  const emulated::Handed *all = emulated::meet([&](emulated::Handed &to) { to.address = emulated::aligned(row); });
  const int lane = emulated::current % emulated::WARP;
  for (int matrix = 0; matrix < 4; matrix++)
    memcpy(&to[matrix], (const char *)all[matrix * 8 + lane / 4].address + lane % 4 * 4, 4);
}

static inline void load_matrices_turned(unsigned (&to)[4], const void *row) {
  const emulated::Handed *all = emulated::meet([&](emulated::Handed &to) { to.address = emulated::aligned(row); });
  const int lane = emulated::current % emulated::WARP;
  for (int matrix = 0; matrix < 4; matrix++)
    for (int i = 0; i < 2; i++)
      memcpy((char *)&to[matrix] + 2 * i, (const char *)all[matrix * 8 + lane % 4 * 2 + i].address + lane / 4 * 2, 2);
}

// What is copied is not-a-number until somebody has waited for it, so who doesn't wait shows, and so does who copies to
// what is still being read.
static inline void begin_copy_of(void *to, const void *from, unsigned bytes) {
  memset((void *)emulated::aligned(to), 0xff, 16);
  emulated::threads[emulated::current].begun_copies.push_back({to, bytes ? emulated::aligned(from) : nullptr, bytes});
}

static inline void begin_copy(void *to, const void *from, bool something) { begin_copy_of(to, from, something ? 16 : 0); }

static inline void close_copies() {
  emulated::Thread &thread = emulated::threads[emulated::current];
  thread.groups.push_back(std::move(thread.begun_copies));
  thread.begun_copies.clear();
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
