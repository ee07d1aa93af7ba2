// The scorer's network on the GPU, for a batch of slates: the same sums as the processor's, in f32.
//
// What is known before a request was computed before it, and lies on the device: an item's row is its vector
// (width), its shares of the target attention's first layer (columns) and of the head's (head_first), and its vector
// in the Rechead's space (meeting); a card is the keys and values (2 width) of up to `reasons` reasons. A batch
// brings numbers that say where they are. Weights lie one after the other in the order in which a kernel reads them.
//
// Two launches are a batch. `encode_histories` has a block for each slate: three million products that hang on
// each other, so what bounds it is how long weights take from L2. `score_candidates` has a block for ten candidates
// of a slate, and is bounded by multiplications: 2,640 for each candidate and event, and 30,000 for each candidate's head,
// whose 130 KiB of weights come from L2 once a block. For candidate and event, a thread keeps both hidden layers of two
// candidates and one event in registers, so that a weight is read from shared memory once for two products, and nothing
// between candidate, event and attention is ever written down.
//
// Every sum is in an order that depends on its row alone, so that company changes nothing.

#include "warp.h"

// Sizes of the network: `Sizes` of the host. What `first` hidden numbers are padded to is `columns`.
struct Sizes {
  u32 width, text, reasons, features, history, ages, kinds, heads, layers, ffn, columns, head_first, head_second, meeting;
};

// A slate: its events among the batch's, and the row of its pattern, or NO_PATTERN.
struct Slate {
  u32 first_event, events, pattern;
};

struct Event {
  u32 item, age, kind;
};

// Neighbouring candidates of one slate, at most TILE.
struct Tile {
  u32 slate, first, count;
};

struct Candidate {
  u32 item, card, reasons;
};

static const u32 NO_PATTERN = 0xffffffffu;
static const u32 TILE = 10, TILE_THREADS = 256, HISTORY_THREADS = 512;
// Columns of the target attention's first layer that are worked on at a time, and the most of the second.
static const int FIRST = 32, SECOND = 16;
// Added to the variance by a layer norm.
static const float NORM_EPSILON = 1e-5f;

static __device__ float warp_max(float value) {
  for (int far = WARP / 2; far > 0; far /= 2) value = fmaxf(value, __shfl_xor_sync(EVERYONE, value, far));
  return value;
}

// Numbers of whole 16 bytes that hold as many.
static __device__ u32 whole(u32 count) { return (count + 3) / 4 * 4; }

static __device__ u32 row_of(const Sizes &of) { return of.width + of.columns + of.head_first + of.meeting; }

// sums += factor * weights, four at a time.
static __device__ void add_scaled(float *sums, float factor, const float4 &weights) {
  sums[0] += factor * weights.x;
  sums[1] += factor * weights.y;
  sums[2] += factor * weights.z;
  sums[3] += factor * weights.w;
}

// The next numbers of a table.
template <class T>
static __device__ T *take(T *&at, size_t count) {
  T *from = at;
  at += count;
  return from;
}

// rows (count, inner), `stride` apart, times weights (inner, columns): `out` is told each sum, by row and column.
// Rows begin at whole 16 bytes of shared memory, and neighbouring threads have neighbouring columns.
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

// normed = norm(rows), a warp a row; both may be the same.
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

// Brings rows that a batch uploaded to their places. Grid: rows.
extern "C" __global__ void place_rows(float *table, const float *rows, const u32 *places, u32 width) {
  let_next_begin();
  wait_for_last();
  const float *from = rows + (size_t)blockIdx.x * width;
  float *to = table + (size_t)places[blockIdx.x] * width;
  for (u32 i = threadIdx.x; i < width; i += blockDim.x) to[i] = from[i];
}

