// Kernels over rows: reading a product, reductions over a block, and a row in a block's registers.
#pragma once
#include "tensor.h"

// The sum over a block of up to 1,024 threads. Every thread gets it.
static __device__ float block_sum(float value) {
  __shared__ float sums[WARP];
  value = warp_sum(value);
  __syncthreads();
  if (threadIdx.x % WARP == 0) sums[threadIdx.x / WARP] = value;
  __syncthreads();
  float sum = 0.0f;
  for (u32 warp = 0; warp < (blockDim.x + WARP - 1) / WARP; warp++) sum += sums[warp];
  return sum;
}

// The maximum over a block. Every thread gets it.
static __device__ float block_max(float value) {
  __shared__ float tops[WARP];
  for (int far = WARP / 2; far > 0; far /= 2) value = fmaxf(value, __shfl_xor_sync(EVERYONE, value, far));
  __syncthreads();
  if (threadIdx.x % WARP == 0) tops[threadIdx.x / WARP] = value;
  __syncthreads();
  float top = tops[0];
  for (u32 warp = 1; warp < (blockDim.x + WARP - 1) / WARP; warp++) top = fmaxf(top, tops[warp]);
  return top;
}

static __device__ float4 scaled(const float4 &four, float factor, const float4 &scale) {
  return float4{four.x * factor * scale.x, four.y * factor * scale.y, four.z * factor * scale.z, four.w * factor * scale.w};
}

// Four neighbouring numbers of a product, scaled and with its bias. A table that does not exist is null.
static __device__ float4 result(const Product &of, u32 row, u32 columns, u32 column) {
  float4 value = *reinterpret_cast<const float4 *>(of.sums + (size_t)row * columns + column);
  if (of.integers) {
    value.x = (float)__float_as_int(value.x);
    value.y = (float)__float_as_int(value.y);
    value.z = (float)__float_as_int(value.z);
    value.w = (float)__float_as_int(value.w);
  }
  if (of.column_scales) {
    const float scale = of.row_scales[row];
    const float4 scales = *reinterpret_cast<const float4 *>(of.column_scales + column);
    value.x *= scale * scales.x;
    value.y *= scale * scales.y;
    value.z *= scale * scales.z;
    value.w *= scale * scales.w;
  }
  if (of.bias) {
    const float4 bias = *reinterpret_cast<const float4 *>(of.bias + column);
    value.x += bias.x;
    value.y += bias.y;
    value.z += bias.z;
    value.w += bias.w;
  }
  return value;
}

// A block keeps its row in registers: NARROW or WIDE groups of four numbers per thread. This is where a thread's `nth`
// group begins.
static __device__ u32 group_at(u32 nth) { return (nth * blockDim.x + threadIdx.x) * 4; }

// The nearest 8-bit number. Not-a-number becomes 0 among integers.
static __device__ u32 byte_of(float value, WeightDtype dtype) {
  return dtype == INT8 ? (u32)__float2int_rn(value) & 0xff : to_float8(value);
}

// Four numbers as bf16; as 8-bit numbers after a factor; and their greatest magnitude.
static __device__ __forceinline__ uint2 to_bf16s(const float4 &four) {
  return {pair_of(four.x, four.y), pair_of(four.z, four.w)};
}

static __device__ __forceinline__ u32 bytes_of(const float4 &four, float factor, WeightDtype dtype) {
  return byte_of(four.x * factor, dtype) | byte_of(four.y * factor, dtype) << 8 |
         byte_of(four.z * factor, dtype) << 16 | byte_of(four.w * factor, dtype) << 24;
}

static __device__ __forceinline__ float greatest_of(const float4 &four) {
  return fmaxf(fmaxf(fabsf(four.x), fabsf(four.y)), fmaxf(fabsf(four.z), fabsf(four.w)));
}

// Writes the row in a block's registers: as bf16, or in 8 bits with a scale that maps its greatest number to the greatest
// 8-bit number.
template <u32 TIMES>
static __device__ void write_row(void *rows, float *scales, WeightDtype dtype, const float4 (&numbers)[TIMES], u32 row, u32 width) {
  float factor = 1.0f;
  if (dtype != BF16) {
    const float greatest = dtype == INT8 ? INT8_MOST : FLOAT8_MOST;
    float most = 0.0f;
#pragma unroll
    for (u32 nth = 0; nth < TIMES; nth++)
      if (group_at(nth) < width) most = fmaxf(most, greatest_of(numbers[nth]));
    most = block_max(most);
    // A row of zeros stays zeros.
    factor = most > 0.0f ? greatest / most : 0.0f;
    if (threadIdx.x == 0) scales[row] = most / greatest;
  }
#pragma unroll
  for (u32 nth = 0; nth < TIMES; nth++) {
    const u32 i = group_at(nth);
    if (i >= width) continue;
    const size_t at = (size_t)row * width + i;
    if (dtype != BF16) static_cast<u32 *>(rows)[at / 4] = bytes_of(numbers[nth], factor, dtype);
    else *reinterpret_cast<uint2 *>(static_cast<bf16 *>(rows) + at) = to_bf16s(numbers[nth]);
  }
}

// Loads a block's row into registers: `four_at` returns the four numbers at an index.
template <u32 TIMES, class FourAt>
static __device__ __forceinline__ void load_row(float4 (&numbers)[TIMES], u32 width, FourAt four_at) {
#pragma unroll
  for (u32 nth = 0; nth < TIMES; nth++)
    if (group_at(nth) < width) numbers[nth] = four_at(group_at(nth));
}
