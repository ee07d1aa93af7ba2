// A decoder's forward pass on the GPU: everything between its products, which are cuBLAS's.
//
// A step's rows are laid out by the engine: each has a token, a position, a slot for its key and
// value, and the pages that it sees. Pages hold bf16 and are laid out (page, kv head, token, head_dim),
// layer by layer. The stream of rows is f32, as are the results of products; what goes into products
// is bf16. Sums are f32, in an order that depends on the row alone, so that company changes nothing.

#include "warp.h"

typedef __nv_bfloat16 bf16;

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

// stream (rows, width) = the embeddings of tokens. Grid: rows.
extern "C" __global__ void embed(float *stream, const bf16 *table, const u32 *tokens, u32 width) {
  const bf16 *from = table + (size_t)tokens[blockIdx.x] * width;
  float *to = stream + (size_t)blockIdx.x * width;
  for (u32 i = threadIdx.x; i < width; i += blockDim.x) to[i] = __bfloat162float(from[i]);
}

// What a row has become: with what came of a product, and the product's bias, if there are any.
static __device__ float added(const float *stream, const float *delta, const float *bias, size_t row, u32 i) {
  return stream[row + i] + (delta ? delta[row + i] : 0.0f) + (bias ? bias[i] : 0.0f);
}

// stream += delta + bias; normed = stream / rms(stream) * scale. Grid: rows.
extern "C" __global__ void add_norm(bf16 *normed, float *stream, const float *delta, const float *bias,
                                    const float *scale, float epsilon, u32 width) {
  const size_t row = (size_t)blockIdx.x * width;
  float squares = 0.0f;
  for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
    const float value = added(stream, delta, bias, row, i);
    stream[row + i] = value;
    squares += value * value;
  }
  const float factor = rsqrtf(block_sum(squares) / width + epsilon);
  for (u32 i = threadIdx.x; i < width; i += blockDim.x)
    normed[row + i] = __float2bfloat16(stream[row + i] * factor * scale[i]);
}

// The same of the rows that something is wanted of; the stream stays as it is. Grid: wanted rows.
extern "C" __global__ void pick(bf16 *normed, float *exact, const float *stream, const float *delta,
                                const float *bias, const u32 *wanted, const float *scale, float epsilon,
                                u32 width) {
  const size_t row = (size_t)wanted[blockIdx.x] * width, out = (size_t)blockIdx.x * width;
  float squares = 0.0f;
  for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
    const float value = added(stream, delta, bias, row, i);
    squares += value * value;
  }
  const float factor = rsqrtf(block_sum(squares) / width + epsilon);
  for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
    const float value = added(stream, delta, bias, row, i) * factor * scale[i];
    exact[out + i] = value;
    normed[out + i] = __float2bfloat16(value);
  }
}

// The logit of one token for one picked row: pairs are (picked row, token). A warp a pair.
extern "C" __global__ void columns(float *logits, const bf16 *normed, const bf16 *table,
                                   const u32 *pairs, u32 count, u32 width) {
  const u32 pair = (blockIdx.x * blockDim.x + threadIdx.x) / WARP, lane = threadIdx.x % WARP;
  if (pair >= count) return;
  const bf16 *row = normed + (size_t)pairs[2 * pair] * width;
  const bf16 *token = table + (size_t)pairs[2 * pair + 1] * width;
  float sum = 0.0f;
  for (u32 i = lane; i < width; i += WARP) sum += __bfloat162float(row[i]) * __bfloat162float(token[i]);
  sum = warp_sum(sum);
  if (lane == 0) logits[pair] = sum;
}

// Where heads lie.
struct Heads {
  u32 heads, kv_heads, dim, page_tokens;
};

