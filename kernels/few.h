// Products of up to FEW_ROWS rows.
#pragma once

#include "tensor.h"

static __device__ float silu_mul_of(float gate, float up) { return gate / (1.0f + __expf(-gate)) * up; }

// Bytes of shared memory of a block.
static constexpr u32 few_shared(u32 ahead) { return ahead * (FEW_OUTPUTS + FEW_ROWS) * FEW_STEP * 2; }

// sums (rows, outputs) = inputs (rows, width) weights (outputs, width)^T, of bf16. For so few rows, reading the weights
// bounds the time. Sixteen products at a time are added to one sum, as by cuBLAS's kernels that don't split sums, so the
// bits don't depend on the number of rows. Lines of rows that don't exist hold garbage, and their sums are not written.
// `width` is a multiple of 8, and `outputs` of 16. Grid: outputs / 16; block: a warp.
//
// Copies run AHEAD steps before the products, and weights are copied before the previous kernel has written the rows.
// Running further ahead is not faster: no product starts before the first copies have arrived.
//
// With GATES, weights are those of the gates with those of `up` below them. A block then has 8 outputs of each, and
// `write` gets both sums at once.
template <u32 AHEAD, bool GATES, class Write>
static __device__ __forceinline__ void multiply_few_rows(const bf16 *inputs, const bf16 *weights, u32 rows, u32 outputs,
                                                         u32 width, Write write) {
  // A line holds a step of a row: 16 chunks of 16 bytes, permuted so that chunks that are read together are in different
  // banks.
  constexpr u32 LINE = FEW_STEP * 2, CHUNK = 16, LINES = FEW_OUTPUTS + FEW_ROWS;
  DYNAMIC_SHARED(shared);
  char *lines = reinterpret_cast<char *>(shared);
  const u32 lane = threadIdx.x, half = lane / 16, chunk = lane % 16;
  const u32 steps = (width + FEW_STEP - 1) / FEW_STEP;
  allow_next_kernel();
  const u32 first_output = blockIdx.x * (GATES ? 8 : 16);
  const bf16 *weight = weights + ((size_t)first_output + half) * width + chunk * 8;
  // From the first 8 of a block's weights to the others.
  const size_t others = (size_t)(GATES ? outputs / 2 : 8) * width;
  const bf16 *input = inputs + (size_t)half * width + chunk * 8;
  const size_t two = 2 * (size_t)width;
  // Where a lane's chunks go, in every second line. The pattern repeats after 8 lines.
  char *to[4];
#pragma unroll
  for (u32 j = 0; j < 4; j++) to[j] = lines + (2 * j + half) * LINE + (chunk ^ (2 * j + half)) * CHUNK;
  u32 left = width > chunk * 8 ? (width - chunk * 8 + FEW_STEP - 1) / FEW_STEP : 0;
  const auto fetch_weights = [&](u32 slot) {
    const bf16 *from = weight, *other = weight + others;
#pragma unroll
    for (u32 j = 0; j < 4; j++) {
      start_copy(to[j] + slot * LINES * LINE, from, left > 0);
      start_copy(to[j] + slot * LINES * LINE + 8 * LINE, other, left > 0);
      from += two;
      other += two;
    }
  };
  const auto fetch_inputs = [&](u32 slot) {
    const bf16 *from = input;
#pragma unroll
    for (u32 j = 0; j < FEW_ROWS / 2; j++) {
      if (2 * j + half < rows) start_copy(to[j] + (slot * LINES + FEW_OUTPUTS) * LINE, from, left > 0);
      from += two;
    }
    // A lane stays at its last chunk.
    if (left > 1) {
      weight += FEW_STEP;
      input += FEW_STEP;
    }
    left -= left > 0;
  };
  // Weights are read while the previous kernel still runs, and its rows after it.
  {
    const bf16 *first = weight;
    const u32 all = left;
#pragma unroll 1
    for (u32 slot = 0; slot < AHEAD; slot++) {
      if (slot < steps) fetch_weights(slot);
      if (left > 1) weight += FEW_STEP;
      left -= left > 0;
    }
    wait_for_previous_kernel();
    weight = first;
    left = all;
#pragma unroll 1
    for (u32 slot = 0; slot < AHEAD; slot++) {
      if (slot < steps) fetch_inputs(slot);
      commit_copies();
    }
  }
  const u32 seventh = lane % 8;
  const char *left_at[4], *right_at[2];
#pragma unroll
  for (u32 k = 0; k < 4; k++) left_at[k] = lines + lane % 16 * LINE + ((2 * k + half) ^ seventh) * CHUNK;
#pragma unroll
  for (u32 k = 0; k < 2; k++) right_at[k] = lines + (FEW_OUTPUTS + seventh) * LINE + ((4 * k + lane / 8) ^ seventh) * CHUNK;
  u32 lefts[FEW_STEP / 16][4], rights[FEW_STEP / 32][4], next_lefts[FEW_STEP / 16][4], next_rights[FEW_STEP / 32][4];
  const auto load = [&](u32 slot, u32 (&a)[FEW_STEP / 16][4], u32 (&b)[FEW_STEP / 32][4]) {
#pragma unroll
    for (u32 k = 0; k < FEW_STEP / 32; k++) load_matrices(b[k], right_at[k % 2] + slot * LINES * LINE + k / 2 * 8 * CHUNK);
#pragma unroll
    for (u32 k = 0; k < FEW_STEP / 16; k++) load_matrices(a[k], left_at[k % 4] + slot * LINES * LINE + k / 4 * 8 * CHUNK);
  };
  float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
  await_copies<AHEAD - 1>();
  __syncwarp();
  load(0, lefts, rights);
  u32 slot = 0;
#pragma unroll 2
  for (u32 step = 0; step < steps; step++) {
    // The next step's matrices are loaded while this step's are multiplied.
    const u32 next = slot + 1 == AHEAD ? 0 : slot + 1;
    await_copies<AHEAD - 2>();
    __syncwarp();
    if (step + 1 < steps) load(next, next_lefts, next_rights);
#pragma unroll
    for (u32 k = 0; k < FEW_STEP / 16; k++) multiply_add(sum, lefts[k], rights[k / 2][k % 2 * 2], rights[k / 2][k % 2 * 2 + 1]);
    if (step + AHEAD < steps) {
      fetch_weights(slot);
      fetch_inputs(slot);
    }
    commit_copies();
    slot = next;
#pragma unroll
    for (u32 k = 0; k < FEW_STEP / 16; k++)
#pragma unroll
      for (u32 i = 0; i < 4; i++) {
        lefts[k][i] = next_lefts[k][i];
        if (k < FEW_STEP / 32) rights[k][i] = next_rights[k][i];
      }
  }
  // A lane has the sums of two outputs, 8 apart, with two rows.
#pragma unroll
  for (u32 i = 0; i < 2; i++) {
    const u32 row = lane % 4 * 2 + i;
    if (row < rows) write(row, first_output + lane / 4, sum[i], sum[2 + i]);
  }
}

extern "C" __global__ void __launch_bounds__(WARP)
    multiply_few(float *sums, const bf16 *inputs, const bf16 *weights, u32 rows, u32 outputs, u32 width) {
  multiply_few_rows<FEW_AHEAD, false>(inputs, weights, rows, outputs, width, [&](u32 row, u32 output, float sum, float other) {
    sums[(size_t)row * outputs + output] = sum;
    sums[(size_t)row * outputs + output + 8] = other;
  });
}

// gated (rows, outputs / 2) = silu(gate) * up of the same product, with the bias if it exists.
extern "C" __global__ void __launch_bounds__(WARP)
    gate_few(bf16 *gated, const bf16 *inputs, const bf16 *weights, u32 rows, u32 outputs, u32 width, const float *bias) {
  multiply_few_rows<GATE_FEW_AHEAD, true>(inputs, weights, rows, outputs, width, [&](u32 row, u32 output, float gate, float up) {
    if (bias) {
      gate += bias[output];
      up += bias[outputs / 2 + output];
    }
    gated[(size_t)row * (outputs / 2) + output] = __float2bfloat16(silu_mul_of(gate, up));
  });
}
