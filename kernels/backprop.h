// The way back through a decoder, from a loss to the gradients of its adapters: everything between products, which are
// cuBLAS's.
//
// The sequences of a batch have one length. Rows lie (sequence, place). Heads lie (sequence, head, place, dim): the heads
// of queries that share a head of keys are neighbours, so they are the rows of one product with it. Gradients of rows are
// f32; what goes into products is bf16.
#pragma once
#include "heads.h"

// How the heads of a batch lie, and how many rows a sequence has.
struct Sequences {
  u32 heads, kv_heads, dim, length;
};

// Rows that every row after them sees, and rows that fill a sequence up and see themselves alone.
static const u32 TRUNK = 0, PADDING = 0xffffffffu;

// Where the numbers of a row's head begin, among so many heads.
static __device__ size_t place_of_head(const Sequences &of, u32 heads, u32 row, u32 head) {
  return (((size_t)(row / of.length) * heads + head) * of.length + row % of.length) * of.dim;
}

static __device__ float dot(const float4 &a, const float4 &b) { return a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w; }

static __device__ float4 product(const float4 &a, const float4 &b) { return {a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w}; }

// The gradient of numbers that were normed by a factor, from that of what came of them: without what goes along them all.
static __device__ float4 across(const float4 &back, const float4 &was, float factor, float along) {
  return {factor * (back.x - was.x * along), factor * (back.y - was.y * along), factor * (back.z - was.z * along),
          factor * (back.w - was.w * along)};
}

// The head of a row that a warp goes over: which of all, and which of its own kind. A lane has four numbers of its first
// half and those half a head on, if there are so many.
struct Head {
  u32 row, all, among, index, heads, half, first;
  bool is_query, is_value, has;
};

// What is a head's of what there is for queries, keys and values.
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

// Where a lane's numbers lie among those of the head's kind.
static __device__ size_t place_of_head(const Sequences &of, const Head &head) {
  return place_of_head(of, head.heads, head.row, head.index) + head.first;
}

// What projections came to for a head.
static __device__ Halves projected(const Product &qkv, const Head &head) {
  return result_of_head(qkv, head.row, head.all, head.among, head.half, head.first);
}

static __device__ Halves product(const Halves &a, const Halves &b) { return {product(a.a, b.a), product(a.b, b.b)}; }

static __device__ float along_head(const Halves &a, const Halves &b) { return warp_sum(dot(a.a, b.a) + dot(a.b, b.b)); }

static __device__ float norm_factor(const Halves &kept, u32 dim, float epsilon) {
  return rsqrtf(along_head(kept, kept) / dim + epsilon);
}

// Queries, keys and values, head by head, of what projections came to: queries and keys are normed if there are scales,
// and turned by their positions. A warp a head. Grid: (rows, warps).
extern "C" __global__ void turn_heads(bf16 *queries, bf16 *keys, bf16 *values, Product qkv, const float *query_scale,
                                      const float *key_scale, const float2 *turns, float epsilon, const u32 *positions,
                                      Sequences of) {
  let_next_begin();
  wait_for_last();
  const Head head = head_of(of);
  if (head.among >= head.all) return;
  Halves kept = {};
  if (head.has) kept = projected(qkv, head);
  const float *scale = of_kind<const float>(head, query_scale, key_scale, nullptr);
  if (scale) {
    const float factor = norm_factor(kept, of.dim, epsilon);
    if (head.has) {
      const Halves scales = load_halves(scale + head.first, head.half);
      kept = {scaled(kept.a, factor, scales.a), scaled(kept.b, factor, scales.b)};
    }
  }
  if (!head.has) return;
  if (!head.is_value) kept = turned(kept, turns + (size_t)positions[head.row] * head.half + head.first, 1.0f);
  store_halves(of_kind(head, queries, keys, values) + place_of_head(of, head), head.half, kept);
}

