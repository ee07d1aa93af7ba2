// A decoder's forward pass on the GPU: everything between the matrix products, which are cuBLAS's.
//
// The engine lays out the rows of a pass. Each has a token, a position, a KV slot for its key and value, and the pages
// that it sees. KV pages are bf16 or 8 bits, laid out (page, kv head, token, head_dim), layer by layer. The residual
// stream and the results of products are f32, and inputs of products are bf16 or 8 bits. Sums are f32, in an order that
// depends on the row alone, so results don't depend on the batch.

#include "attention.h"
#include "backprop.h"
#include "draw.h"
#include "few.h"
#include "heads.h"

// stream (rows, width) = the embeddings of tokens. Grid: rows.
extern "C" __global__ void embed(float *stream, const bf16 *table, const u32 *tokens, u32 width) {
  allow_next_kernel();
  wait_for_previous_kernel();
  const bf16 *from = table + (size_t)tokens[blockIdx.x] * width;
  float *to = stream + (size_t)blockIdx.x * width;
  for (u32 i = threadIdx.x; i < width; i += blockDim.x) to[i] = __bfloat162float(from[i]);
}

// Loads a row of the stream into registers, with the delta added if there is one. Returns the factor that norms it.
static __device__ float load_and_norm(float4 (&numbers)[NARROW], const float *stream, const Product &delta, u32 row, u32 width,
                                float epsilon) {
  float squares = 0.0f;
#pragma unroll
  for (u32 nth = 0; nth < NARROW; nth++) {
    const u32 i = group_at(nth);
    if (i >= width) continue;
    float4 four = *reinterpret_cast<const float4 *>(stream + (size_t)row * width + i);
    if (delta.sums) {
      const float4 more = result(delta, row, width, i);
      four.x += more.x;
      four.y += more.y;
      four.z += more.z;
      four.w += more.w;
    }
    squares += four.x * four.x + four.y * four.y + four.z * four.z + four.w * four.w;
    numbers[nth] = four;
  }
  return rsqrtf(block_sum(squares) / width + epsilon);
}

// stream += delta; normed = stream / rms(stream) * norm_scale. Grid: rows, of at most 4 NARROW numbers per thread.
extern "C" __global__ void __launch_bounds__(NORM_THREADS)
    add_norm(void *normed, float *row_scales, WeightDtype dtype, float *stream, Product delta, const float *norm_scale,
             float epsilon, u32 width) {
  allow_next_kernel();
  // The scale can be read before the previous kernel has written the row.
  float4 scales[NARROW];
  load_row(scales, width, [&](u32 i) { return *reinterpret_cast<const float4 *>(norm_scale + i); });
  wait_for_previous_kernel();
  float4 numbers[NARROW];
  const float factor = load_and_norm(numbers, stream, delta, blockIdx.x, width, epsilon);
#pragma unroll
  for (u32 nth = 0; nth < NARROW; nth++) {
    const u32 i = group_at(nth);
    if (i >= width) continue;
    float4 &four = numbers[nth];
    if (delta.sums) *reinterpret_cast<float4 *>(stream + (size_t)blockIdx.x * width + i) = four;
    four = scaled(four, factor, scales[nth]);
  }
  write_row(normed, row_scales, dtype, numbers, blockIdx.x, width);
}

// The same for the rows that are read. The stream stays as it is. Grid: rows that are read.
extern "C" __global__ void __launch_bounds__(NORM_THREADS)
    add_norm_picked(bf16 *normed, float *hidden, const float *stream, Product delta, const u32 *picked,
                    const float *norm_scale, float epsilon, u32 width) {
  allow_next_kernel();
  wait_for_previous_kernel();
  float4 numbers[NARROW];
  const float factor = load_and_norm(numbers, stream, delta, picked[blockIdx.x], width, epsilon);
#pragma unroll
  for (u32 nth = 0; nth < NARROW; nth++) {
    const u32 i = group_at(nth);
    if (i >= width) continue;
    numbers[nth] = scaled(numbers[nth], factor, *reinterpret_cast<const float4 *>(norm_scale + i));
    *reinterpret_cast<float4 *>(hidden + (size_t)blockIdx.x * width + i) = numbers[nth];
  }
  write_row(normed, nullptr, BF16, numbers, blockIdx.x, width);
}

