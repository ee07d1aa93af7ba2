// The backward pass of a decoder, from a loss to the gradients of its adapters: everything between the matrix products,
// which are cuBLAS's.
//
// The sequences of a batch have one length. Rows are (sequence, index). Heads are (sequence, head, index, dim): query heads
// that share a KV head are neighbours, so they are the rows of one product with it. Gradients of rows are f32, and inputs
// of products are bf16.
#pragma once
#include "heads.h"

// Where the numbers of a row's head begin, among `heads` heads.
static __device__ size_t index_of_head(const Sequences &of, u32 heads, u32 row, u32 head) {
  return (((size_t)(row / of.length) * heads + head) * of.length + row % of.length) * of.dim;
}

static __device__ float dot(const float4 &a, const float4 &b) { return a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w; }

static __device__ float4 product(const float4 &a, const float4 &b) { return {a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w}; }

// The gradient of numbers before a norm, from the gradient after it: without the part along the row itself.
static __device__ float4 norm_gradient(const float4 &back, const float4 &was, float factor, float along) {
  return {factor * (back.x - was.x * along), factor * (back.y - was.y * along), factor * (back.z - was.z * along),
          factor * (back.w - was.w * along)};
}

// The head of a warp: its index among all heads of a row, and among those of its kind. A lane has four numbers of its
// first half, and their partners half a head on, if the head is so long.
struct Head {
  u32 row, all, among, index, heads, half, first;
  bool is_query, is_value, has;
};

// The table of a head's kind.
template <class T>
static __device__ T *of_kind(const Head &head, T *queries, T *keys, T *values) {
  return head.is_query ? queries : head.is_value ? values : keys;
}

static __device__ Head head_of(const Sequences &of) {
  const u32 among = blockIdx.y * (blockDim.x / WARP) + threadIdx.x / WARP, half = of.dim / 2, first = threadIdx.x % WARP * 4;
  const bool is_query = among < of.heads, is_value = among >= of.heads + of.kv_heads;
  const u32 index = is_query ? among : (among - of.heads) % of.kv_heads, heads = is_query ? of.heads : of.kv_heads;
  return {blockIdx.x, of.heads + 2 * of.kv_heads, among, index, heads, half, first, is_query, is_value, first < half};
}

// The index of a lane's numbers in the table of the head's kind.
static __device__ size_t index_of_head(const Sequences &of, const Head &head) {
  return index_of_head(of, head.heads, head.row, head.index) + head.first;
}

// A lane's projected numbers of its head.
static __device__ Halves projected(const Product &qkv, const Head &head) {
  return result_of_head(qkv, head.row, head.all, head.among, head.half, head.first);
}

static __device__ Halves product(const Halves &a, const Halves &b) { return {product(a.a, b.a), product(a.b, b.b)}; }

static __device__ float along_head(const Halves &a, const Halves &b) { return warp_sum(dot(a.a, b.a) + dot(a.b, b.b)); }

static __device__ float norm_factor(const Halves &numbers, u32 dim, float epsilon) {
  return rsqrtf(along_head(numbers, numbers) / dim + epsilon);
}

// Projected queries, keys and values, head by head. Queries and keys are normed if there are scales, and rotated by their
// positions. One warp per head. Grid: (rows, warps).
extern "C" __global__ void norm_and_rope(bf16 *queries, bf16 *keys, bf16 *values, Product qkv, const float *query_scale,
                                         const float *key_scale, const float2 *rope, float epsilon,
                                         const u32 *positions, Sequences sequences) {
  allow_next_kernel();
  wait_for_previous_kernel();
  const Sequences &of = sequences;
  const Head head = head_of(of);
  if (head.among >= head.all) return;
  Halves numbers = {};
  if (head.has) numbers = projected(qkv, head);
  const float *scale = of_kind<const float>(head, query_scale, key_scale, nullptr);
  if (scale) {
    const float factor = norm_factor(numbers, of.dim, epsilon);
    if (head.has) {
      const Halves scales = load_halves(scale + head.first, head.half);
      numbers = {scaled(numbers.a, factor, scales.a), scaled(numbers.b, factor, scales.b)};
    }
  }
  if (!head.has) return;
  if (!head.is_value) numbers = rotated(numbers, rope + (size_t)positions[head.row] * head.half + head.first, 1.0f);
  store_halves(of_kind(head, queries, keys, values) + index_of_head(of, head), head.half, numbers);
}

