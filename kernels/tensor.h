// What a warp does as one: products of small matrices, loads of what they take, and copies that go on while it works.
// Fragments lie in registers as `mma.sync.m16n8k16` wants them: of a lane, `lane / 4` is a row of the left matrix and of
// the sums (and that plus 8 another one), and a column of the right matrix; `lane % 4` is a pair of neighbours along
// the other side (and, along sixteen, the pair 8 further).
#pragma once

#include "warp.h"

typedef __nv_bfloat16 bf16;

#ifndef EMULATED

// sums (16, 8) += left (16, 16) right (16, 8), of bf16. Each sum is the same wherever it stands in the fragment.
static __device__ __forceinline__ void multiply_add(float (&sums)[4], const u32 (&left)[4], u32 right, u32 right_below) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right), "r"(right_below));
}

// Four matrices of 8 by 8 bf16 from what the block shares. The m-th has its rows where lanes 8 m to 8 m + 7 say.
static __device__ __forceinline__ void load_matrices(u32 (&to)[4], const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"((u32)__cvta_generic_to_shared(row))
               : "memory");
}

// The same, with rows for columns.
static __device__ __forceinline__ void load_matrices_turned(u32 (&to)[4], const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"((u32)__cvta_generic_to_shared(row))
               : "memory");
}

// Begins to copy up to 16 bytes to what the block shares; zeros make up what is missing of 16.
static __device__ __forceinline__ void begin_copy_of(void *to, const void *from, u32 bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"((u32)__cvta_generic_to_shared(to)), "l"(from), "r"(bytes)
               : "memory");
}

// The same of all 16, or, if there is nothing to copy, of none.
static __device__ __forceinline__ void begin_copy(void *to, const void *from, bool something) {
  begin_copy_of(to, from, something ? 16 : 0);
}

// Makes one group of the copies that this thread began since the last group.
static __device__ __forceinline__ void close_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until only the last groups of this thread are still being copied. What others copied is there once they have
// waited, too.
template <int GROUPS>
static __device__ __forceinline__ void await_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(GROUPS) : "memory");
}

// Two to the power of a number, to about 22 bits; what is too small for a normal number is zero.
static __device__ __forceinline__ float power_of_two(float value) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(value));
  return power;
}

// Two bf16 in a register, the first of them in its lower half.
static __device__ __forceinline__ u32 pair_of(float first, float second) {
  u32 pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
  return pair;
}

static __device__ __forceinline__ u32 load_pair(const __nv_bfloat16 *from) { return *reinterpret_cast<const u32 *>(from); }

static __device__ __forceinline__ void store_pair(__nv_bfloat16 *to, u32 pair) { *reinterpret_cast<u32 *>(to) = pair; }

#endif

// Four numbers of 8 bits, times a factor, as pairs of bf16.
static __device__ __forceinline__ uint2 pairs_of_float8s(u32 four, float factor) {
  const float2 first = from_float8s(four & 0xffff), second = from_float8s(four >> 16);
  uint2 pairs;
  pairs.x = pair_of(__fmul_rn(first.x, factor), __fmul_rn(first.y, factor));
  pairs.y = pair_of(__fmul_rn(second.x, factor), __fmul_rn(second.y, factor));
  return pairs;
}
