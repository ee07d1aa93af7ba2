// Heads of queries, keys and values, one warp per head: how a lane holds its numbers, and rotates them.
#pragma once
#include "rows.h"

// Four numbers of a head's first half that a lane holds, and their four partners half a head on (half-split RoPE).
struct Halves {
  float4 a, b;
};

static __device__ __forceinline__ Halves load_halves(const float *head, u32 half) {
  return {*reinterpret_cast<const float4 *>(head), *reinterpret_cast<const float4 *>(head + half)};
}

static __device__ __forceinline__ void store_halves(bf16 *head, u32 half, const Halves &of) {
  *reinterpret_cast<uint2 *>(head) = to_bf16s(of.a);
  *reinterpret_cast<uint2 *>(head + half) = to_bf16s(of.b);
}

// A lane's numbers of one head of a product, from its first number on.
static __device__ __forceinline__ Halves result_of_head(const Product &of, u32 row, u32 heads, u32 head, u32 half, u32 first) {
  const u32 columns = heads * 2 * half, column = head * 2 * half + first;
  return {result(of, row, columns, column), result(of, row, columns, column + half)};
}

// Rotates a lane's numbers by their angles, or back.
static __device__ __forceinline__ Halves rotated(const Halves &of, const float2 *angles, float direction) {
  Halves out;
  const float *x = &of.a.x, *y = &of.b.x;
  float *to_x = &out.a.x, *to_y = &out.b.x;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const float cosine = angles[i].x, sine = direction * angles[i].y;
    to_x[i] = x[i] * cosine - y[i] * sine;
    to_y[i] = y[i] * cosine + x[i] * sine;
  }
  return out;
}