// What a projection came to becomes queries, and keys and values in their pages: the bias is added,
// queries and keys are normed head by head if there are scales, and turned by their positions.
// qkv: (rows, (heads + 2 kv_heads) dim). Grid: (rows, heads + 2 kv_heads); block: a warp.
extern "C" __global__ void place_heads(bf16 *queries, bf16 *keys, bf16 *values, const float *qkv,
                                       const float *bias, const float *query_scale,
                                       const float *key_scale, const float *frequencies,
                                       float turn_scale, float epsilon, const u32 *positions,
                                       const u32 *slots, Heads of) {
  const u32 row = blockIdx.x, head = blockIdx.y, half = of.dim / 2;
  const u32 all = of.heads + 2 * of.kv_heads;
  const float *from = qkv + ((size_t)row * all + head) * of.dim;
  const float *add = bias ? bias + (size_t)head * of.dim : nullptr;
  const bool is_query = head < of.heads, is_value = head >= of.heads + of.kv_heads;
  const float *scale = is_query ? query_scale : is_value ? nullptr : key_scale;
  bf16 *to;
  if (is_query) {
    to = queries + ((size_t)row * of.heads + head) * of.dim;
  } else {
    const u32 kv_head = (head - of.heads) % of.kv_heads;
    const size_t place = ((size_t)slots[2 * row] * of.kv_heads + kv_head) * of.page_tokens + slots[2 * row + 1];
    to = (is_value ? values : keys) + place * of.dim;
  }
  float factor = 1.0f;
  if (scale) {
    float squares = 0.0f;
    for (u32 i = threadIdx.x; i < of.dim; i += WARP) {
      const float value = from[i] + (add ? add[i] : 0.0f);
      squares += value * value;
    }
    factor = rsqrtf(warp_sum(squares) / of.dim + epsilon);
  }
  for (u32 i = threadIdx.x; i < half; i += WARP) {
    float first = from[i] + (add ? add[i] : 0.0f);
    float second = from[i + half] + (add ? add[i + half] : 0.0f);
    if (scale) {
      first *= factor * scale[i];
      second *= factor * scale[i + half];
    }
    if (!is_value) {
      float sine, cosine;
      sincosf((float)positions[row] * frequencies[i], &sine, &cosine);
      sine *= turn_scale;
      cosine *= turn_scale;
      const float turned = first * cosine - second * sine;
      second = second * cosine + first * sine;
      first = turned;
    }
    to[i] = __float2bfloat16(first);
    to[i + half] = __float2bfloat16(second);
  }
}

// Pages of a part: the cut depends on nothing else, so a row's sums are always the same.
static const u32 PAGES_A_PART = 32;
static const u32 BLOCK = 128;

// Parts that the pages of a row are cut into: one at least.
static __device__ u32 parts_of(const u32 *ranges, u32 row) {
  const u32 pages = ranges[2 * row + 1] - ranges[2 * row];
  return pages ? (pages + PAGES_A_PART - 1) / PAGES_A_PART : 1;
}

// A page that rows see: tokens of it, the first of which stands at a position.
struct Seen {
  u32 page, first, tokens;
};

// The sum so far of some of the keys that a query sees, by the highest score among them.
struct Sum {
  float highest, weight;
};

// Brings a sum to a new highest score: what it is to be multiplied by.
static __device__ float rescale(float from, float to) {
  return from == -INFINITE ? 0.0f : __expf(from - to);
}

// Reads neighbouring numbers, up to 16 bytes at a time.
template <int COUNT>
static __device__ void read(float *to, const bf16 *from) {
  constexpr int STEP = COUNT < 8 ? COUNT : 8;
  struct alignas(2 * STEP) Words {
    bf16 numbers[STEP];
  };
#pragma unroll
  for (int i = 0; i < COUNT; i += STEP) {
    const Words words = *reinterpret_cast<const Words *>(from + i);
#pragma unroll
    for (int j = 0; j < STEP; j++) to[i + j] = __bfloat162float(words.numbers[j]);
  }
}

