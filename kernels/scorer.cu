// The scorer's network on the GPU, for a batch of slates: the same sums as the processor's, in f32.
//
// Numbers that don't depend on a request are precomputed, and are stored on the device. An item's row is its vector (width),
// its shares of the target attention's first layer (columns) and of the head's (head_first), and its Rechead vector
// (rechead). A card's row is the keys and values (2 width) of up to `reasons` reasons. A batch refers to rows by slot.
// Weights are stored in the order in which a kernel reads them.
//
// A batch is two launches. `encode_histories` has a block per slate: three million dependent products, bounded by reading
// weights from L2. `score_candidates` has a block per TILE candidates of a slate, and is bounded by multiplications: 2,640
// per candidate and event, and 30,000 per candidate's head, whose 130 KiB of weights a block reads from L2 once. A thread
// has both hidden layers of two candidates and one event in registers. So a weight is read from shared memory once for two
// products, and nothing between candidate, event and attention is written to memory.
//
// Every sum is in an order that depends on its row alone, so results don't depend on the batch.

#include "warp.h"

// Added to the variance by a layer norm.
static const float NORM_EPSILON = 1e-5f;

static __device__ float warp_max(float value) {
  for (int far = WARP / 2; far > 0; far /= 2) value = fmaxf(value, __shfl_xor_sync(EVERYONE, value, far));
  return value;
}

// Rounds a count of numbers up to whole 16 bytes.
static __device__ u32 whole(u32 count) { return (count + 3) / 4 * 4; }

static __device__ u32 row_of(const Network &of) { return of.width + of.columns + of.head_first + of.rechead; }

// sums += factor * weights, four at a time.
static __device__ void add_scaled(float *sums, float factor, const float4 &weights) {
  sums[0] += factor * weights.x;
  sums[1] += factor * weights.y;
  sums[2] += factor * weights.z;
  sums[3] += factor * weights.w;
}

// The next `count` numbers of a table.
template <class T>
static __device__ T *take(T *&at, size_t count) {
  T *from = at;
  at += count;
  return from;
}

// rows (count, inner), `stride` apart, times weights (inner, columns). Calls `out` with each sum, by row and column.
// Rows begin at multiples of 16 bytes of shared memory, and neighbouring threads have neighbouring columns.
template <int ROWS, class Out>
static __device__ void multiply(const float *rows, u32 stride, u32 count, u32 inner, const float *weights, u32 columns,
                                Out out) {
  const u32 groups = (count + ROWS - 1) / ROWS;
  for (u32 t = threadIdx.x; t < columns * groups; t += blockDim.x) {
    const u32 column = t % columns, first = t / columns * ROWS;
    const float *of[ROWS];
    float sums[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      of[r] = rows + min(first + r, count - 1) * stride;
      sums[r] = 0.0f;
    }
    u32 k = 0;
#pragma unroll 2
    for (; k + 4 <= inner; k += 4) {
      float weight[4];
#pragma unroll
      for (int i = 0; i < 4; i++) weight[i] = weights[(size_t)(k + i) * columns + column];
#pragma unroll
      for (int r = 0; r < ROWS; r++) {
        const float4 x = *reinterpret_cast<const float4 *>(of[r] + k);
        sums[r] += x.x * weight[0];
        sums[r] += x.y * weight[1];
        sums[r] += x.z * weight[2];
        sums[r] += x.w * weight[3];
      }
    }
    for (; k < inner; k++) {
      const float weight = weights[(size_t)k * columns + column];
#pragma unroll
      for (int r = 0; r < ROWS; r++) sums[r] += of[r][k] * weight;
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++)
      if (first + r < count) out(first + r, column, sums[r]);
  }
}

// normed = layer norm of rows, one warp per row. Both may be the same.
static __device__ void norm_rows(float *normed, const float *rows, u32 stride, u32 count, u32 width, const float *scale,
                                 const float *shift) {
  const u32 lane = threadIdx.x % WARP;
  for (u32 row = threadIdx.x / WARP; row < count; row += blockDim.x / WARP) {
    const float *from = rows + row * stride;
    float *to = normed + row * stride, sum = 0.0f, squares = 0.0f;
    for (u32 i = lane; i < width; i += WARP) sum += from[i];
    const float mean = warp_sum(sum) / width;
    for (u32 i = lane; i < width; i += WARP) squares += (from[i] - mean) * (from[i] - mean);
    const float factor = 1.0f / sqrtf(warp_sum(squares) / width + NORM_EPSILON);
    for (u32 i = lane; i < width; i += WARP) to[i] = (from[i] - mean) * factor * scale[i] + shift[i];
  }
}