// Its backward pass: the gradient of the projections (rows, all heads), from the gradients of queries, keys and values.
// One warp per head. Grid: (rows, warps).
extern "C" __global__ void norm_and_rope_back(bf16 *gradient, const float *queries, const float *keys,
                                              const float *values, Product qkv, const float *query_scale,
                                              const float *key_scale, const float2 *rope, float epsilon,
                                              const u32 *positions, Sequences sequences) {
  allow_next_kernel();
  wait_for_previous_kernel();
  const Sequences &of = sequences;
  const Head head = head_of(of);
  if (head.among >= head.all) return;
  Halves back = {};
  if (head.has) back = load_halves(of_kind(head, queries, keys, values) + index_of_head(of, head), head.half);
  if (head.has && !head.is_value)
    back = rotated(back, rope + (size_t)positions[head.row] * head.half + head.first, -1.0f);
  const float *scale = of_kind<const float>(head, query_scale, key_scale, nullptr);
  if (scale) {
    Halves numbers = {};
    if (head.has) {
      back = product(back, load_halves(scale + head.first, head.half));
      numbers = projected(qkv, head);
    }
    const float factor = norm_factor(numbers, of.dim, epsilon);
    const float along = along_head(numbers, back) * factor * factor / of.dim;
    back = {norm_gradient(back.a, numbers.a, factor, along), norm_gradient(back.b, numbers.b, factor, along)};
  }
  if (head.has) store_halves(gradient + ((size_t)head.row * head.all + head.among) * of.dim + head.first, head.half, back);
}

// Whether a row of a sequence sees one at or before it: a row of the trunk or of its own segment, within the window.
static __device__ bool sees(const u32 *positions, const u32 *segments, u32 row, u32 key, u32 window) {
  const u32 segment = segments[key];
  const bool known = segment == TRUNK || segment == segments[row];
  const u32 apart = max(positions[row], positions[key]) - min(positions[row], positions[key]);
  return key == row || (known && segments[row] != PADDING && (window == 0 || apart < window));
}

// weights = softmax(scores) over the rows that each row sees, for `count` KV heads from `first` on, counted over all
// sequences. scores: (KV heads, query heads of each, length, length). One warp per row. Grid: warps.
extern "C" __global__ void attention_softmax(bf16 *weights, const float *scores, const u32 *positions,
                                             const u32 *segments, u32 first, u32 count, u32 window,
                                             Sequences sequences) {
  allow_next_kernel();
  wait_for_previous_kernel();
  const Sequences &of = sequences;
  const u32 nth = (blockIdx.x * blockDim.x + threadIdx.x) / WARP, lane = threadIdx.x % WARP, group = of.heads / of.kv_heads;
  if (nth >= count * group * of.length) return;
  const u32 row = nth % of.length, sequence = (first + nth / (group * of.length)) / of.kv_heads;
  positions += (size_t)sequence * of.length;
  segments += (size_t)sequence * of.length;
  scores += (size_t)nth * of.length;
  weights += (size_t)nth * of.length;
  float most = -INFINITE, sum = 0.0f;
  for (u32 key = lane; key <= row; key += WARP)
    if (sees(positions, segments, row, key, window)) most = fmaxf(most, scores[key]);
  // Every row sees itself.
  for (int far = WARP / 2; far > 0; far /= 2) most = fmaxf(most, __shfl_xor_sync(EVERYONE, most, far));
  for (u32 key = lane; key <= row; key += WARP)
    if (sees(positions, segments, row, key, window)) sum += __expf(scores[key] - most);
  const float factor = 1.0f / warp_sum(sum);
  for (u32 key = lane; key < of.length; key += WARP) {
    const bool seen = key <= row && sees(positions, segments, row, key, window);
    weights[key] = __float2bfloat16(seen ? __expf(scores[key] - most) * factor : 0.0f);
  }
}