// The way back: the gradient of what projections came to (rows, all heads), from those of queries, keys and values. A
// warp a head. Grid: (rows, warps).
extern "C" __global__ void turn_heads_back(bf16 *gradient, const float *queries, const float *keys, const float *values,
                                           Product qkv, const float *query_scale, const float *key_scale,
                                           const float2 *turns, float epsilon, const u32 *positions, Sequences of) {
  let_next_begin();
  wait_for_last();
  const Head head = head_of(of);
  if (head.among >= head.all) return;
  Halves back = {};
  if (head.has) back = load_halves(of_kind(head, queries, keys, values) + place_of_head(of, head), head.half);
  if (head.has && !head.is_value)
    back = turned(back, turns + (size_t)positions[head.row] * head.half + head.first, -1.0f);
  const float *scale = of_kind<const float>(head, query_scale, key_scale, nullptr);
  if (scale) {
    Halves kept = {};
    if (head.has) {
      back = product(back, load_halves(scale + head.first, head.half));
      kept = projected(qkv, head);
    }
    const float factor = norm_factor(kept, of.dim, epsilon);
    const float along = along_head(kept, back) * factor * factor / of.dim;
    back = {across(back.a, kept.a, factor, along), across(back.b, kept.b, factor, along)};
  }
  if (head.has) store_halves(gradient + ((size_t)head.row * head.all + head.among) * of.dim + head.first, head.half, back);
}

// Whether a row of a sequence sees one at or before it: of the trunk or its own segment, and near enough.
static __device__ bool sees(const u32 *positions, const u32 *segments, u32 row, u32 key, u32 window) {
  const u32 segment = segments[key];
  const bool known = segment == TRUNK || segment == segments[row];
  const u32 apart = max(positions[row], positions[key]) - min(positions[row], positions[key]);
  return key == row || (known && segments[row] != PADDING && (window == 0 || apart < window));
}

// shares = softmax(logits) over what each row sees, for some heads of keys from `first` on, counted over all sequences:
// logits (heads of keys, heads of queries of each, length, length). A warp a row. Grid: warps.
extern "C" __global__ void share(bf16 *shares, const float *logits, const u32 *positions, const u32 *segments, u32 first,
                                 u32 count, u32 window, Sequences of) {
  let_next_begin();
  wait_for_last();
  const u32 nth = (blockIdx.x * blockDim.x + threadIdx.x) / WARP, lane = threadIdx.x % WARP, group = of.heads / of.kv_heads;
  if (nth >= count * group * of.length) return;
  const u32 row = nth % of.length, sequence = (first + nth / (group * of.length)) / of.kv_heads;
  positions += (size_t)sequence * of.length;
  segments += (size_t)sequence * of.length;
  logits += (size_t)nth * of.length;
  shares += (size_t)nth * of.length;
  float most = -INFINITE, sum = 0.0f;
  for (u32 key = lane; key <= row; key += WARP)
    if (sees(positions, segments, row, key, window)) most = fmaxf(most, logits[key]);
  // Every row sees itself.
  for (int far = WARP / 2; far > 0; far /= 2) most = fmaxf(most, __shfl_xor_sync(EVERYONE, most, far));
  for (u32 key = lane; key <= row; key += WARP)
    if (sees(positions, segments, row, key, window)) sum += __expf(logits[key] - most);
  const float factor = 1.0f / warp_sum(sum);
  for (u32 key = lane; key < of.length; key += WARP) {
    const bool seen = key <= row && sees(positions, segments, row, key, window);
    shares[key] = __float2bfloat16(seen ? __expf(logits[key] - most) * factor : 0.0f);
  }
}

// The way back, in place of the shares: the gradient of logits, from that of shares. A warp a row. Grid: warps.
extern "C" __global__ void share_back(bf16 *shares, const float *gradient, u32 rows, u32 length) {
  let_next_begin();
  wait_for_last();
  const u32 row = (blockIdx.x * blockDim.x + threadIdx.x) / WARP, lane = threadIdx.x % WARP;
  if (row >= rows) return;
  shares += (size_t)row * length;
  gradient += (size_t)row * length;
  // What comes after a row it has no share of.
  const u32 seen = row % length + 1;
  // Shares of 16 bits don't add up to one quite, and what all gradients have in common must cancel.
  float sum = 0.0f, mean = 0.0f;
  for (u32 key = lane; key < seen; key += WARP) {
    const float share = __bfloat162float(shares[key]);
    sum += share;
    mean += share * gradient[key];
  }
  mean = warp_sum(mean) / warp_sum(sum);
  for (u32 key = lane; key < seen; key += WARP)
    shares[key] = __float2bfloat16(__bfloat162float(shares[key]) * (gradient[key] - mean));
}

// Heads of queries become rows. Grid: rows.
extern "C" __global__ void join_heads(bf16 *rows, const bf16 *heads, Sequences of) {
  let_next_begin();
  wait_for_last();
  for (u32 i = threadIdx.x * 4; i < of.heads * of.dim; i += blockDim.x * 4)
    *reinterpret_cast<uint2 *>(rows + (size_t)blockIdx.x * of.heads * of.dim + i) =
        *reinterpret_cast<const uint2 *>(heads + place_of_head(of, of.heads, blockIdx.x, i / of.dim) + i % of.dim);
}

