// Warp-wide operations: products of small matrices, loads of their fragments, and asynchronous copies.
// Fragments are in registers as `mma.sync.m16n8k16` wants them: `lane / 4` is a row of the left matrix and of the sums (and
// so is that plus 8), and a column of the right matrix. `lane % 4` is a pair of neighbours along the other side (and, along
// sixteen, so is the pair 8 further on).
#pragma once

#include "warp.h"

#ifndef EMULATED

// sums (16, 8) += left (16, 16) right (16, 8), of bf16. A sum's bits don't depend on its index in the fragment.
static __device__ __forceinline__ void multiply_add(float (&sums)[4], const u32 (&left)[4], u32 right, u32 right_below) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right), "r"(right_below));
}

// Four 8 by 8 matrices of bf16 from shared memory. Lanes 8 m to 8 m + 7 give the addresses of the m-th matrix's rows.
static __device__ __forceinline__ void load_matrices(u32 (&to)[4], const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"((u32)__cvta_generic_to_shared(row))
               : "memory");
}

// The same, transposed.
static __device__ __forceinline__ void load_matrices_transposed(u32 (&to)[4], const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"((u32)__cvta_generic_to_shared(row))
               : "memory");
}

// Starts an asynchronous copy of up to 16 bytes to shared memory. The rest of the 16 bytes become zeros.
static __device__ __forceinline__ void start_copy_of(void *to, const void *from, u32 bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"((u32)__cvta_generic_to_shared(to)), "l"(from), "r"(bytes)
               : "memory");
}

// The same of 16 bytes, or of none.
static __device__ __forceinline__ void start_copy(void *to, const void *from, bool something) {
  start_copy_of(to, from, something ? 16 : 0);
}

// Makes a group of the copies that this thread has started since its last group.
static __device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until only the last GROUPS groups of this thread are pending. Copies of other threads need their own wait.
template <int GROUPS>
static __device__ __forceinline__ void await_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(GROUPS) : "memory");
}

// Two to the power of a number, to about 22 bits. Subnormal results are zero.
static __device__ __forceinline__ float power_of_two(float value) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(value));
  return power;
}

// Two bf16 in a register, the first in its lower half.
static __device__ __forceinline__ u32 pair_of(float first, float second) {
  u32 pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
  return pair;
}

static __device__ __forceinline__ u32 load_pair(const __nv_bfloat16 *from) { return *reinterpret_cast<const u32 *>(from); }

static __device__ __forceinline__ void store_pair(__nv_bfloat16 *to, u32 pair) { *reinterpret_cast<u32 *>(to) = pair; }

#endif

// Four E4M3 numbers, times a factor, as pairs of bf16.
static __device__ __forceinline__ uint2 pairs_of_float8s(u32 four, float factor) {
  const float2 first = from_float8s(four & 0xffff), second = from_float8s(four >> 16);
  uint2 pairs;
  pairs.x = pair_of(__fmul_rn(first.x, factor), __fmul_rn(first.y, factor));
  pairs.y = pair_of(__fmul_rn(second.x, factor), __fmul_rn(second.y, factor));
  return pairs;
}