// Its backward pass, in place: the gradient of the scores, from that of the weights. One warp per row. Grid: warps.
extern "C" __global__ void attention_softmax_back(bf16 *weights, const float *gradient, u32 rows, u32 length) {
  allow_next_kernel();
  wait_for_previous_kernel();
  const u32 row = (blockIdx.x * blockDim.x + threadIdx.x) / WARP, lane = threadIdx.x % WARP;
  if (row >= rows) return;
  weights += (size_t)row * length;
  gradient += (size_t)row * length;
  // Later rows have no weight.
  const u32 seen = row % length + 1;
  // Weights in bf16 don't sum to exactly one, and a constant in all gradients must cancel.
  float sum = 0.0f, mean = 0.0f;
  for (u32 key = lane; key < seen; key += WARP) {
    const float weight = __bfloat162float(weights[key]);
    sum += weight;
    mean += weight * gradient[key];
  }
  mean = warp_sum(mean) / warp_sum(sum);
  for (u32 key = lane; key < seen; key += WARP)
    weights[key] = __float2bfloat16(__bfloat162float(weights[key]) * (gradient[key] - mean));
}

// Attention's output from heads to rows. Grid: rows.
extern "C" __global__ void join_heads(bf16 *rows, const bf16 *heads, Sequences sequences) {
  allow_next_kernel();
  wait_for_previous_kernel();
  const Sequences &of = sequences;
  for (u32 i = threadIdx.x * 4; i < of.heads * of.dim; i += blockDim.x * 4)
    *reinterpret_cast<uint2 *>(rows + (size_t)blockIdx.x * of.heads * of.dim + i) =
        *reinterpret_cast<const uint2 *>(heads + index_of_head(of, of.heads, blockIdx.x, i / of.dim) + i % of.dim);
}

// Its backward pass. Grid: rows.
extern "C" __global__ void split_heads(bf16 *heads, const float *rows, Sequences sequences) {
  allow_next_kernel();
  wait_for_previous_kernel();
  const Sequences &of = sequences;
  for (u32 i = threadIdx.x * 4; i < of.heads * of.dim; i += blockDim.x * 4) {
    const float4 four = *reinterpret_cast<const float4 *>(rows + (size_t)blockIdx.x * of.heads * of.dim + i);
    *reinterpret_cast<uint2 *>(heads + index_of_head(of, of.heads, blockIdx.x, i / of.dim) + i % of.dim) =
        to_bf16s(four);
  }
}

// The gradient of gates and ups (rows, 2 width), from that of silu(gate) * up. Grid: rows.
extern "C" __global__ void silu_mul_back(bf16 *gradient, Product gates_ups, const float *gated, u32 width) {
  allow_next_kernel();
  wait_for_previous_kernel();
  for (u32 i = threadIdx.x * 4; i < width; i += blockDim.x * 4) {
    const float4 gate = result(gates_ups, blockIdx.x, 2 * width, i), up = result(gates_ups, blockIdx.x, 2 * width, width + i);
    const float4 back = *reinterpret_cast<const float4 *>(gated + (size_t)blockIdx.x * width + i);
    const float *g = &gate.x, *u = &up.x, *d = &back.x;
    float4 to_gate, to_up;
    float *of_gate = &to_gate.x, *of_up = &to_up.x;
#pragma unroll
    for (int n = 0; n < 4; n++) {
      const float open = 1.0f / (1.0f + __expf(-g[n]));
      of_gate[n] = d[n] * u[n] * open * (1.0f + g[n] * (1.0f - open));
      of_up[n] = d[n] * g[n] * open;
    }
    bf16 *to = gradient + (size_t)blockIdx.x * 2 * width + i;
    *reinterpret_cast<uint2 *>(to) = to_bf16s(to_gate);
    *reinterpret_cast<uint2 *>(to + width) = to_bf16s(to_up);
  }
}