// What the queries of one key head see, part by part of a row's pages: GROUP query heads at once, so
// that keys are read once. Grid: (rows, kv_heads, blocks); blocks take turns at the parts of a row, so any
// number of them is right for any number of parts, of which there is room for `most`.
template <int DIM, int GROUP>
static __device__ void attend_parts(float *parts, Sum *sums, const bf16 *queries, const bf16 *keys,
                                    const bf16 *values, const u32 *positions, const u32 *ranges,
                                    const Seen *seen, float scale, u32 window, u32 most, Heads of) {
  // Lanes that read one key together: what many queries keep has to fit their registers.
  constexpr u32 LANES = GROUP > 4 ? 16 : 8;
  constexpr u32 TEAMS = BLOCK / LANES;
  constexpr int PART = DIM / LANES;
  const u32 row = blockIdx.x, kv_head = blockIdx.y, count = parts_of(ranges, row);
  const u32 team = threadIdx.x / LANES, lane = threadIdx.x % LANES;
  const u32 position = positions[row];
  float query[GROUP][PART], sum[GROUP][PART], highest[GROUP], weight[GROUP];
  const bf16 *from = queries + ((size_t)row * of.heads + kv_head * GROUP) * DIM + lane * PART;
#pragma unroll
  for (int g = 0; g < GROUP; g++) {
    read<PART>(query[g], from + g * DIM);
#pragma unroll
    for (int i = 0; i < PART; i++) query[g][i] *= scale;
  }
  for (u32 part = blockIdx.z; part < count; part += gridDim.z) {
#pragma unroll
    for (int g = 0; g < GROUP; g++) {
#pragma unroll
      for (int i = 0; i < PART; i++) sum[g][i] = 0.0f;
      highest[g] = -INFINITE;
      weight[g] = 0.0f;
    }
    const u32 begin = ranges[2 * row] + part * PAGES_A_PART;
    const u32 end = min(ranges[2 * row + 1], begin + PAGES_A_PART);
    for (u32 s = begin; s < end; s++) {
      const Seen page = seen[s];
      const size_t base = ((size_t)page.page * of.kv_heads + kv_head) * of.page_tokens * DIM + lane * PART;
      // Everybody takes every turn, so that warps stay whole.
      for (u32 turn = 0; turn < page.tokens; turn += TEAMS) {
        const u32 token = turn + team, at = page.first + token;
        const bool sees = token < page.tokens && at <= position && (window == 0 || at + window > position);
        const size_t key = base + (size_t)(token < page.tokens ? token : 0) * DIM;
        float k[PART], v[PART];
        read<PART>(k, keys + key);
        read<PART>(v, values + key);
#pragma unroll
        for (int g = 0; g < GROUP; g++) {
          float score = 0.0f;
#pragma unroll
          for (int i = 0; i < PART; i++) score += query[g][i] * k[i];
          for (int far = LANES / 2; far > 0; far /= 2) score += __shfl_xor_sync(EVERYONE, score, far);
          if (!sees) continue;
          const float top = fmaxf(highest[g], score);
          const float old = rescale(highest[g], top), now = __expf(score - top);
          highest[g] = top;
          weight[g] = weight[g] * old + now;
#pragma unroll
          for (int i = 0; i < PART; i++) sum[g][i] = sum[g][i] * old + now * v[i];
        }
      }
    }

    // What the teams have becomes one: first those of a warp, then the warps.
    constexpr int WARPS = BLOCK / WARP;
    __shared__ Sum warps[WARPS][GROUP];
    __shared__ float tables[WARPS][GROUP][DIM];
    const u32 warp = threadIdx.x / WARP;
    for (int far = LANES; far < (int)WARP; far *= 2) {
#pragma unroll
      for (int g = 0; g < GROUP; g++) {
        const float other = __shfl_xor_sync(EVERYONE, highest[g], far);
        const float more = __shfl_xor_sync(EVERYONE, weight[g], far);
        const float top = fmaxf(highest[g], other);
        const float mine = rescale(highest[g], top), theirs = rescale(other, top);
        highest[g] = top;
        weight[g] = weight[g] * mine + more * theirs;
#pragma unroll
        for (int i = 0; i < PART; i++) {
          const float table = __shfl_xor_sync(EVERYONE, sum[g][i], far);
          sum[g][i] = sum[g][i] * mine + table * theirs;
        }
      }
    }
    __syncthreads();
    if (threadIdx.x % WARP < LANES) {
      for (int g = 0; g < GROUP; g++) {
        if (lane == 0) warps[warp][g] = Sum{highest[g], weight[g]};
        for (int i = 0; i < PART; i++) tables[warp][g][lane * PART + i] = sum[g][i];
      }
    }
    __syncthreads();
    for (u32 i = threadIdx.x; i < GROUP * DIM; i += BLOCK) {
      const u32 g = i / DIM, column = i % DIM;
      float top = -INFINITE, total = 0.0f, value = 0.0f;
      for (int w = 0; w < WARPS; w++) top = fmaxf(top, warps[w][g].highest);
      for (int w = 0; w < WARPS; w++) {
        const float factor = rescale(warps[w][g].highest, top);
        total += warps[w][g].weight * factor;
        value += tables[w][g][column] * factor;
      }
      const size_t out = ((size_t)row * of.heads + kv_head * GROUP + g) * most + part;
      parts[out * DIM + column] = value;
      if (column == 0) sums[out] = Sum{top, total};
    }
  }
}