// The way back. Grid: rows.
extern "C" __global__ void split_heads(bf16 *heads, const float *rows, Sequences of) {
  let_next_begin();
  wait_for_last();
  for (u32 i = threadIdx.x * 4; i < of.heads * of.dim; i += blockDim.x * 4) {
    const float4 four = *reinterpret_cast<const float4 *>(rows + (size_t)blockIdx.x * of.heads * of.dim + i);
    *reinterpret_cast<uint2 *>(heads + place_of_head(of, of.heads, blockIdx.x, i / of.dim) + i % of.dim) =
        shortened(four);
  }
}

// The gradient of gates and of what is gated (rows, 2 width), from that of what came through. Grid: rows.
extern "C" __global__ void gate_back(bf16 *gradient, Product gates_ups, const float *activated, u32 width) {
  let_next_begin();
  wait_for_last();
  for (u32 i = threadIdx.x * 4; i < width; i += blockDim.x * 4) {
    const float4 gate = result(gates_ups, blockIdx.x, 2 * width, i), up = result(gates_ups, blockIdx.x, 2 * width, width + i);
    const float4 back = *reinterpret_cast<const float4 *>(activated + (size_t)blockIdx.x * width + i);
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
    *reinterpret_cast<uint2 *>(to) = shortened(to_gate);
    *reinterpret_cast<uint2 *>(to + width) = shortened(to_up);
  }
}

// stream += the gradient of rows (rows, width), from that of what they became when they were normed. If there is a list,
// only those rows were, and `normed` has as many. Grid: rows that were normed, of at most 16 times as many numbers as a
// block has threads.
extern "C" __global__ void __launch_bounds__(NORM_THREADS)
    norm_back(float *stream, const float *normed, const float *rows, const u32 *list, const float *scale, float epsilon,
              u32 width) {
  let_next_begin();
  wait_for_last();
  const size_t row = list ? list[blockIdx.x] : blockIdx.x;
  float4 was[NARROW], back[NARROW];
  keep_row(was, width, [&](u32 i) { return *reinterpret_cast<const float4 *>(rows + row * width + i); });
  keep_row(back, width, [&](u32 i) {
    return product(*reinterpret_cast<const float4 *>(normed + (size_t)blockIdx.x * width + i),
                   *reinterpret_cast<const float4 *>(scale + i));
  });
  float squares = 0.0f, along = 0.0f;
#pragma unroll
  for (u32 nth = 0; nth < NARROW; nth++) {
    if (place_of(nth) >= width) continue;
    squares += dot(was[nth], was[nth]);
    along += dot(was[nth], back[nth]);
  }
  const float factor = rsqrtf(block_sum(squares) / width + epsilon);
  along = block_sum(along) * factor * factor / width;
#pragma unroll
  for (u32 nth = 0; nth < NARROW; nth++) {
    const u32 i = place_of(nth);
    if (i >= width) continue;
    float4 &to = *reinterpret_cast<float4 *>(stream + row * width + i);
    const float4 more = across(back[nth], was[nth], factor, along);
    to = {to.x + more.x, to.y + more.y, to.z + more.z, to.w + more.w};
  }
}

// rows (rows, width) += bias. Grid: rows.
extern "C" __global__ void add_bias(float *rows, const float *bias, u32 width) {
  let_next_begin();
  wait_for_last();
  for (u32 i = threadIdx.x; i < width; i += blockDim.x) rows[(size_t)blockIdx.x * width + i] += bias[i];
}

// Numbers of 32 bits in 16, four at a time. Grid: blocks.
extern "C" __global__ void shorten(bf16 *to, const float *from, u32 fours) {
  let_next_begin();
  wait_for_last();
  for (u32 i = blockIdx.x * blockDim.x + threadIdx.x; i < fours; i += gridDim.x * blockDim.x) {
    reinterpret_cast<uint2 *>(to)[i] = shortened(reinterpret_cast<const float4 *>(from)[i]);
  }
}

