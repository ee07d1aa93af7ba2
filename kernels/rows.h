// What kernels that go over rows share: what a product came to, sums over a block, and a row that a block keeps.
#pragma once
#include "tensor.h"

// Threads of blocks that norm rows, and that go over the widest rows.
static const u32 NORM_THREADS = 512, WIDE_THREADS = 1024;

// The sum over a block of up to 1,024 threads, for all of them.
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

// The greatest over a block, for all of them.
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

// What weights and rows came to: sums (rows, columns). Weights of 8 bits have a scale for each column, and the rows that
// they were multiplied with one each. What there is none of is null. Sums of integers are integers, of as many bits.
struct Product {
  const float *sums, *bias, *row_scales, *column_scales;
  bool integers;
};

// Four neighbouring numbers of what a product comes to.
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

// Rows that a block goes over are kept in registers: four numbers at a time, so many times.
static const u32 NARROW = 4, WIDE = 8;

// Where a thread's numbers begin the `nth` time.
static __device__ u32 place_of(u32 nth) { return (nth * blockDim.x + threadIdx.x) * 4; }

// The nearest number of 8 bits. Not-a-number is 0 among integers, which have none.
static __device__ u32 byte_of(float value, Format format) {
  return format == INT8 ? (u32)__float2int_rn(value) & 0xff : to_float8(value);
}

// Four numbers in 16 bits; in 8, times a factor; and the greatest of them, whatever their signs.
static __device__ __forceinline__ uint2 shortened(const float4 &four) {
  return {pair_of(four.x, four.y), pair_of(four.z, four.w)};
}

static __device__ __forceinline__ u32 bytes_of(const float4 &four, float factor, Format format) {
  return byte_of(four.x * factor, format) | byte_of(four.y * factor, format) << 8 |
         byte_of(four.z * factor, format) << 16 | byte_of(four.w * factor, format) << 24;
}

static __device__ __forceinline__ float greatest_of(const float4 &four) {
  return fmaxf(fmaxf(fabsf(four.x), fabsf(four.y)), fmaxf(fabsf(four.z), fabsf(four.w)));
}

// Writes the row that a block keeps: in 16 bits, or in 8, with a scale, so that its greatest number is the greatest that
// 8 bits hold.
template <u32 TIMES>
static __device__ void write_row(void *rows, float *scales, Format format, const float4 (&kept)[TIMES], u32 row, u32 width) {
  float factor = 1.0f;
  if (format != BF16) {
    const float greatest = format == INT8 ? INT8_MOST : FLOAT8_MOST;
    float most = 0.0f;
#pragma unroll
    for (u32 nth = 0; nth < TIMES; nth++)
      if (place_of(nth) < width) most = fmaxf(most, greatest_of(kept[nth]));
    most = block_max(most);
    // A row of nothing stays that.
    factor = most > 0.0f ? greatest / most : 0.0f;
    if (threadIdx.x == 0) scales[row] = most / greatest;
  }
#pragma unroll
  for (u32 nth = 0; nth < TIMES; nth++) {
    const u32 i = place_of(nth);
    if (i >= width) continue;
    const size_t at = (size_t)row * width + i;
    if (format != BF16) static_cast<u32 *>(rows)[at / 4] = bytes_of(kept[nth], factor, format);
    else *reinterpret_cast<uint2 *>(static_cast<bf16 *>(rows) + at) = shortened(kept[nth]);
  }
}

// Keeps the row that a block goes over: `four_at` says which four numbers begin at a place.
template <u32 TIMES, class FourAt>
static __device__ __forceinline__ void keep_row(float4 (&kept)[TIMES], u32 width, FourAt four_at) {
#pragma unroll
  for (u32 nth = 0; nth < TIMES; nth++)
    if (place_of(nth) < width) kept[nth] = four_at(place_of(nth));
}
