// What all kernels share: the numbers of the device, and sums over a warp.
#pragma once

#ifdef EMULATED
#include "emulated/device.h"
#else
#include <cuda_bf16.h>
#include <math_constants.h>
#define INFINITE CUDART_INF_F
// Memory of a block that is as large as whoever launches the kernel says.
#define ROOM(NAME)                 \
  extern __shared__ float4 room_[]; \
  float *NAME = (float *)room_
#endif

typedef unsigned int u32;

static const u32 WARP = 32;
static const u32 EVERYONE = 0xffffffffu;

static __device__ float warp_sum(float value) {
  for (int far = WARP / 2; far > 0; far /= 2) value += __shfl_xor_sync(EVERYONE, value, far);
  return value;
}