// Rows of bf16 in 8 bits. Grid: rows, of at most 4 WIDE numbers per thread.
extern "C" __global__ void __launch_bounds__(WIDE_THREADS)
    quantize(void *packed, float *row_scales, WeightDtype dtype, const bf16 *rows, u32 width) {
  allow_next_kernel();
  wait_for_previous_kernel();
  float4 numbers[WIDE];
  load_row(numbers, width, [&](u32 i) {
    const bf16 *from = rows + (size_t)blockIdx.x * width + i;
    return float4{__bfloat162float(from[0]), __bfloat162float(from[1]), __bfloat162float(from[2]), __bfloat162float(from[3])};
  });
  write_row(packed, row_scales, dtype, numbers, blockIdx.x, width);
}

// The logit of one token for one picked row. One warp per pair.
extern "C" __global__ void chosen_logits(float *logits, const bf16 *normed, const bf16 *table, const LogitPair *pairs, u32 count,
                                         u32 width) {
  allow_next_kernel();
  wait_for_previous_kernel();
  const u32 pair = (blockIdx.x * blockDim.x + threadIdx.x) / WARP, lane = threadIdx.x % WARP;
  if (pair >= count) return;
  const bf16 *row = normed + (size_t)pairs[pair].row * width;
  const bf16 *token = table + (size_t)pairs[pair].token * width;
  float sum = 0.0f;
  for (u32 i = lane; i < width; i += WARP) sum += __bfloat162float(row[i]) * __bfloat162float(token[i]);
  sum = warp_sum(sum);
  if (lane == 0) logits[pair] = sum;
}

// Writes a warp's head as a token of a page. A lane's numbers begin at `first`, and again half a head on. Lanes behind the
// head have zeros.
static __device__ __forceinline__ void write_head(bf16 *page, u32 token, const Halves &of, u32 first, u32 half) {
  if (first < half) store_halves(page + token * 2 * half + first, half, of);
}

// The same as E4M3, with one power of two as scale, which brings the greatest number near to the greatest of E4M3.
static __device__ __forceinline__ void write_head(float8 *page, u32 token, const Halves &of, u32 first, u32 half) {
  float most = fmaxf(greatest_of(of.a), greatest_of(of.b));
  for (int far = WARP / 2; far > 0; far /= 2) most = fmaxf(most, __shfl_xor_sync(EVERYONE, most, far));
  const u32 exponent = exponent_for(most);
  const float factor = inverse_power_of(exponent);
  if (first == 0) page[PAGE_TOKENS * 2 * half + token] = (float8)exponent;
  if (first >= half) return;
  float8 *to = page + token * 2 * half + first;
  *reinterpret_cast<u32 *>(to) = bytes_of(of.a, factor, FLOAT8);
  *reinterpret_cast<u32 *>(to + half) = bytes_of(of.b, factor, FLOAT8);
}

