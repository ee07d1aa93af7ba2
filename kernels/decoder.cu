// A decoder's forward pass on the GPU: everything between its products, which are cuBLAS's.
//
// A step's rows are laid out by the engine: each has a token, a position, a slot for its key and
// value, and the pages that it sees. Pages hold bf16, or 8 bits, and are laid out (page, kv head, token, head_dim),
// layer by layer. The stream of rows is f32, as are the results of products; what goes into products
// is bf16. Sums are f32, in an order that depends on the row alone, so that company changes nothing.

#include "attention.h"
#include "backprop.h"
#include "draw.h"
#include "few.h"
#include "heads.h"

// stream (rows, width) = the embeddings of tokens. Grid: rows.
extern "C" __global__ void embed(float *stream, const bf16 *table, const u32 *tokens, u32 width) {
  let_next_begin();
  wait_for_last();
  const bf16 *from = table + (size_t)tokens[blockIdx.x] * width;
  float *to = stream + (size_t)blockIdx.x * width;
  for (u32 i = threadIdx.x; i < width; i += blockDim.x) to[i] = __bfloat162float(from[i]);
}

// What a row of the stream becomes with what a product came to, if there is one: it is kept, and the factor that norms
// it is found.
static __device__ float norm_of(float4 (&kept)[NARROW], const float *stream, const Product &delta, u32 row, u32 width,
                                float epsilon) {
  float squares = 0.0f;
#pragma unroll
  for (u32 nth = 0; nth < NARROW; nth++) {
    const u32 i = place_of(nth);
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
    kept[nth] = four;
  }
  return rsqrtf(block_sum(squares) / width + epsilon);
}

// stream += delta; normed = stream / rms(stream) * scale. Grid: rows, of at most 16 times as many numbers as a block
// has threads.
extern "C" __global__ void __launch_bounds__(NORM_THREADS)
    add_norm(void *normed, float *scales, Format format, float *stream, Product delta, const float *scale, float epsilon,
             u32 width) {
  let_next_begin();
  // The scale is there before the row is.
  float4 scales_of[NARROW];
  keep_row(scales_of, width, [&](u32 i) { return *reinterpret_cast<const float4 *>(scale + i); });
  wait_for_last();
  float4 kept[NARROW];
  const float factor = norm_of(kept, stream, delta, blockIdx.x, width, epsilon);
#pragma unroll
  for (u32 nth = 0; nth < NARROW; nth++) {
    const u32 i = place_of(nth);
    if (i >= width) continue;
    float4 &four = kept[nth];
    if (delta.sums) *reinterpret_cast<float4 *>(stream + (size_t)blockIdx.x * width + i) = four;
    four = scaled(four, factor, scales_of[nth]);
  }
  write_row(normed, scales, format, kept, blockIdx.x, width);
}

// The same of the rows that something is wanted of; the stream stays as it is. Grid: wanted rows.
extern "C" __global__ void __launch_bounds__(NORM_THREADS)
    pick(bf16 *normed, float *exact, const float *stream, Product delta, const u32 *wanted, const float *scale,
         float epsilon, u32 width) {
  let_next_begin();
  wait_for_last();
  float4 kept[NARROW];
  const float factor = norm_of(kept, stream, delta, wanted[blockIdx.x], width, epsilon);
#pragma unroll
  for (u32 nth = 0; nth < NARROW; nth++) {
    const u32 i = place_of(nth);
    if (i >= width) continue;
    kept[nth] = scaled(kept[nth], factor, *reinterpret_cast<const float4 *>(scale + i));
    *reinterpret_cast<float4 *>(exact + (size_t)blockIdx.x * width + i) = kept[nth];
  }
  write_row(normed, nullptr, BF16, kept, blockIdx.x, width);
}

// Rows of 16 bits in 8. Grid: rows, of at most 32 times as many numbers as a block has threads.
extern "C" __global__ void __launch_bounds__(WIDE_THREADS)
    quantize(u32 *bytes, float *scales, Format format, const bf16 *rows, u32 width) {
  let_next_begin();
  wait_for_last();
  float4 kept[WIDE];
  keep_row(kept, width, [&](u32 i) {
    const bf16 *from = rows + (size_t)blockIdx.x * width + i;
    return float4{__bfloat162float(from[0]), __bfloat162float(from[1]), __bfloat162float(from[2]), __bfloat162float(from[3])};
  });
  write_row(bytes, scales, format, kept, blockIdx.x, width);
}

// The logit of one token for one picked row: pairs are (picked row, token). A warp a pair.
extern "C" __global__ void columns(float *logits, const bf16 *normed, const bf16 *table,
                                   const u32 *pairs, u32 count, u32 width) {
  let_next_begin();
  wait_for_last();
  const u32 pair = (blockIdx.x * blockDim.x + threadIdx.x) / WARP, lane = threadIdx.x % WARP;
  if (pair >= count) return;
  const bf16 *row = normed + (size_t)pairs[2 * pair] * width;
  const bf16 *token = table + (size_t)pairs[2 * pair + 1] * width;
  float sum = 0.0f;
  for (u32 i = lane; i < width; i += WARP) sum += __bfloat162float(row[i]) * __bfloat162float(token[i]);
  sum = warp_sum(sum);
  if (lane == 0) logits[pair] = sum;
}