// Copies uploaded rows to their slots. Grid: rows.
extern "C" __global__ void write_rows(float *table, const float *rows, const u32 *slots, u32 width) {
  allow_next_kernel();
  wait_for_previous_kernel();
  const float *from = rows + (size_t)blockIdx.x * width;
  float *to = table + (size_t)slots[blockIdx.x] * width;
  for (u32 i = threadIdx.x; i < width; i += blockDim.x) to[i] = from[i];
}

// The Transformer over each slate's events (slates, history, width); the events' terms of the target attention's first
// layer (slates, history, columns); and the pattern's query for reasons and its share of the head (slates,
// width + head_first). Grid: slates.
extern "C" __global__ void __launch_bounds__(HISTORY_THREADS, 1)
    encode_histories(float *encoded, float *terms, float *shares, const float *weights, const float *items,
                     const SlateEvents *slates, const SlateEvent *events, const float *patterns, Network network) {
  allow_next_kernel();
  wait_for_previous_kernel();
  DYNAMIC_SHARED(shared);
  const Network &of = network;
  const SlateEvents slate = slates[blockIdx.x];
  const u32 count = slate.events, width = of.width, stride = whole(width), head_width = width / of.heads;
  // An odd stride from key to key, so that lanes which read one key each don't have bank conflicts.
  const u32 apart = 3 * width | 1, ffn_stride = whole(of.ffn);
  const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
  float *rows = take(shared, of.history * stride), *normed = take(shared, of.history * stride);
  float *seen = take(shared, max(of.history * stride, whole(of.text)));
  // Projections and hidden numbers share memory: each is read before the other is written.
  float *projected = take(shared, whole(of.history * max(apart, ffn_stride))), *hidden = projected;
  float *odds = take(shared, warps * of.history) + warp * of.history;

  const float *at = weights;
  const float *ages = take(at, of.ages * width), *kinds = take(at, of.kinds * width);
  const float *layers = at;
  const size_t layer = 2 * 2 * width + (size_t)3 * width * (width + 1) + (size_t)width * (width + 1) +
                       (size_t)of.ffn * (width + 1) + (size_t)width * (of.ffn + 1);

  for (u32 t = threadIdx.x; t < count * width; t += blockDim.x) {
    const u32 row = t / width, i = t % width;
    const SlateEvent event = events[slate.first_event + row];
    rows[row * stride + i] =
        items[(size_t)event.item * row_of(of) + i] + ages[event.age * width + i] + kinds[event.kind * width + i];
  }
  __syncthreads();

  for (u32 l = 0; l < of.layers && count > 0; l++) {
    at = layers + l * layer;
    const float *first_norm = take(at, 2 * width);
    const float *project = take(at, (size_t)width * 3 * width), *project_bias = take(at, 3 * width);
    const float *join = take(at, (size_t)width * width), *join_bias = take(at, width);
    const float *second_norm = take(at, 2 * width);
    const float *up = take(at, (size_t)width * of.ffn), *up_bias = take(at, of.ffn);
    const float *down = take(at, (size_t)of.ffn * width), *down_bias = take(at, width);
    norm_rows(normed, rows, stride, count, width, first_norm, first_norm + width);
    __syncthreads();
    multiply<5>(normed, stride, count, width, project, 3 * width, [&](u32 row, u32 column, float sum) {
      projected[row * apart + column] = sum + project_bias[column];
    });
    __syncthreads();
    // One warp per query of a head.
    for (u32 task = warp; task < of.heads * count; task += warps) {
      const u32 head = task / count, query_row = task % count;
      const float *query_of_head = projected + query_row * apart + head * head_width;
      const float *keys = projected + width + head * head_width, *values = keys + width;
      float top = -INFINITE, total = 0.0f;
      for (u32 e = lane; e < count; e += WARP) {
        float score = 0.0f;
        for (u32 i = 0; i < head_width; i++) score += query_of_head[i] * keys[e * apart + i];
        odds[e] = score;
        top = fmaxf(top, score);
      }
      top = warp_max(top);
      for (u32 e = lane; e < count; e += WARP) {
        odds[e] = __expf(odds[e] - top);
        total += odds[e];
      }
      total = warp_sum(total);
      __syncwarp();
      for (u32 i = lane; i < head_width; i += WARP) {
        float sum = 0.0f;
        for (u32 e = 0; e < count; e++) sum += odds[e] * values[e * apart + i];
        seen[query_row * stride + head * head_width + i] = sum / total;
      }
      __syncwarp();
    }
    __syncthreads();
    multiply<5>(seen, stride, count, width, join, width, [&](u32 row, u32 column, float sum) {
      rows[row * stride + column] += sum + join_bias[column];
    });
    __syncthreads();
    norm_rows(normed, rows, stride, count, width, second_norm, second_norm + width);
    __syncthreads();
    multiply<5>(normed, stride, count, width, up, of.ffn, [&](u32 row, u32 column, float sum) {
      hidden[row * ffn_stride + column] = fmaxf(sum + up_bias[column], 0.0f);
    });
    __syncthreads();
    multiply<5>(hidden, ffn_stride, count, of.ffn, down, width, [&](u32 row, u32 column, float sum) {
      rows[row * stride + column] += sum + down_bias[column];
    });
    __syncthreads();
  }
  at = layers + of.layers * layer;
  const float *last_norm = take(at, of.layers ? 2 * width : 0);
  const float *term = take(at, (size_t)width * of.columns);
  const float *pattern = take(at, (size_t)of.text * width), *pattern_bias = take(at, width);
  const float *no_pattern = take(at, width);
  const float *query = take(at, (size_t)width * width), *query_bias = take(at, width);
  const float *share = take(at, (size_t)width * of.head_first), *share_bias = at;
  if (of.layers) norm_rows(rows, rows, stride, count, width, last_norm, last_norm + width);
  // The pattern uses rows that are no longer needed.
  if (slate.pattern == NO_PATTERN) {
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) normed[i] = no_pattern[i];
  } else {
    const float *text = patterns + (size_t)slate.pattern * of.text;
    for (u32 i = threadIdx.x; i < of.text; i += blockDim.x) seen[i] = text[i];
  }
  __syncthreads();
  const size_t first = (size_t)blockIdx.x * of.history;
  for (u32 t = threadIdx.x; t < count * width; t += blockDim.x)
    encoded[first * width + t] = rows[t / width * stride + t % width];
  multiply<5>(rows, stride, count, width, term, of.columns,
              [&](u32 row, u32 column, float sum) { terms[(first + row) * of.columns + column] = sum; });
  if (slate.pattern != NO_PATTERN)
    multiply<1>(seen, 0, 1, of.text, pattern, width,
                [&](u32, u32 column, float sum) { normed[column] = sum + pattern_bias[column]; });
  __syncthreads();
  float *out = shares + (size_t)blockIdx.x * (width + of.head_first);
  multiply<1>(normed, 0, 1, width, query, width,
              [&](u32, u32 column, float sum) { out[column] = sum + query_bias[column]; });
  multiply<1>(normed, 0, 1, width, share, of.head_first,
              [&](u32, u32 column, float sum) { out[width + column] = sum + share_bias[column]; });
}