// Projected heads become queries, and keys and values in their pages. Queries and keys are normed head by head if there
// are scales, and rotated by their positions. rope: (positions, dim / 2) cosines and sines.
// qkv: (rows, (heads + 2 kv_heads) dim). One warp per head. Grid: (rows, warps).
template <class Kv>
static __device__ __forceinline__ void norm_rope_and_write_as(bf16 *queries, Kv *keys, Kv *values, const Product &qkv,
                                                              const float *query_scale, const float *key_scale,
                                                              const float2 *rope, float epsilon, const u32 *positions,
                                                              const PageSlot *slots, const Heads &of) {
  allow_next_kernel();
  const u32 row = blockIdx.x, head = blockIdx.y * (blockDim.x / WARP) + threadIdx.x / WARP, half = of.dim / 2;
  const u32 all = of.heads + 2 * of.kv_heads, lane = threadIdx.x % WARP;
  if (head >= all) return;
  const bool is_query = head < of.heads, is_value = head >= of.heads + of.kv_heads;
  const float *scale = is_query ? query_scale : is_value ? nullptr : key_scale;
  bf16 *const query = queries + ((size_t)row * of.heads + head) * of.dim;
  const u32 kv_head = is_query ? 0 : (head - of.heads) % of.kv_heads, token = slots[row].token;
  const u32 page_numbers = of.page_tokens * (of.dim + SCALES_PER_TOKEN<Kv>);
  Kv *const page = (is_value ? values : keys) + ((size_t)slots[row].page * of.kv_heads + kv_head) * page_numbers;
  // A lane has the pairs of a rotation: numbers of the first half of a head, and those half a head on.
  const u32 first = lane * 4;
  const bool has = first < half;
  Halves numbers = {}, scales = {};
  // Tables and uploads can be read before the previous kernel has finished.
  float2 angles[4] = {};
  if (has && !is_value) {
    const float2 *at = rope + (size_t)positions[row] * half + first;
#pragma unroll
    for (int i = 0; i < 4; i++) angles[i] = at[i];
  }
  if (has && scale) scales = load_halves(scale + first, half);
  wait_for_previous_kernel();
  if (has) numbers = result_of_head(qkv, row, all, head, half, first);
  if (scale) {
    const float4 &a = numbers.a, &b = numbers.b;
    const float squares = a.x * a.x + a.y * a.y + a.z * a.z + a.w * a.w + b.x * b.x + b.y * b.y + b.z * b.z + b.w * b.w;
    const float factor = rsqrtf(warp_sum(squares) / of.dim + epsilon);
    if (has) numbers = {scaled(a, factor, scales.a), scaled(b, factor, scales.b)};
  }
  if (has && !is_value) numbers = rotated(numbers, angles, 1.0f);
  if (is_query) write_head(query, 0, numbers, first, half);
  else write_head(page, token, numbers, first, half);
}

extern "C" __global__ void norm_rope_and_write(bf16 *queries, bf16 *keys, bf16 *values, Product qkv,
                                               const float *query_scale, const float *key_scale, const float2 *rope,
                                               float epsilon, const u32 *positions, const PageSlot *slots, Heads heads) {
  norm_rope_and_write_as(queries, keys, values, qkv, query_scale, key_scale, rope, epsilon, positions, slots, heads);
}

extern "C" __global__ void norm_rope_and_write_float8(bf16 *queries, float8 *keys, float8 *values, Product qkv,
                                                      const float *query_scale, const float *key_scale,
                                                      const float2 *rope, float epsilon, const u32 *positions,
                                                      const PageSlot *slots, Heads heads) {
  norm_rope_and_write_as(queries, keys, values, qkv, query_scale, key_scale, rope, epsilon, positions, slots, heads);
}

// gated = silu(gate) * up, of gates_ups (rows, 2 width), gates first. Grid: rows, of at most 4 WIDE numbers per thread.
extern "C" __global__ void __launch_bounds__(WIDE_THREADS)
    silu_mul(void *gated, float *row_scales, WeightDtype dtype, Product gates_ups, u32 width) {
  allow_next_kernel();
  wait_for_previous_kernel();
  float4 numbers[WIDE];
  load_row(numbers, width, [&](u32 i) {
    const float4 gate = result(gates_ups, blockIdx.x, 2 * width, i);
    const float4 up = result(gates_ups, blockIdx.x, 2 * width, width + i);
    return float4{silu_mul_of(gate.x, up.x), silu_mul_of(gate.y, up.y), silu_mul_of(gate.z, up.z),
                  silu_mul_of(gate.w, up.w)};
  });
  write_row(gated, row_scales, dtype, numbers, blockIdx.x, width);
}
