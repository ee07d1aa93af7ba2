// What all kernels share: the numbers of the device, and sums over a warp.
#pragma once

#ifdef EMULATED
#include "emulated/device.h"
#include "emulated/float8.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <math_constants.h>
#define INFINITE CUDART_INF_F
// Memory of a block that is as large as whoever launches the kernel says.
#define ROOM(NAME)                 \
  extern __shared__ float4 room_[]; \
  float *NAME = (float *)room_
#endif

typedef unsigned int u32;
// The bits of a number of 8 bits.
typedef unsigned char float8;

// How weights, and the rows that they are multiplied with, are kept: in 16 bits, or in 8, as floating-point numbers of
// four bits of an exponent and three behind the point (E4M3), or as integers.
enum Format : u32 { BF16, FLOAT8, INT8 };

// The greatest numbers of 8 bits. Integers have one more below zero, which nothing is brought to.
static const float FLOAT8_MOST = 448.0f, INT8_MOST = 127.0f;

#ifndef EMULATED
// To the nearest number of 8 bits, or the greatest.
static __device__ __forceinline__ u32 to_float8(float value) { return __nv_cvt_float_to_fp8(value, __NV_SATFINITE, __NV_E4M3); }

// What two of them are, the first of them in the lower bits.
static __device__ __forceinline__ float2 from_float8s(u32 two) {
  return __half22float2(__half2(__nv_cvt_fp8x2_to_halfraw2((__nv_fp8x2_storage_t)two, __NV_E4M3)));
}

// Kernels of a pass follow each other closely: one may be brought onto the device while the one before is still at
// work, and reads what it left only once it has waited for it. What no kernel writes can be read before.
static __device__ __forceinline__ void let_next_begin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

static __device__ __forceinline__ void wait_for_last() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
#else
static void let_next_begin() {}
static void wait_for_last() {}
#endif

static const u32 WARP = 32;
static const u32 EVERYONE = 0xffffffffu;

static __device__ float warp_sum(float value) {
  for (int far = WARP / 2; far > 0; far /= 2) value += __shfl_xor_sync(EVERYONE, value, far);
  return value;
}

// A number of 64 bits, of its halves.
static __device__ double to_double(const u32 (&halves)[2]) {
  double value;
  memcpy(&value, halves, sizeof value);
  return value;
}

static __device__ double warp_sum(double value) {
  for (int far = WARP / 2; far > 0; far /= 2) {
    u32 halves[2];
    memcpy(halves, &value, sizeof value);
    for (u32 &half : halves) half = __shfl_xor_sync(EVERYONE, half, far);
    value += to_double(halves);
  }
  return value;
}
