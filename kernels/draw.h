// Drawing tokens from logits.
#pragma once

#include "warp.h"

// Whether a logit comes before another: the greater, and of equals the first. A logit that is not finite comes before all.
static __device__ bool is_before(float a, u32 at_a, float b, u32 at_b) {
  const bool broken_a = !(a < INFINITE), broken_b = !(b < INFINITE);
  if (broken_a || broken_b) return broken_a && (!broken_b || at_a < at_b);
  return a > b || (a == b && at_a < at_b);
}

// Draws a token from each row of logits, after banned tokens got a logit of minus infinity. Each warp of a block has a
// stretch of the vocabulary, so probabilities are summed in the vocabulary's order. Grid: rows of logits.
extern "C" __global__ void __launch_bounds__(DRAW_THREADS)
    draw(Drawn *drawn, float *logits, const DrawSpec *draws, const u32 *banned, u32 vocabulary) {
  __shared__ float tops[DRAW_THREADS / WARP];
  __shared__ u32 places[DRAW_THREADS / WARP];
  __shared__ double sums[DRAW_THREADS / WARP];
  __shared__ float weights[WARP];
  allow_next_kernel();
  wait_for_previous_kernel();
  const DrawSpec spec = draws[blockIdx.x];
  float *row = logits + (size_t)blockIdx.x * vocabulary;
  const u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, warps = blockDim.x / WARP;
  for (u32 t = spec.banned_begin + threadIdx.x; t < spec.banned_end; t += blockDim.x)
    if (banned[t] < vocabulary) row[banned[t]] = -INFINITE;
  __syncthreads();

  // A vocabulary that is a multiple of four is read four logits at a time.
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

  const bool highest = spec.temperature == 0.0f;
  const float scale = highest ? 1.0f : 1.0f / spec.temperature;
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
    const u32 chance[2] = {spec.chance_low, spec.chance_high};
    const double point = total * to_double(chance);
    // Rounding may leave the total just below the point. Then the last token with a weight is drawn.
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