// Attention over a candidate's reasons: the mix of their values (width), and the weight of each (reasons). For a warp.
static __device__ void attend_reasons(float *mixed, float *attention, float *odds, const float *query, const float *card,
                                      const float *overlaps, const float *overlap_weights, u32 count, const Network &of) {
  const u32 lane = threadIdx.x % WARP, head_width = of.width / of.heads;
  for (u32 t = lane; t < count * of.heads; t += WARP) {
    const u32 reason = t / of.heads, head = t % of.heads;
    const float *query_of_head = query + head * head_width, *key = card + reason * 2 * of.width + head * head_width;
    float score = 0.0f;
    for (u32 i = 0; i < head_width; i++) score += query_of_head[i] * key[i];
    // A reason that is left out stays so, whatever its overlap's weight.
    const float overlap = overlaps[reason];
    odds[head * of.reasons + reason] = overlap == -INFINITE ? -INFINITE : score + overlap_weights[head] * overlap;
  }
  __syncwarp();
  for (u32 head = lane; head < of.heads; head += WARP) {
    float *mine = odds + head * of.reasons, top = -INFINITE, total = 0.0f;
    for (u32 reason = 0; reason < count; reason++) top = fmaxf(top, mine[reason]);
    for (u32 reason = 0; reason < count; reason++) {
      mine[reason] = __expf(mine[reason] - top);
      total += mine[reason];
    }
    for (u32 reason = 0; reason < count; reason++) mine[reason] /= total;
  }
  __syncwarp();
  for (u32 i = lane; i < of.width; i += WARP) {
    float sum = 0.0f;
    for (u32 reason = 0; reason < count; reason++)
      sum += odds[i / head_width * of.reasons + reason] * card[(reason * 2 + 1) * of.width + i];
    mixed[i] = sum;
  }
  for (u32 reason = lane; reason < of.reasons; reason += WARP) {
    float sum = 0.0f;
    for (u32 head = 0; head < of.heads && reason < count; head++) sum += odds[head * of.reasons + reason] / of.heads;
    attention[reason] = sum;
  }
}