// The Transformer over each slate's events, S (slates, history, width); the events' terms of the target attention's first
// layer (slates, history, columns); and what a pattern says to reasons and to the head (slates, width + head_first).
// Grid: slates.
extern "C" __global__ void __launch_bounds__(HISTORY_THREADS, 1)
    encode_histories(float *encoded, float *terms, float *shares, const float *weights, const float *items,
                     const Slate *slates, const Event *events, const float *patterns, Sizes of) {
  let_next_begin();
  wait_for_last();
  ROOM(room);
  const Slate slate = slates[blockIdx.x];
  const u32 count = slate.events, width = of.width, stride = whole(width), head_width = width / of.heads;
  // An odd number of numbers from key to key, so that lanes which read one each are in each other's way nowhere.
  const u32 apart = 3 * width | 1, ffn_stride = whole(of.ffn);
  const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
  float *rows = take(room, of.history * stride), *normed = take(room, of.history * stride);
  float *seen = take(room, max(of.history * stride, whole(of.text)));
  // What is projected is read before anything is hidden, and the other way round.
  float *projected = take(room, whole(of.history * max(apart, ffn_stride))), *hidden = projected;
  float *odds = take(room, warps * of.history) + warp * of.history;

  const float *at = weights;
  const float *ages = take(at, of.ages * width), *kinds = take(at, of.kinds * width);
  const float *layers = at;
  const size_t layer = 2 * 2 * width + (size_t)3 * width * (width + 1) + (size_t)width * (width + 1) +
                       (size_t)of.ffn * (width + 1) + (size_t)width * (of.ffn + 1);

  for (u32 t = threadIdx.x; t < count * width; t += blockDim.x) {
    const u32 row = t / width, i = t % width;
    const Event event = events[slate.first_event + row];
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
    // A warp a query of a head.
    for (u32 task = warp; task < of.heads * count; task += warps) {
      const u32 head = task / count, asks = task % count;
      const float *asked = projected + asks * apart + head * head_width;
      const float *keys = projected + width + head * head_width, *values = keys + width;
      float top = -INFINITE, total = 0.0f;
      for (u32 e = lane; e < count; e += WARP) {
        float score = 0.0f;
        for (u32 i = 0; i < head_width; i++) score += asked[i] * keys[e * apart + i];
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
        seen[asks * stride + head * head_width + i] = sum / total;
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
  // The pattern has the rows that are free by now.
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

// What the reasons of a candidate come to (width), and how much each was attended to (reasons). A warp.
static __device__ void attend_reasons(float *mixed, float *attention, float *odds, const float *query, const float *card,
                                      const float *overlaps, const float *backed, u32 count, const Sizes &of) {
  const u32 lane = threadIdx.x % WARP, head_width = of.width / of.heads;
  for (u32 t = lane; t < count * of.heads; t += WARP) {
    const u32 reason = t / of.heads, head = t % of.heads;
    const float *asks = query + head * head_width, *key = card + reason * 2 * of.width + head * head_width;
    float score = 0.0f;
    for (u32 i = 0; i < head_width; i++) score += asks[i] * key[i];
    // What is left out stays so, whatever that is multiplied by.
    const float overlap = overlaps[reason];
    odds[head * of.reasons + reason] = overlap == -INFINITE ? -INFINITE : score + backed[head] * overlap;
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

// Logits (candidates), `h_u · h_v` of the Rechead (candidates) and attention over reasons (candidates, reasons), of
// what the histories came to. Grid: tiles.
extern "C" __global__ void __launch_bounds__(TILE_THREADS, 2)
    score_candidates(float *logits, float *met, float *attention, const float *weights, const float *items,
                     const float *cards, const float *encoded, const float *terms, const float *shares,
                     const float *shoppers, const Slate *slates, const Tile *tiles, const Candidate *candidates,
                     const float *features, const float *overlaps, Sizes of) {
  let_next_begin();
  wait_for_last();
  ROOM(room);
  const Tile tile = tiles[blockIdx.x];
  const u32 count = slates[tile.slate].events, width = of.width, columns = of.columns, head = of.head_first;
  // An odd number of events to a line, so that lanes which write a column are in each other's way nowhere.
  const u32 apart = of.history | 1, inner = 3 * width + of.features, stride = whole(inner), head_stride = whole(head);
  const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
  const u32 of_layers = columns * width + columns * SECOND + 2 * SECOND;
  const float *at = weights;
  const float *layers = take(at, of_layers), *third_bias = take(at, 1), *backed = take(at, of.heads);
  const float *some_reasons = take(at, head), *no_reasons = take(at, head);
  const float *head_weights = take(at, (size_t)inner * head);
  const float *second_weights = take(at, (size_t)head * of.head_second), *second_bias = take(at, of.head_second);
  const float *last_weights = take(at, of.head_second), *last_bias = at;

  // Weights of pairs: (columns / FIRST, width, FIRST), then (columns, SECOND), its bias, and the third layer.
  float *pair = take(room, columns * width), *second = take(room, columns * SECOND);
  float *bias = take(room, SECOND), *third = take(room, SECOND);
  float *inputs = take(room, TILE * stride), *first = take(room, TILE * head_stride);
  float *vectors = take(room, TILE * width), *own = take(room, TILE * columns);
  // Events and their terms, a line for each of their numbers.
  float *lines = take(room, width * apart), *term = take(room, columns * apart);
  float *pulls = take(room, TILE * of.history), *odds = take(room, TILE * of.heads * of.reasons);
  float *last = take(room, TILE * of.head_second);

  for (u32 i = threadIdx.x; i < of_layers; i += blockDim.x) pair[i] = layers[i];
  const size_t event = (size_t)tile.slate * of.history;
  for (u32 t = threadIdx.x; t < count * width; t += blockDim.x)
    lines[t % width * apart + t / width] = encoded[event * width + t];
  for (u32 t = threadIdx.x; t < count * columns; t += blockDim.x)
    term[t % columns * apart + t / columns] = terms[event * columns + t];
  const float *share = shares + (size_t)tile.slate * (width + head);
  for (u32 c = warp; c < tile.count; c += warps) {
    const size_t number = tile.first + c;
    const Candidate candidate = candidates[number];
    const float *item = items + candidate.item * (size_t)row_of(of);
    for (u32 i = lane; i < width; i += WARP) vectors[c * width + i] = item[i];
    for (u32 i = lane; i < columns; i += WARP) own[c * columns + i] = item[width + i];
    float *input = inputs + c * stride;
    for (u32 i = lane; i < of.features; i += WARP) input[3 * width + i] = features[number * of.features + i];
    const float *card = cards + candidate.card * (size_t)of.reasons * 2 * width;
    attend_reasons(input + 2 * width, attention + number * of.reasons, odds + c * of.heads * of.reasons, share, card,
                   overlaps + number * of.reasons, backed, candidate.reasons, of);
    const float *meeting = item + width + columns + head;
    float sum = 0.0f;
    for (u32 i = lane; i < of.meeting; i += WARP) sum += shoppers[(size_t)tile.slate * of.meeting + i] * meeting[i];
    sum = warp_sum(sum);
    if (lane == 0) met[number] = sum;
  }
  __syncthreads();

  // How much each event pulls at each candidate. A thread has two candidates and an event.
  for (u32 t = threadIdx.x; t < (tile.count + 1) / 2 * count; t += blockDim.x) {
    const u32 e = t % count, a = t / count * 2, b = min(a + 1, tile.count - 1);
    float sums[2][SECOND];
#pragma unroll
    for (int i = 0; i < SECOND; i++) sums[0][i] = sums[1][i] = bias[i];
    for (u32 from = 0; from < columns; from += FIRST) {
      float hidden[2][FIRST];
#pragma unroll
      for (int j = 0; j < FIRST; j++) {
        const float its = term[(from + j) * apart + e];
        hidden[0][j] = own[a * columns + from + j] + its;
        hidden[1][j] = own[b * columns + from + j] + its;
      }
      for (u32 k = 0; k < width; k++) {
        const float number = lines[k * apart + e];
        const float x = vectors[a * width + k] * number, y = vectors[b * width + k] * number;
        const float4 *row = reinterpret_cast<const float4 *>(pair + (from * width + k * FIRST));
#pragma unroll
        for (int j = 0; j < FIRST; j += 4) {
          add_scaled(hidden[0] + j, x, row[j / 4]);
          add_scaled(hidden[1] + j, y, row[j / 4]);
        }
      }
#pragma unroll
      for (int j = 0; j < FIRST; j++) {
        const float x = fmaxf(hidden[0][j], 0.0f), y = fmaxf(hidden[1][j], 0.0f);
        const float4 *row = reinterpret_cast<const float4 *>(second + (from + j) * SECOND);
#pragma unroll
        for (int i = 0; i < SECOND; i += 4) {
          add_scaled(sums[0] + i, x, row[i / 4]);
          add_scaled(sums[1] + i, y, row[i / 4]);
        }
      }
    }
    float pull[2] = {*third_bias, *third_bias};
#pragma unroll
    for (int i = 0; i < SECOND; i++) {
      pull[0] += fmaxf(sums[0][i], 0.0f) * third[i];
      pull[1] += fmaxf(sums[1][i], 0.0f) * third[i];
    }
    pulls[a * of.history + e] = pull[0];
    if (b != a) pulls[b * of.history + e] = pull[1];
  }
  __syncthreads();

  const float scale = 1.0f / sqrtf((float)max(count, 1u));
  for (u32 t = threadIdx.x; t < tile.count * width; t += blockDim.x) {
    const u32 c = t / width, i = t % width;
    float sum = 0.0f;
    for (u32 e = 0; e < count; e++) sum += pulls[c * of.history + e] * lines[i * apart + e];
    inputs[c * stride + i] = sum * scale;
    inputs[c * stride + width + i] = sum * scale * vectors[c * width + i];
  }
  __syncthreads();
  multiply<5>(inputs, stride, tile.count, inner, head_weights, head, [&](u32 c, u32 column, float sum) {
    const Candidate candidate = candidates[tile.first + c];
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