// stream += the gradient of rows (rows, width), from the gradient of their norm. If `picked` is not null, only those rows
// were normed, and `normed` has as many. Grid: normed rows, of at most 4 NARROW numbers per thread.
extern "C" __global__ void __launch_bounds__(NORM_THREADS)
    norm_back(float *stream, const float *normed, const float *rows, const u32 *picked, const float *norm_scale,
              float epsilon, u32 width) {
  allow_next_kernel();
  wait_for_previous_kernel();
  const size_t row = picked ? picked[blockIdx.x] : blockIdx.x;
  float4 was[NARROW], back[NARROW];
  load_row(was, width, [&](u32 i) { return *reinterpret_cast<const float4 *>(rows + row * width + i); });
  load_row(back, width, [&](u32 i) {
    return product(*reinterpret_cast<const float4 *>(normed + (size_t)blockIdx.x * width + i),
                   *reinterpret_cast<const float4 *>(norm_scale + i));
  });
  float squares = 0.0f, along = 0.0f;
#pragma unroll
  for (u32 nth = 0; nth < NARROW; nth++) {
    if (group_at(nth) >= width) continue;
    squares += dot(was[nth], was[nth]);
    along += dot(was[nth], back[nth]);
  }
  const float factor = rsqrtf(block_sum(squares) / width + epsilon);
  along = block_sum(along) * factor * factor / width;
#pragma unroll
  for (u32 nth = 0; nth < NARROW; nth++) {
    const u32 i = group_at(nth);
    if (i >= width) continue;
    float4 &to = *reinterpret_cast<float4 *>(stream + row * width + i);
    const float4 more = norm_gradient(back[nth], was[nth], factor, along);
    to = {to.x + more.x, to.y + more.y, to.z + more.z, to.w + more.w};
  }
}

// rows (rows, width) += bias. Grid: rows.
extern "C" __global__ void add_bias(float *rows, const float *bias, u32 width) {
  allow_next_kernel();
  wait_for_previous_kernel();
  for (u32 i = threadIdx.x; i < width; i += blockDim.x) rows[(size_t)blockIdx.x * width + i] += bias[i];
}

// f32 to bf16, four numbers at a time. Grid: any number of blocks.
extern "C" __global__ void to_bf16(bf16 *to, const float *from, u32 fours) {
  allow_next_kernel();
  wait_for_previous_kernel();
  for (u32 i = blockIdx.x * blockDim.x + threadIdx.x; i < fours; i += gridDim.x * blockDim.x) {
    reinterpret_cast<uint2 *>(to)[i] = to_bf16s(reinterpret_cast<const float4 *>(from)[i]);
  }
}

// The factor of an input under dropout: 0, or 1 / (1 - dropout), so that the mean stays. It depends on the seed and on the
// input's index alone (SplitMix64; Steele, Lea and Flood 2014).
static __device__ float dropout_factor(unsigned long long seed, u32 index, float dropout) {
  unsigned long long bits = seed + (index + 1ull) * 0x9e3779b97f4a7c15ull;
  bits = (bits ^ bits >> 30) * 0xbf58476d1ce4e5b9ull;
  bits = (bits ^ bits >> 27) * 0x94d049bb133111ebull;
  bits ^= bits >> 31;
  return (float)(u32)(bits >> 40) < dropout * (1 << 24) ? 0.0f : 1.0f / (1.0f - dropout);
}

