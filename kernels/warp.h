// Number types of the device, and sums over a warp.
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
// A block's dynamic shared memory. The launch says how large it is.
#define DYNAMIC_SHARED(NAME)                 \
  extern __shared__ float4 dynamic_shared[]; \
  float *NAME = (float *)dynamic_shared
#endif

typedef unsigned int u32;
// The bits of an E4M3 number.
typedef unsigned char float8;
typedef __nv_bfloat16 bf16;

#include "interface.h"

// The greatest 8-bit numbers. Integers have one more below zero, which is never used.
static const float FLOAT8_MOST = 448.0f, INT8_MOST = 127.0f;

#ifndef EMULATED
// Rounds to the nearest E4M3 number, and saturates.
static __device__ __forceinline__ u32 to_float8(float value) { return __nv_cvt_float_to_fp8(value, __NV_SATFINITE, __NV_E4M3); }

// Two E4M3 numbers, the first in the lower bits.
static __device__ __forceinline__ float2 from_float8s(u32 two) {
  return __half22float2(__half2(__nv_cvt_fp8x2_to_halfraw2((__nv_fp8x2_storage_t)two, __NV_E4M3)));
}

// Programmatic dependent launch: a kernel may start while the one before it still runs. It waits before it reads or
// writes anything that another kernel writes. Weights and uploads can be read before.
static __device__ __forceinline__ void allow_next_kernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

static __device__ __forceinline__ void wait_for_previous_kernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
#else
static void allow_next_kernel() {}
static void wait_for_previous_kernel() {}
#endif

static const u32 EVERYONE = 0xffffffffu;

static __device__ float warp_sum(float value) {
  for (int far = WARP / 2; far > 0; far /= 2) value += __shfl_xor_sync(EVERYONE, value, far);
  return value;
}

// A double, from its halves.
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
