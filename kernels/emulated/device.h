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

static inline float rsqrtf(float value) { return 1.0f / sqrtf(value); }
static inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
static inline unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }

namespace emulated {

const int WARP = 32;
const size_t STACK = 256 << 10;

// Where threads wait for each other.
struct Meeting {
  int wanted = 0, here = 0, turn = 0;
};

// A fiber is begun once, and then jumped to: changing over by `swapcontext` asks the system each time.
struct Thread {
  ucontext_t beginning;
  jmp_buf place;
  std::vector<char> stack;
  bool begun = false, done = false;
};

static jmp_buf scheduler;
static std::deque<Thread> threads;
static std::vector<Meeting> warps;
static Meeting block;
static int current;
static float passed[32][WARP];
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

static inline float __shfl_xor_sync(unsigned, float value, int far) {
  const int warp = emulated::current / emulated::WARP, lane = emulated::current % emulated::WARP;
  emulated::passed[warp][lane] = value;
  emulated::wait(emulated::warps[warp]);
  const float other = emulated::passed[warp][lane ^ far];
  emulated::wait(emulated::warps[warp]);
  return other;
}