// An adapter's inputs after a dropout. Grid: any number of blocks.
extern "C" __global__ void apply_dropout(bf16 *to, const bf16 *from, u32 count, u32 seed_low, u32 seed_high,
                                         float dropout) {
  allow_next_kernel();
  wait_for_previous_kernel();
  const unsigned long long seed = (unsigned long long)seed_high << 32 | seed_low;
  for (u32 i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x)
    to[i] = __float2bfloat16(__bfloat162float(from[i]) * dropout_factor(seed, i, dropout));
}

// Its backward pass: to += the gradient of the inputs that were not dropped. Grid: any number of blocks.
extern "C" __global__ void apply_dropout_back(float *to, const float *from, u32 count, u32 seed_low, u32 seed_high,
                                              float dropout) {
  allow_next_kernel();
  wait_for_previous_kernel();
  const unsigned long long seed = (unsigned long long)seed_high << 32 | seed_low;
  for (u32 i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x)
    to[i] += from[i] * dropout_factor(seed, i, dropout);
}

// The loss of target tokens and the gradient of their logits: weighted cross-entropy, or, with an old policy, PPO's clipped
// objective with the weights as advantages (Schulman et al. 2017, eq. 7). Grid: targets.
extern "C" __global__ void __launch_bounds__(WIDE_THREADS)
    cross_entropy(bf16 *gradient, float *losses, const float *logits, const u32 *tokens, const float *weights,
                  const OldPolicy *old_policy, u32 vocabulary) {
  allow_next_kernel();
  wait_for_previous_kernel();
  const float *row = logits + (size_t)blockIdx.x * vocabulary;
  float most = -INFINITE, sum = 0.0f;
  for (u32 i = threadIdx.x; i < vocabulary; i += blockDim.x) most = fmaxf(most, row[i]);
  most = block_max(most);
  for (u32 i = threadIdx.x; i < vocabulary; i += blockDim.x) sum += __expf(row[i] - most);
  sum = block_sum(sum);
  const u32 token = tokens[blockIdx.x];
  const float entropy = logf(sum) + most - row[token];
  float weight = weights[blockIdx.x], loss = weight * entropy;
  if (old_policy) {
    const OldPolicy old = old_policy[blockIdx.x];
    const float ratio = __expf(-entropy - old.logprob), advantage = weight;
    loss = -fminf(ratio * advantage, fminf(fmaxf(ratio, old.low), old.high) * advantage);
    weight = (advantage > 0.0f ? ratio <= old.high : ratio >= old.low) ? ratio * advantage : 0.0f;
  }
  const float share = weight / sum;
  for (u32 i = threadIdx.x; i < vocabulary; i += blockDim.x)
    gradient[(size_t)blockIdx.x * vocabulary + i] =
        __float2bfloat16(__expf(row[i] - most) * share - (i == token ? weight : 0.0f));
  if (threadIdx.x == 0) losses[blockIdx.x] = loss;
}

// The cross-entropy of choices between rows by the logit of one token, where the first row is the target, and the gradient
// of those rows (rows, width). Grid: choices.
extern "C" __global__ void choice_cross_entropy(float *gradient, float *losses, const float *scores, const bf16 *table,
                                                const BranchChoice *choices, float weight, u32 width) {
  allow_next_kernel();
  wait_for_previous_kernel();
  const u32 begin = choices[blockIdx.x].begin, end = choices[blockIdx.x].end;
  const bf16 *token = table + (size_t)choices[blockIdx.x].token * width;
  float most = -INFINITE, sum = 0.0f;
  for (u32 i = begin; i < end; i++) most = fmaxf(most, scores[i]);
  for (u32 i = begin; i < end; i++) sum += __expf(scores[i] - most);
  for (u32 i = begin; i < end; i++) {
    const float share = weight * (__expf(scores[i] - most) / sum - (i == begin ? 1.0f : 0.0f));
    for (u32 n = threadIdx.x; n < width; n += blockDim.x) gradient[(size_t)i * width + n] = share * __bfloat162float(token[n]);
  }
  if (threadIdx.x == 0) losses[blockIdx.x] = weight * (logf(sum) + most - scores[begin]);
}