// Logits (candidates), the Rechead's `h_u · h_v` (candidates) and attention over reasons (candidates, reasons), from the
// encoded histories. Grid: tiles.
extern "C" __global__ void __launch_bounds__(TILE_THREADS, 2)
    score_candidates(float *logits, float *rechead, float *attention, const float *weights, const float *items,
                     const float *cards, const float *encoded, const float *terms, const float *shares,
                     const float *shoppers, const SlateEvents *slates, const CandidateTile *tiles,
                     const CandidateSlots *candidates, const float *features, const float *overlaps, Network network) {
  allow_next_kernel();
  wait_for_previous_kernel();
  DYNAMIC_SHARED(shared);
  const Network &of = network;
  const CandidateTile tile = tiles[blockIdx.x];
  const u32 count = slates[tile.slate].events, width = of.width, columns = of.columns, head = of.head_first;
  // An odd stride of events per line, so that lanes which write a column don't have bank conflicts.
  const u32 apart = of.history | 1, inner = 3 * width + of.features, stride = whole(inner), head_stride = whole(head);
  const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
  const u32 of_layers = columns * width + columns * SECOND + 2 * SECOND;
  const float *at = weights;
  const float *layers = take(at, of_layers), *third_bias = take(at, 1), *overlap_weights = take(at, of.heads);
  const float *some_reasons = take(at, head), *no_reasons = take(at, head);
  const float *head_weights = take(at, (size_t)inner * head);
  const float *second_weights = take(at, (size_t)head * of.head_second), *second_bias = take(at, of.head_second);
  const float *last_weights = take(at, of.head_second), *last_bias = at;

  // Weights of pairs: (columns / FIRST, width, FIRST), then (columns, SECOND), its bias, and the third layer.
  float *pair = take(shared, columns * width), *second = take(shared, columns * SECOND);
  float *bias = take(shared, SECOND), *third = take(shared, SECOND);
  float *inputs = take(shared, TILE * stride), *first = take(shared, TILE * head_stride);
  float *vectors = take(shared, TILE * width), *own = take(shared, TILE * columns);
  // Events and their terms, with one line for each of their numbers.
  float *lines = take(shared, width * apart), *term = take(shared, columns * apart);
  float *event_weights = take(shared, TILE * of.history), *odds = take(shared, TILE * of.heads * of.reasons);
  float *last = take(shared, TILE * of.head_second);

  for (u32 i = threadIdx.x; i < of_layers; i += blockDim.x) pair[i] = layers[i];
  const size_t event = (size_t)tile.slate * of.history;
  for (u32 t = threadIdx.x; t < count * width; t += blockDim.x)
    lines[t % width * apart + t / width] = encoded[event * width + t];
  for (u32 t = threadIdx.x; t < count * columns; t += blockDim.x)
    term[t % columns * apart + t / columns] = terms[event * columns + t];
  const float *share = shares + (size_t)tile.slate * (width + head);
  for (u32 c = warp; c < tile.count; c += warps) {
    const size_t number = tile.first + c;
    const CandidateSlots candidate = candidates[number];
    const float *item = items + candidate.item * (size_t)row_of(of);
    for (u32 i = lane; i < width; i += WARP) vectors[c * width + i] = item[i];
    for (u32 i = lane; i < columns; i += WARP) own[c * columns + i] = item[width + i];
    float *input = inputs + c * stride;
    for (u32 i = lane; i < of.features; i += WARP) input[3 * width + i] = features[number * of.features + i];
    const float *card = cards + candidate.card * (size_t)of.reasons * 2 * width;
    attend_reasons(input + 2 * width, attention + number * of.reasons, odds + c * of.heads * of.reasons, share, card,
                   overlaps + number * of.reasons, overlap_weights, candidate.reasons, of);
    const float *vector = item + width + columns + head;
    float sum = 0.0f;
    for (u32 i = lane; i < of.rechead; i += WARP) sum += shoppers[(size_t)tile.slate * of.rechead + i] * vector[i];
    sum = warp_sum(sum);
    if (lane == 0) rechead[number] = sum;
  }
  __syncthreads();

  // The target attention's weight of each event for each candidate. A thread has two candidates and one event.
  for (u32 t = threadIdx.x; t < (tile.count + 1) / 2 * count; t += blockDim.x) {
    const u32 e = t % count, a = t / count * 2, b = min(a + 1, tile.count - 1);
    float sums[2][SECOND];
#pragma unroll
    for (u32 i = 0; i < SECOND; i++) sums[0][i] = sums[1][i] = bias[i];
    for (u32 from = 0; from < columns; from += FIRST) {
      float hidden[2][FIRST];
#pragma unroll
      for (u32 j = 0; j < FIRST; j++) {
        const float its = term[(from + j) * apart + e];
        hidden[0][j] = own[a * columns + from + j] + its;
        hidden[1][j] = own[b * columns + from + j] + its;
      }
      for (u32 k = 0; k < width; k++) {
        const float number = lines[k * apart + e];
        const float x = vectors[a * width + k] * number, y = vectors[b * width + k] * number;
        const float4 *row = reinterpret_cast<const float4 *>(pair + (from * width + k * FIRST));
#pragma unroll
        for (u32 j = 0; j < FIRST; j += 4) {
          add_scaled(hidden[0] + j, x, row[j / 4]);
          add_scaled(hidden[1] + j, y, row[j / 4]);
        }
      }
#pragma unroll
      for (u32 j = 0; j < FIRST; j++) {
        const float x = fmaxf(hidden[0][j], 0.0f), y = fmaxf(hidden[1][j], 0.0f);
        const float4 *row = reinterpret_cast<const float4 *>(second + (from + j) * SECOND);
#pragma unroll
        for (u32 i = 0; i < SECOND; i += 4) {
          add_scaled(sums[0] + i, x, row[i / 4]);
          add_scaled(sums[1] + i, y, row[i / 4]);
        }
      }
    }
    float weight_of_event[2] = {*third_bias, *third_bias};
#pragma unroll
    for (u32 i = 0; i < SECOND; i++) {
      weight_of_event[0] += fmaxf(sums[0][i], 0.0f) * third[i];
      weight_of_event[1] += fmaxf(sums[1][i], 0.0f) * third[i];
    }
    event_weights[a * of.history + e] = weight_of_event[0];
    if (b != a) event_weights[b * of.history + e] = weight_of_event[1];
  }
  __syncthreads();

  const float scale = 1.0f / sqrtf((float)max(count, 1u));
  for (u32 t = threadIdx.x; t < tile.count * width; t += blockDim.x) {
    const u32 c = t / width, i = t % width;
    float sum = 0.0f;
    for (u32 e = 0; e < count; e++) sum += event_weights[c * of.history + e] * lines[i * apart + e];
    inputs[c * stride + i] = sum * scale;
    inputs[c * stride + width + i] = sum * scale * vectors[c * width + i];
  }
  __syncthreads();
  multiply<5>(inputs, stride, tile.count, inner, head_weights, head, [&](u32 c, u32 column, float sum) {
    const CandidateSlots candidate = candidates[tile.first + c];
    const float *item = items + candidate.item * (size_t)row_of(of) + width + columns;
    const float *reasons = candidate.reasons ? some_reasons : no_reasons;
    first[c * head_stride + column] = fmaxf(sum + share[width + column] + item[column] + reasons[column], 0.0f);
  });
  __syncthreads();
  multiply<2>(first, head_stride, tile.count, head, second_weights, of.head_second, [&](u32 c, u32 column, float sum) {
    last[c * of.head_second + column] = fmaxf(sum + second_bias[column], 0.0f);
  });
  __syncthreads();
  for (u32 c = warp; c < tile.count; c += warps) {
    float sum = 0.0f;
    for (u32 i = lane; i < of.head_second; i += WARP) sum += last[c * of.head_second + i] * last_weights[i];
    sum = warp_sum(sum);
    if (lane == 0) logits[tile.first + c] = sum + *last_bias;
  }
}