// Keeps the numbers of a head that a warp has, as a token's of a page: those of a lane begin at `first`, and, half a head
// on, again; lanes behind the last have zeros.
static __device__ __forceinline__ void keep_head(bf16 *page, u32 token, const Halves &of, u32 first, u32 half) {
  if (first < half) store_halves(page + token * 2 * half + first, half, of);
}

// The same in 8 bits, with a power of two for all of the head's numbers. The greatest of them is brought near to the
// greatest there is, so that what is far smaller keeps its bits as well.
static __device__ __forceinline__ void keep_head(float8 *page, u32 token, const Halves &of, u32 first, u32 half) {
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

// What a projection came to becomes queries, and keys and values in their pages: queries and keys are normed head by
// head if there are scales, and turned by their positions: turns (positions, dim / 2) are cosines and sines.
// qkv: (rows, (heads + 2 kv_heads) dim). A warp a head. Grid: (rows, warps).
template <class Kept>
static __device__ __forceinline__ void place(bf16 *queries, Kept *keys, Kept *values, const Product &qkv,
                                             const float *query_scale, const float *key_scale, const float2 *turns,
                                             float epsilon, const u32 *positions, const u32 *slots,
                                             const Heads &of) {
  let_next_begin();
  const u32 row = blockIdx.x, head = blockIdx.y * (blockDim.x / WARP) + threadIdx.x / WARP, half = of.dim / 2;
  const u32 all = of.heads + 2 * of.kv_heads, lane = threadIdx.x % WARP;
  if (head >= all) return;
  const bool is_query = head < of.heads, is_value = head >= of.heads + of.kv_heads;
  const float *scale = is_query ? query_scale : is_value ? nullptr : key_scale;
  bf16 *const query = queries + ((size_t)row * of.heads + head) * of.dim;
  const u32 kv_head = is_query ? 0 : (head - of.heads) % of.kv_heads, token = slots[2 * row + 1];
  const u32 kept = of.page_tokens * (of.dim + BESIDE_NUMBERS<Kept>);
  Kept *const page = (is_value ? values : keys) + ((size_t)slots[2 * row] * of.kv_heads + kv_head) * kept;
  // A lane keeps what is turned together: numbers of the first half of a head, and those half a head on.
  const u32 first = lane * 4;
  const bool has = first < half;
  Halves numbers = {}, scales = {};
  // What no kernel writes is there before what the last one does.
  float2 turn[4] = {};
  if (has && !is_value) {
    const float2 *at = turns + (size_t)positions[row] * half + first;
#pragma unroll
    for (int i = 0; i < 4; i++) turn[i] = at[i];
  }
  if (has && scale) scales = load_halves(scale + first, half);
  wait_for_last();
  if (has) numbers = result_of_head(qkv, row, all, head, half, first);
  if (scale) {
    const float4 &a = numbers.a, &b = numbers.b;
    const float squares = a.x * a.x + a.y * a.y + a.z * a.z + a.w * a.w + b.x * b.x + b.y * b.y + b.z * b.z + b.w * b.w;
    const float factor = rsqrtf(warp_sum(squares) / of.dim + epsilon);
    if (has) numbers = {scaled(a, factor, scales.a), scaled(b, factor, scales.b)};
  }
  if (has && !is_value) numbers = turned(numbers, turn, 1.0f);
  if (is_query) keep_head(query, 0, numbers, first, half);
  else keep_head(page, token, numbers, first, half);
}

extern "C" __global__ void place_heads(bf16 *queries, bf16 *keys, bf16 *values, Product qkv, const float *query_scale,
                                       const float *key_scale, const float2 *turns, float epsilon,
                                       const u32 *positions, const u32 *slots, Heads of) {
  place(queries, keys, values, qkv, query_scale, key_scale, turns, epsilon, positions, slots, of);
}

extern "C" __global__ void place_heads_float8(bf16 *queries, float8 *keys, float8 *values, Product qkv,
                                              const float *query_scale, const float *key_scale, const float2 *turns,
                                              float epsilon, const u32 *positions, const u32 *slots, Heads of) {
  place(queries, keys, values, qkv, query_scale, key_scale, turns, epsilon, positions, slots, of);
}

// activated = silu(gate) * up, of gates_ups (rows, 2 width), gates first. Grid: rows, of at most 32 times as many
// numbers as a block has threads.
extern "C" __global__ void __launch_bounds__(WIDE_THREADS)
    silu_mul(void *activated, float *scales, Format format, Product gates_ups, u32 width) {
  let_next_begin();
  wait_for_last();
  float4 kept[WIDE];
  keep_row(kept, width, [&](u32 i) {
    const float4 gate = result(gates_ups, blockIdx.x, 2 * width, i);
    const float4 up = result(gates_ups, blockIdx.x, 2 * width, width + i);
    return float4{gated(gate.x, up.x), gated(gate.y, up.y), gated(gate.z, up.z), gated(gate.w, up.w)};
  });
  write_row(activated, scales, format, kept, blockIdx.x, width);
}
