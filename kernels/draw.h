// Tokens of logits.
#pragma once

#include "warp.h"

// Threads of a block that draws.
static const u32 DRAW_THREADS = 1024;

// How a token is drawn of a row of logits: what those are divided by (nothing where the highest is wanted), a number of
// [0, 1) in two halves of a double, and the tokens that are not allowed.
struct Draw {
  float temperature;
  u32 chance[2];
  u32 banned_begin, banned_end;
};

// A token, and its log-probability; or, where nothing can be drawn, not-a-number, and the token whose logit is broken,
// or NO_TOKEN if none has a probability.
struct Drawn {
  u32 token;
  float logprob;
};
static const u32 NO_TOKEN = 0xffffffffu;

// The greater of two logits; of equals the first. What is no logit is greater than all.
static __device__ bool is_before(float a, u32 at_a, float b, u32 at_b) {
  const bool broken_a = !(a < INFINITE), broken_b = !(b < INFINITE);
  if (broken_a || broken_b) return broken_a && (!broken_b || at_a < at_b);
  return a > b || (a == b && at_a < at_b);
}

// Draws tokens from whole rows of logits, which those that are not allowed leave. A row's warps have a stretch of the
// vocabulary each, so that what is drawn is found by adding up in the vocabulary's order. Grid: rows of logits.
extern "C" __global__ void __launch_bounds__(DRAW_THREADS)
    draw(Drawn *drawn, float *logits, const Draw *draws, const u32 *banned, u32 vocabulary) {
  __shared__ float tops[DRAW_THREADS / WARP];
  __shared__ u32 places[DRAW_THREADS / WARP];
  __shared__ double sums[DRAW_THREADS / WARP];
  __shared__ float weights[WARP];
  let_next_begin();
  wait_for_last();
  const Draw asked = draws[blockIdx.x];
  float *row = logits + (size_t)blockIdx.x * vocabulary;
  const u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, warps = blockDim.x / WARP;
  for (u32 t = asked.banned_begin + threadIdx.x; t < asked.banned_end; t += blockDim.x)
    if (banned[t] < vocabulary) row[banned[t]] = -INFINITE;
  __syncthreads();

  // Rows of a number of logits that four divides are read four at a time.
  const u32 at_once = vocabulary % 4 ? 1 : 4;
  const u32 stretch = ((vocabulary + warps - 1) / warps + at_once - 1) / at_once * at_once;
  const u32 begin = min(warp * stretch, vocabulary), end = min(begin + stretch, vocabulary);
  float top = -INFINITE;
  u32 place = NO_TOKEN;
  const auto look = [&](float logit, u32 at) {
    if (is_before(logit, at, top, place)) {
      top = logit;
      place = at;
    }
  };
  if (at_once == 4) {
#pragma unroll 4
    for (u32 i = begin + 4 * lane; i < end; i += 4 * WARP) {
      const float4 four = *reinterpret_cast<const float4 *>(row + i);
      look(four.x, i);
      look(four.y, i + 1);
      look(four.z, i + 2);
      look(four.w, i + 3);
    }
  } else {
    for (u32 i = begin + lane; i < end; i += WARP) look(row[i], i);
  }
  for (int far = WARP / 2; far > 0; far /= 2) {
    const float other = __shfl_xor_sync(EVERYONE, top, far);
    const u32 there = __shfl_xor_sync(EVERYONE, place, far);
    if (is_before(other, there, top, place)) {
      top = other;
      place = there;
    }
  }
  if (lane == 0) {
    tops[warp] = top;
    places[warp] = place;
  }
  __syncthreads();
  for (u32 w = 0; w < warps; w++)
    if (is_before(tops[w], places[w], top, place)) {
      top = tops[w];
      place = places[w];
    }
  if (!(top < INFINITE) || top == -INFINITE) {
    if (threadIdx.x == 0) drawn[blockIdx.x] = Drawn{top == -INFINITE ? NO_TOKEN : place, top - top};
    return;
  }

  const bool highest = asked.temperature == 0.0f;
  const float scale = highest ? 1.0f : 1.0f / asked.temperature;
  double sum = 0.0;
  const auto weight = [&](float logit) { return expf((logit - top) * scale); };
  if (at_once == 4) {
#pragma unroll 4
    for (u32 i = begin + 4 * lane; i < end; i += 4 * WARP) {
      const float4 four = *reinterpret_cast<const float4 *>(row + i);
      sum += (weight(four.x) + weight(four.y)) + (weight(four.z) + weight(four.w));
    }
  } else {
    for (u32 i = begin + lane; i < end; i += WARP) sum += weight(row[i]);
  }
  sum = warp_sum(sum);
  if (lane == 0) sums[warp] = sum;
  __syncthreads();
  double total = 0.0;
  for (u32 w = 0; w < warps; w++) total += sums[w];
  if (warp > 0) return;

  u32 token = place;
  if (!highest) {
    const double point = total * to_double(asked.chance);
    // Rounding may leave all sums together just below the point: then the last that weighs anything has it.
    u32 chosen = 0;
    double reached = 0.0, before = 0.0;
    for (u32 w = 0; w < warps && reached <= point; w++)
      if (sums[w] > 0.0) {
        chosen = w;
        before = reached;
        reached += sums[w];
      }
    reached = before;
    token = NO_TOKEN;
    const u32 from = min(chosen * stretch, vocabulary), until = min(from + stretch, vocabulary);
    for (u32 i = from; i < until; i += WARP) {
      weights[lane] = i + lane < until ? expf((row[i + lane] - top) * scale) : 0.0f;
      __syncwarp();
      bool found = false;
      for (u32 other = 0; other < WARP && !found; other++)
        if (weights[other] > 0.0f) {
          reached += weights[other];
          token = i + other;
          found = reached > point;
        }
      __syncwarp();
      if (found) break;
    }
  }
  if (lane == 0) {
    const float own = row[token];
    drawn[blockIdx.x] = Drawn{token, (float)((double)((own - top) * scale) - log(total))};
  }
}