// The parts of a row become one. Grid: (rows, heads).
extern "C" __global__ void attend_merge(bf16 *attended, const float *parts, const Sum *sums,
                                        const u32 *ranges, u32 most, Heads of) {
  const size_t head = (size_t)blockIdx.x * of.heads + blockIdx.y;
  const u32 count = parts_of(ranges, blockIdx.x);
  float top = -INFINITE, total = 0.0f;
  for (u32 part = 0; part < count; part++) top = fmaxf(top, sums[head * most + part].highest);
  for (u32 part = 0; part < count; part++)
    total += sums[head * most + part].weight * rescale(sums[head * most + part].highest, top);
  for (u32 column = threadIdx.x; column < of.dim; column += blockDim.x) {
    float value = 0.0f;
    for (u32 part = 0; part < count; part++) {
      const size_t at = head * most + part;
      value += parts[at * of.dim + column] * rescale(sums[at].highest, top);
    }
    attended[head * of.dim + column] = __float2bfloat16(value / total);
  }
}

#define ATTEND(DIM, GROUP)                                                                          \
  extern "C" __global__ void __launch_bounds__(BLOCK, 1) attend_##DIM##_##GROUP(                      \
      float *parts, Sum *sums, const bf16 *queries, const bf16 *keys, const bf16 *values,          \
      const u32 *positions, const u32 *ranges, const Seen *seen, float scale, u32 window,          \
      u32 most, Heads of) {                                                                        \
    attend_parts<DIM, GROUP>(parts, sums, queries, keys, values, positions, ranges, seen, scale,   \
                             window, most, of);                                                    \
  }
#define ATTEND_GROUPS(DIM)                                                                          \
  ATTEND(DIM, 1) ATTEND(DIM, 2) ATTEND(DIM, 3) ATTEND(DIM, 4) ATTEND(DIM, 5) ATTEND(DIM, 6)         \
  ATTEND(DIM, 7) ATTEND(DIM, 8)
ATTEND(8, 1) ATTEND(8, 2) ATTEND(8, 3) ATTEND(8, 4)
ATTEND_GROUPS(16)
ATTEND_GROUPS(32)
ATTEND_GROUPS(64)
ATTEND_GROUPS(128)

// activated = silu(gate) * up, of gates_ups (rows, 2 width), gates first, and their biases if there are any.
// Grid: (blocks, rows).
extern "C" __global__ void silu_mul(bf16 *activated, const float *gates_ups, const float *bias, u32 width) {
  const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= width) return;
  const float *row = gates_ups + (size_t)blockIdx.y * 2 * width;
  const float gate = row[i] + (bias ? bias[i] : 0.0f), up = row[width + i] + (bias ? bias[width + i] : 0.0f);
  activated[(size_t)blockIdx.y * width + i] = __float2bfloat16(gate / (1.0f + __expf(-gate)) * up);
}
