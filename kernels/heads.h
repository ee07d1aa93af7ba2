// Heads of queries, keys and values, a warp each: how a lane keeps its numbers, and turns them by their positions.
#pragma once
#include "rows.h"

// Four numbers of a head's first half that a lane keeps, and the four half a head on, which are turned with them.
struct Halves {
  float4 a, b;
};

static __device__ __forceinline__ Halves load_halves(const float *head, u32 half) {
  return {*reinterpret_cast<const float4 *>(head), *reinterpret_cast<const float4 *>(head + half)};
}

static __device__ __forceinline__ void store_halves(bf16 *head, u32 half, const Halves &of) {
  *reinterpret_cast<uint2 *>(head) = shortened(of.a);
  *reinterpret_cast<uint2 *>(head + half) = shortened(of.b);
}

// What a product comes to for one of all heads of a row, from a lane's first number on.
static __device__ __forceinline__ Halves result_of_head(const Product &of, u32 row, u32 heads, u32 head, u32 half, u32 first) {
  const u32 columns = heads * 2 * half, column = head * 2 * half + first;
  return {result(of, row, columns, column), result(of, row, columns, column + half)};
}

// Turns a lane's numbers by their angles, forwards (1) or back (-1).
static __device__ __forceinline__ Halves turned(const Halves &of, const float2 *angles, float way) {
  Halves out;
  const float *x = &of.a.x, *y = &of.b.x;
  float *to_x = &out.a.x, *to_y = &out.b.x;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const float cosine = angles[i].x, sine = way * angles[i].y;
    to_x[i] = x[i] * cosine - y[i] * sine;
    to_y[i] = y[i] * cosine + x[i] * sine;
  }
  return out;
}