// What an input is multiplied by in training: 0, if it is one of those that are left out, or so much that the mean stays.
// It depends on where chance comes from and on the input's place alone (Steele, Lea and Flood 2014, SplitMix64).
static __device__ float kept(unsigned long long origin, u32 place, float dropout) {
  unsigned long long bits = origin + (place + 1ull) * 0x9e3779b97f4a7c15ull;
  bits = (bits ^ bits >> 30) * 0xbf58476d1ce4e5b9ull;
  bits = (bits ^ bits >> 27) * 0x94d049bb133111ebull;
  bits ^= bits >> 31;
  return (float)(u32)(bits >> 40) < dropout * (1 << 24) ? 0.0f : 1.0f / (1.0f - dropout);
}

// Inputs of an adapter without those that are left out. Grid: blocks.
extern "C" __global__ void leave_out(bf16 *to, const bf16 *from, u32 count, u32 low, u32 high, float dropout) {
  let_next_begin();
  wait_for_last();
  const unsigned long long origin = (unsigned long long)high << 32 | low;
  for (u32 i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x)
    to[i] = __float2bfloat16(__bfloat162float(from[i]) * kept(origin, i, dropout));
}

// The way back: to += what was kept of the gradient. Grid: blocks.
extern "C" __global__ void leave_out_back(float *to, const float *from, u32 count, u32 low, u32 high, float dropout) {
  let_next_begin();
  wait_for_last();
  const unsigned long long origin = (unsigned long long)high << 32 | low;
  for (u32 i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x)
    to[i] += from[i] * kept(origin, i, dropout);
}

// What is known of a token that a model wrote itself: its log-probability then, and how much likelier it may become or
// remain before nothing is gained any more.
struct Written {
  float before, low, high;
};

// The cross-entropy of the tokens that follow rows, each by how much it counts; or, where they were written, what they are
// worth by how much likelier they have become. And the gradient of their logits. Grid: rows.
extern "C" __global__ void __launch_bounds__(WIDE_THREADS)
    surprise(bf16 *gradient, float *losses, const float *logits, const u32 *tokens, const float *weights,
             const Written *written, u32 vocabulary) {
  let_next_begin();
  wait_for_last();
  const float *row = logits + (size_t)blockIdx.x * vocabulary;
  float most = -INFINITE, sum = 0.0f;
  for (u32 i = threadIdx.x; i < vocabulary; i += blockDim.x) most = fmaxf(most, row[i]);
  most = block_max(most);
  for (u32 i = threadIdx.x; i < vocabulary; i += blockDim.x) sum += __expf(row[i] - most);
  sum = block_sum(sum);
  const u32 token = tokens[blockIdx.x];
  const float surprised = logf(sum) + most - row[token];
  float weight = weights[blockIdx.x], loss = weight * surprised;
  if (written) {
    const Written of = written[blockIdx.x];
    const float ratio = __expf(-surprised - of.before), worth = weight;
    loss = -fminf(ratio * worth, fminf(fmaxf(ratio, of.low), of.high) * worth);
    weight = (worth > 0.0f ? ratio <= of.high : ratio >= of.low) ? ratio * worth : 0.0f;
  }
  const float share = weight / sum;
  for (u32 i = threadIdx.x; i < vocabulary; i += blockDim.x)
    gradient[(size_t)blockIdx.x * vocabulary + i] =
        __float2bfloat16(__expf(row[i] - most) * share - (i == token ? weight : 0.0f));
  if (threadIdx.x == 0) losses[blockIdx.x] = loss;
}

// The cross-entropy of choices between rows by the logit of one token, of which the first is right, and the gradient of
// those rows (rows, width). choices: (begin, end, token). Grid: choices.
extern "C" __global__ void choose(float *gradient, float *losses, const float *scores, const bf16 *table, const u32 *choices,
                                  float weight, u32 width) {
  let_next_begin();
  wait_for_last();
  const u32 begin = choices[3 * blockIdx.x], end = choices[3 * blockIdx.x + 1];
  const bf16 *token = table + (size_t)choices[3 * blockIdx.x + 2] * width;
  float most = -INFINITE, sum = 0.0f;
  for (u32 i = begin; i < end; i++) most = fmaxf(most, scores[i]);
  for (u32 i = begin; i < end; i++) sum += __expf(scores[i] - most);
  for (u32 i = begin; i < end; i++) {
    const float share = weight * (__expf(scores[i] - most) / sum - (i == begin ? 1.0f : 0.0f));
    for (u32 n = threadIdx.x; n < width; n += blockDim.x) gradient[(size_t)i * width + n] = share * __bfloat162float(token[n]);
  }
  if (threadIdx.x == 0) losses[blockIdx.x] = weight * (logf(sum) + most - scores[begin]);
}
