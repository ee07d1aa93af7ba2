// Attention over paged keys and values.
#pragma once

#include "tensor.h"

// Attention on tensor cores. A row's result is the same to the bit however it is launched: alone or beside other rows,
// and with any number of blocks. For that, its sums are in an order that depends on its list of pages alone:
//
// - The list is split into parts of PAGES_A_PART pages. A part has a slot for each token that its pages could hold, and
//   tokens that a row doesn't see have weight zero. All scores of a part are computed before its softmax, so a part has
//   one highest score. Each weight is computed once, rounded to bf16, and multiplied with the values in slot order.
// - Parts are added in order by `join`, both in `attend_rows`, which has them in registers, and in `attend_merge`, which
//   reads them from memory. A part that a row sees nothing of changes nothing.
//
// Keys and values of a part are loaded in chunks of PAGES_A_CHUNK pages. A chunk that no row of a block sees is neither
// loaded nor multiplied. For a row that doesn't see a chunk, it makes no difference whether others do: it adds zeros.
// So the tokens of a page must be finite numbers; memory behind them is never read.
//
// A tile of `attend_rows` may hold rows of several groups, such as branches of one trunk, whose page lists begin alike.
// The shared pages are loaded once for all groups, and then the pages of each group, one group after the other. Each row
// still meets the parts of its own list in order, and sees nothing of the parts of other groups.
//
// Pages of 8 bits are converted to bf16 once a part has arrived. The rest is the same.
//
// While the scores of a part are computed, its values are loaded. While its values are mixed, the keys of the next part
// are loaded.

static const u32 PAGES_A_CHUNK = 2;
static const u32 CHUNKS_A_PART = PAGES_A_PART / PAGES_A_CHUNK;
static const u32 CHUNK_TOKENS = PAGES_A_CHUNK * PAGE_TOKENS;
// Threads of a block of `attend_rows`, and of `attend_parts`.
static const u32 ROWS_THREADS = ROWS_WARPS * WARP;
static const u32 PARTS_THREADS = WARP;

// Tokens of a warp, and of a block, of `attend_rows`: whole groups of query heads that fit a fragment.
template <int GROUP>
static constexpr u32 WARP_TOKENS = FRAGMENT_ROWS / GROUP;
template <int GROUP>
static constexpr u32 TILE_TOKENS = ROWS_WARPS * WARP_TOKENS<GROUP>;

// A head's keys or values in a page: token after token, in bf16 or E4M3. Behind E4M3 numbers there is a byte for each
// token: the exponent of its scale, a power of two, as f32 encodes it. Multiplying by a power of two leaves an E4M3
// mantissa unchanged, so the products are exact in bf16. A token behind the last one has exponent zero.
template <class Kv>
static constexpr u32 SCALES_PER_TOKEN = sizeof(Kv) == 1 ? 1 : 0;
template <int DIM, class Kv>
static constexpr u32 HEAD_PAGE_NUMBERS = PAGE_TOKENS * (DIM + SCALES_PER_TOKEN<Kv>);

// The power of two of an exponent, and its inverse; and the least exponent whose power brings numbers up to the greatest
// into the range of E4M3.
static __device__ __forceinline__ float power_of(u32 exponent) { return __uint_as_float(exponent << 23); }
static __device__ __forceinline__ float inverse_power_of(u32 exponent) { return power_of(254 - exponent); }
static __device__ __forceinline__ u32 exponent_for(float greatest) {
  const u32 bits = __float_as_uint(__fdiv_rn(greatest, FLOAT8_MOST));
  return min(max((bits >> 23) + ((bits & 0x7fffff) != 0), 1u), 253u);
}

// Numbers of a token in shared memory: a head shorter than a step of a product is padded with zeros, and 8 numbers of
// padding put 8 tokens that are loaded at once in different banks. SHARED_BYTES is a block's dynamic shared memory: keys
// and values of a part in bf16; with E4M3 pages both as they are stored, and a buffer in bf16 for one of them at a time.
template <int DIM>
static constexpr u32 SHARED_ROW = (DIM < 16 ? 16 : DIM) + 8;
template <int DIM, class Kv>
static constexpr u32 SHARED_BYTES =
    sizeof(Kv) == 1 ? PAGES_A_PART * (PAGE_TOKENS * SHARED_ROW<DIM> * 2 + 2 * HEAD_PAGE_NUMBERS<DIM, Kv>)
                      : 2 * PAGES_A_PART * PAGE_TOKENS * SHARED_ROW<DIM> * 2;

// Parts that a row's pages are split into: one at least.
static __device__ u32 parts_of(const PageRange *ranges, u32 row) {
  const u32 pages = ranges[row].end - ranges[row].begin;
  return pages ? (pages + PAGES_A_PART - 1) / PAGES_A_PART : 1;
}

// A RowTile has TILE_TOKENS rows at most, and maybe none. Neighbours with the same range are a group. If there are several
// groups, their page lists must begin with the same `shared` whole parts: the same pages with the same tokens. For one
// group any number is right, and zero is simplest.

// A softmax's running sum over some of the keys that a query sees: their highest score (a power of two), and the sum of
// their weights relative to it.
struct PartSum {
  float highest, weight;
};

// The factors of the values before and of those of the next part, when their sums are joined.
struct Factors {
  float before, more;
};

// Adds a part to the sum of the parts before it. A part without visible tokens has zeros as values, and the factor minus
// zero keeps the sum unchanged, including the sign of a zero.
static __device__ __forceinline__ Factors join(PartSum &sum, PartSum part) {
  const float highest = fmaxf(sum.highest, part.highest);
  const bool nothing = part.highest == -INFINITE;
  const Factors factors = {nothing ? 1.0f : power_of_two(__fsub_rn(sum.highest, highest)),
                           nothing ? -0.0f : power_of_two(__fsub_rn(part.highest, highest))};
  sum.highest = highest;
  sum.weight = __fmaf_rn(part.weight, factors.more, __fmul_rn(sum.weight, factors.before));
  return factors;
}

static __device__ __forceinline__ float joined(float value, float more, Factors factors) {
  return __fmaf_rn(more, factors.more, __fmul_rn(value, factors.before));
}

// The last factor of a row's values: one over the sum of its weights.
static __device__ __forceinline__ float share_of(PartSum sum) { return __fdiv_rn(1.0f, sum.weight); }

// The first and the last position of some rows. Without rows, the first is behind the last.
struct Span {
  u32 first, last;
};

// The span of rows in any order, for a whole warp.
static __device__ Span span_of(const u32 *positions, u32 rows) {
  Span span = {EVERYONE, 0};
  for (u32 row = threadIdx.x % WARP; row < rows; row += WARP) {
    span.first = min(span.first, positions[row]);
    span.last = max(span.last, positions[row]);
  }
  for (int far = WARP / 2; far > 0; far /= 2) {
    span.first = min(span.first, __shfl_xor_sync(EVERYONE, span.first, far));
    span.last = max(span.last, __shfl_xor_sync(EVERYONE, span.last, far));
  }
  return span;
}

// One turn of a block, which is a part: where its pages begin, and where its page list ends; the rows of the block that
// may see it, and whether some or all of the warp's rows are among them.
struct Turn {
  u32 begin, end, rows;
  bool some, all;
};

// The pages of a block's next parts, one page per lane, with the rows that may see it. Three sets with a bit per page: pages
// that a row of the block sees, that a row of the warp sees, and that all rows of the warp see wholly.
struct Look {
  SeenPage page;
  u32 rows, block, warp, whole;
};
static const u32 PARTS_A_LOOK = WARP / PAGES_A_PART;

// For a set of pages of one part: the first page of each chunk with a page in the set, and of each chunk wholly in it.
static const u32 CHUNK_BEGINNINGS = 0x55;
static __device__ __forceinline__ u32 chunks_with(u32 pages) { return (pages | pages >> 1) & CHUNK_BEGINNINGS; }
static __device__ __forceinline__ u32 chunks_within(u32 pages) { return pages & pages >> 1 & CHUNK_BEGINNINGS; }
static_assert(PAGES_A_CHUNK == 2 && PAGES_A_PART == 8, "a part's pages are a byte of a set, and a chunk's a pair of bits");

// The turns of a block with one row: every `stride`-th of its parts. Other blocks take the parts in between.
struct TurnsOfRow {
  u32 begin, end, stride, count;

  __device__ __forceinline__ Turn at(u32 turn) const {
    return Turn{begin + turn * stride * PAGES_A_PART, end, 0, true, true};
  }

  __device__ __forceinline__ bool may_see(const Look &, u32, u32) const { return true; }
};

// Consecutive turns of a tile in one page list. A turn's pages begin PAGES_A_PART times its number behind `offset`, which
// may wrap around below zero. `until` is the turn behind the last. `rows` are the rows that may see the pages: the first
// of them, and in the upper half of the bits the one behind the last.
struct Stretch {
  u32 offset, end, until, rows;
};

static __device__ __forceinline__ u32 rows_between(u32 first, u32 behind) { return first | behind << 16; }

// The turns of a block with a tile: the pages that all rows share, and then those of each group. The stretches are in
// shared memory, and behind the last is an endless one without pages.
struct TurnsOfTile {
  const Stretch *stretches;
  u32 count;
  // The tile's rows before those of the warp, and the warp's rows.
  u32 before, tokens;

  __device__ __forceinline__ Turn at(u32 turn) const {
    const Stretch *of = stretches;
    while (of->until <= turn) of++;
    const u32 first = of->rows & 0xffff, behind = of->rows >> 16;
    return Turn{of->offset + turn * PAGES_A_PART, of->end, of->rows, first < before + tokens && before < behind,
                first <= before && before + tokens <= behind};
  }

  // Whether a row of the warp may see the part of a turn.
  __device__ __forceinline__ bool may_see(const Look &look, u32 turn, u32 row_of_warp) const {
    const u32 rows = __shfl_sync(EVERYONE, look.rows, turn % PARTS_A_LOOK * PAGES_A_PART), row = before + row_of_warp;
    return row >= (rows & 0xffff) && row < rows >> 16;
  }
};

// Finds the stretches of a tile, for a whole warp: the shared one, one for each group, and the one without pages. Returns
// the number of turns.
static __device__ __forceinline__ u32 find_stretches(Stretch *stretches, const PageRange *ranges, const RowTile &tile) {
  u32 found = 0, turns = tile.rows > 0 ? tile.shared : 0, first = 0;
  for (u32 before = 0; before < tile.rows; before += WARP) {
    const u32 row = before + threadIdx.x % WARP;
    const PageRange *of = ranges + tile.first + min(row, tile.rows - 1);
    const bool begins = row < tile.rows && (row == 0 || of->begin != of[-1].begin || of->end != of[-1].end);
    for (u32 left = __ballot_sync(EVERYONE, begins); left; left &= left - 1) {
      const u32 lane = __ffs(left) - 1;
      const u32 begin = __shfl_sync(EVERYONE, of->begin, lane), end = __shfl_sync(EVERYONE, of->end, lane);
      if (found == 0) stretches[found++] = Stretch{begin, end, turns, rows_between(0, tile.rows)};
      // The previous group ends here.
      else stretches[found - 1].rows = rows_between(first, before + lane);
      first = before + lane;
      const u32 parts = (end - begin + PAGES_A_PART - 1) / PAGES_A_PART;
      const u32 offset = begin + (tile.shared - turns) * PAGES_A_PART;
      turns += parts > tile.shared ? parts - tile.shared : 0;
      stretches[found++] = Stretch{offset, end, turns, rows_between(first, tile.rows)};
    }
  }
  stretches[found] = Stretch{0, 0, EVERYONE, 0};
  return turns;
}

// Attention of a block: WARPS warps with TOKENS tokens each, and GROUP query heads per KV head.
template <int DIM, int GROUP, class Kv, int WARPS, int TOKENS, class Turns>
struct Attention {
  static constexpr int ROW = SHARED_ROW<DIM>;
  static constexpr int STEPS = (ROW - 8) / 16, TILES = 2 * STEPS;
  // Rows of the fragment that a lane holds numbers of: one, if the upper half is empty.
  static constexpr int HALVES = TOKENS * GROUP > 8 ? 2 : 1;
  // Numbers of a part in bf16, and numbers of a head in a page.
  static constexpr int PART = PAGES_A_PART * PAGE_TOKENS * ROW;
  static constexpr int PAGE = HEAD_PAGE_NUMBERS<DIM, Kv>;
  static constexpr bool IS_FLOAT8 = sizeof(Kv) == 1;
  // Tokens of a page that a block loads at once. Each thread loads the same 8 numbers of each.
  static constexpr int TOKENS_AT_ONCE = WARPS * WARP / TILES;

  // Of the KV head, in the first page.
  const Kv *keys, *values;
  // Numbers from one page to the next.
  u32 page_numbers;
  const SeenPage *seen;
  Turns turns;
  u32 window;
  float scale;
  Span block, warp;
  bf16 *shared;

  __device__ __forceinline__ bool sees(const SeenPage &page, Span rows) const {
    return page.tokens > 0 && rows.first <= rows.last && page.first <= rows.last &&
           (window == 0 || page.first + page.tokens + window > rows.first + 1);
  }

  __device__ __forceinline__ bool sees_whole(const SeenPage &page, Span rows) const {
    return page.tokens == PAGE_TOKENS && page.first + PAGE_TOKENS <= rows.first + 1 &&
           (window == 0 || page.first + window > rows.last);
  }

  __device__ __forceinline__ Look look(u32 turn) const {
    const u32 lane = threadIdx.x % WARP;
    const Turn of = turns.at(turn + lane / PAGES_A_PART);
    const u32 at = of.begin + lane % PAGES_A_PART;
    Look found;
    found.page = SeenPage{0, 0, 0};
    if (at < of.end) found.page = seen[at];
    found.rows = of.rows;
    found.block = __ballot_sync(EVERYONE, sees(found.page, block));
    found.warp = __ballot_sync(EVERYONE, of.some && sees(found.page, warp));
    found.whole = __ballot_sync(EVERYONE, of.all && sees_whole(found.page, warp));
    return found;
  }

  // The pages of a part, out of those of a look.
  static __device__ __forceinline__ u32 of_part(u32 pages, u32 turn) {
    return pages >> turn % PARTS_A_LOOK * PAGES_A_PART & 0xff;
  }

  // The next turn, from one on, whose part a row of the block sees; behind the last if there is none. `pass` is called for
  // each turn in between.
  template <class Pass>
  __device__ __forceinline__ u32 next_seen(Look &look, u32 turn, Pass pass) const {
    for (; turn < turns.count; turn++) {
      if (turn % PARTS_A_LOOK == 0) look = this->look(turn);
      if (of_part(look.block, turn)) break;
      pass(turn);
    }
    return turn;
  }

  // Starts to load keys or values of a part: its chunks that a row of the block sees.
  __device__ __forceinline__ void load(bf16 *to, const bf16 *from, const Look &look, u32 turn) const {
    const int its = threadIdx.x / TILES, number = threadIdx.x % TILES * 8;
    from += its * DIM + number;
    to += its * ROW + number;
    const u32 chunks = chunks_with(of_part(look.block, turn));
#pragma unroll 1
    for (u32 left = chunks | chunks << 1; left; left &= left - 1) {
      const int in_part = __ffs(left) - 1, at = turn % PARTS_A_LOOK * PAGES_A_PART + in_part;
      const u32 page = __shfl_sync(EVERYONE, look.page.page, at);
      const int tokens = __shfl_sync(EVERYONE, look.page.tokens, at);
      const bf16 *of_page = from + (size_t)page * page_numbers;
#pragma unroll
      for (int token = 0; token < (int)PAGE_TOKENS; token += TOKENS_AT_ONCE)
        if (TOKENS_AT_ONCE <= (int)PAGE_TOKENS || its < (int)PAGE_TOKENS)
          start_copy(to + (in_part * PAGE_TOKENS + token) * ROW, of_page + token * DIM,
                     token + its < tokens && number < DIM);
    }
  }

  // The same for E4M3, as stored.
  __device__ __forceinline__ void load(float8 *to, const float8 *from, const Look &look, u32 turn) const {
    const int thread = threadIdx.x;
    const u32 chunks = chunks_with(of_part(look.block, turn));
#pragma unroll 1
    for (u32 left = chunks | chunks << 1; left; left &= left - 1) {
      const int in_part = __ffs(left) - 1, at = turn % PARTS_A_LOOK * PAGES_A_PART + in_part;
      const u32 page = __shfl_sync(EVERYONE, look.page.page, at);
      const int tokens = __shfl_sync(EVERYONE, look.page.tokens, at);
      const float8 *of_page = from + (size_t)page * page_numbers;
      float8 *to_page = to + in_part * PAGE;
      for (int byte = thread * 16; byte < (int)PAGE_TOKENS * DIM; byte += WARPS * WARP * 16)
        start_copy_of(to_page + byte, of_page + byte, min(max(tokens * DIM - byte, 0), 16));
      if (thread == in_part) start_copy_of(to_page + PAGE_TOKENS * DIM, of_page + PAGE_TOKENS * DIM, tokens);
    }
  }

  // Converts loaded chunks from E4M3 to bf16, for the whole block.
  __device__ __forceinline__ void widen(bf16 *to, const float8 *from, u32 chunks) const {
    const int its = threadIdx.x / TILES, number = threadIdx.x % TILES * 8;
#pragma unroll 1
    for (u32 left = chunks | chunks << 1; left; left &= left - 1) {
      const int in_part = __ffs(left) - 1;
      const float8 *page = from + in_part * PAGE;
#pragma unroll
      for (int first = 0; first < (int)PAGE_TOKENS; first += TOKENS_AT_ONCE) {
        const int token = first + its;
        if (TOKENS_AT_ONCE > (int)PAGE_TOKENS && its >= (int)PAGE_TOKENS) continue;
        uint4 eight = {0, 0, 0, 0};
        if (number < DIM) {
          const uint2 bytes = *reinterpret_cast<const uint2 *>(page + token * DIM + number);
          const float factor = power_of(page[PAGE_TOKENS * DIM + token]);
          const uint2 four = pairs_of_float8s(bytes.x, factor), next = pairs_of_float8s(bytes.y, factor);
          eight = uint4{four.x, four.y, next.x, next.y};
        }
        *reinterpret_cast<uint4 *>(to + (in_part * PAGE_TOKENS + token) * ROW + number) = eight;
      }
    }
    sync_block();
  }

  __device__ __forceinline__ void widen(bf16 *, const bf16 *, u32) const {}

  static __device__ __forceinline__ void sync_block() {
    if (WARPS > 1) __syncthreads();
    else __syncwarp();
  }

  // Waits until the copies of all threads have arrived, and until no thread reads the previous numbers.
  template <int GROUPS>
  static __device__ __forceinline__ void await_all() {
    await_copies<GROUPS>();
    sync_block();
  }

  // Attends to all parts in order. `queries` are the rows of the fragment, and `row_positions` the positions of those that
  // the lane holds numbers of. Calls `take(turn, sums, values)` for each part that the warp sees, and `pass(turn)` for
  // each part that no row of the block sees.
  template <class Take, class Pass>
  __device__ __forceinline__ void attend(const u32 (&queries)[STEPS][4], const u32 (&row_positions)[HALVES], Take take,
                                         Pass pass) const {
    const int lane = threadIdx.x % WARP;
    // With E4M3 pages, keys and values share one bf16 buffer.
    bf16 *const part_keys = shared, *const part_values = IS_FLOAT8 ? shared : shared + PART;
    Kv *const loaded_keys = reinterpret_cast<Kv *>(IS_FLOAT8 ? shared + PART : shared);
    Kv *const loaded_values = loaded_keys + (IS_FLOAT8 ? PAGES_A_PART * PAGE : PART);
    const bf16 *const keys_of_lane = part_keys + (lane / 16 * 8 + lane % 8) * ROW + lane / 8 % 2 * 8;
    const bf16 *const values_of_lane = part_values + lane % 16 * ROW + lane / 16 * 8;
    Look look;
    u32 turn = next_seen(look, 0, pass);
    if (turn == turns.count) return;
    load(loaded_keys, keys, look, turn);
    commit_copies();
    load(loaded_values, values, look, turn);
    for (bool first = true; turn < turns.count; first = false) {
      const u32 own = chunks_with(of_part(look.warp, turn)), whole = chunks_within(of_part(look.whole, turn));
      // One group of copies may be left: an empty one, or the first values.
      commit_copies();
      await_all<1>();
      const u32 loaded = chunks_with(of_part(look.block, turn));
      widen(part_keys, loaded_keys, loaded);
      if (!first) load(loaded_values, values, look, turn);
      commit_copies();

      // The position behind a row that may see the part. For other rows 0, so that they see nothing.
      int behind_rows[HALVES];
#pragma unroll
      for (int half = 0; half < HALVES; half++)
        behind_rows[half] = turns.may_see(look, turn, (lane / 4 + half * 8) / GROUP) ? (int)row_positions[half] + 1 : 0;

      // Scores, by chunk and by 8 tokens of it.
      constexpr int EIGHTS = CHUNK_TOKENS / 8;
      float scores[CHUNKS_A_PART][EIGHTS][4];
#pragma unroll
      for (int chunk = 0; chunk < (int)CHUNKS_A_PART; chunk++) {
#pragma unroll
        for (int eight = 0; eight < EIGHTS; eight++)
#pragma unroll
          for (int i = 0; i < 4; i++) scores[chunk][eight][i] = 0.0f;
        const u32 bit = 1u << chunk * PAGES_A_CHUNK;
        if (!(own & bit)) continue;
#pragma unroll
        for (int step = 0; step < STEPS; step++)
#pragma unroll
          for (int eight = 0; eight < EIGHTS; eight += 2) {
            u32 matrices[4];
            load_matrices(matrices, keys_of_lane + (chunk * CHUNK_TOKENS + eight * 8) * ROW + step * 16);
            multiply_add(scores[chunk][eight], queries[step], matrices[0], matrices[1]);
            multiply_add(scores[chunk][eight + 1], queries[step], matrices[2], matrices[3]);
          }
        if (whole & bit) continue;
#pragma unroll
        for (int page = 0; page < (int)PAGES_A_CHUNK; page++) {
          const int at = turn % PARTS_A_LOOK * PAGES_A_PART + chunk * PAGES_A_CHUNK + page;
          const int first_at = __shfl_sync(EVERYONE, look.page.first, at);
          const int tokens = __shfl_sync(EVERYONE, look.page.tokens, at);
#pragma unroll
          for (int half = 0; half < HALVES; half++) {
            const int behind = behind_rows[half] - first_at, end = min(tokens, behind);
            const int begin = window ? behind - (int)window : 0;
#pragma unroll
            for (int i = 0; i < 4; i++) {
              const int token = i / 2 * 8 + lane % 4 * 2 + i % 2;
              float &score = scores[chunk][page * 2 + i / 2][half * 2 + i % 2];
              score = token >= begin && token < end ? score : -INFINITE;
            }
          }
        }
      }

      // Weights and their sum: each lane in the order of its tokens, and then over the four lanes of a row.
      PartSum sums[HALVES];
      float lowered[HALVES];
#pragma unroll
      for (int half = 0; half < HALVES; half++) {
        float highest = -INFINITE;
#pragma unroll
        for (int chunk = 0; chunk < (int)CHUNKS_A_PART; chunk++) {
          if (!(own >> chunk * PAGES_A_CHUNK & 1)) continue;
#pragma unroll
          for (int eight = 0; eight < EIGHTS; eight++)
            highest = fmaxf(highest, fmaxf(scores[chunk][eight][half * 2], scores[chunk][eight][half * 2 + 1]));
        }
        highest = fmaxf(highest, __shfl_xor_sync(EVERYONE, highest, 1));
        highest = fmaxf(highest, __shfl_xor_sync(EVERYONE, highest, 2));
        sums[half] = PartSum{__fmul_rn(highest, scale), 0.0f};
        // A row that sees nothing has weights of zero, not of infinity minus infinity.
        lowered[half] = highest == -INFINITE ? 0.0f : -sums[half].highest;
      }
      u32 weights[CHUNKS_A_PART][PAGES_A_CHUNK][4];
#pragma unroll
      for (int chunk = 0; chunk < (int)CHUNKS_A_PART; chunk++) {
#pragma unroll
        for (int page = 0; page < (int)PAGES_A_CHUNK; page++)
#pragma unroll
          for (int i = 0; i < 4; i++) weights[chunk][page][i] = 0;
        if (!(own >> chunk * PAGES_A_CHUNK & 1)) continue;
#pragma unroll
        for (int eight = 0; eight < EIGHTS; eight++)
#pragma unroll
          for (int half = 0; half < HALVES; half++) {
            const float *of = &scores[chunk][eight][half * 2];
            const float weight = power_of_two(__fmaf_rn(of[0], scale, lowered[half]));
            const float next = power_of_two(__fmaf_rn(of[1], scale, lowered[half]));
            sums[half].weight = __fadd_rn(__fadd_rn(sums[half].weight, weight), next);
            weights[chunk][eight / 2][eight % 2 * 2 + half] = pair_of(weight, next);
          }
      }
#pragma unroll
      for (int half = 0; half < HALVES; half++) {
        sums[half].weight = __fadd_rn(sums[half].weight, __shfl_xor_sync(EVERYONE, sums[half].weight, 1));
        sums[half].weight = __fadd_rn(sums[half].weight, __shfl_xor_sync(EVERYONE, sums[half].weight, 2));
      }

      const u32 this_turn = turn;
      turn = next_seen(look, turn + 1, pass);
      await_all<0>();
      widen(part_values, loaded_values, loaded);
      if (turn < turns.count) load(loaded_keys, keys, look, turn);
      commit_copies();
      float mixed[TILES][4];
#pragma unroll
      for (int tile = 0; tile < TILES; tile++)
#pragma unroll
        for (int i = 0; i < 4; i++) mixed[tile][i] = 0.0f;
#pragma unroll
      for (int chunk = 0; chunk < (int)CHUNKS_A_PART; chunk++) {
        if (!(own >> chunk * PAGES_A_CHUNK & 1)) continue;
#pragma unroll
        for (int page = 0; page < (int)PAGES_A_CHUNK; page++)
#pragma unroll
          for (int tile = 0; tile < TILES; tile += 2) {
            u32 matrices[4];
            const int first_token = chunk * CHUNK_TOKENS + page * PAGE_TOKENS;
            load_matrices_transposed(matrices, values_of_lane + first_token * ROW + tile * 8);
            multiply_add(mixed[tile], weights[chunk][page], matrices[0], matrices[1]);
            multiply_add(mixed[tile + 1], weights[chunk][page], matrices[2], matrices[3]);
          }
      }
      if (own) take(this_turn, sums, mixed);
    }
  }
};

// Queries of some tokens as a fragment. Rows behind the last repeat its token, and are not read.
template <int DIM, int GROUP, int STEPS, int HALVES>
static __device__ __forceinline__ void load_queries(u32 (&queries)[STEPS][4], u32 (&row_positions)[HALVES],
                                                    const bf16 *from, const u32 *positions, u32 tokens,
                                                    const Heads &of, u32 kv_head) {
  const u32 lane = threadIdx.x % WARP;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const u32 row = lane / 4 + half * 8, token = min(row / GROUP, tokens - 1);
    const bool used = half < HALVES && tokens > 0;
    const bf16 *query = from + (used ? ((size_t)token * of.heads + kv_head * GROUP + row % GROUP) * DIM : 0);
    if (half < HALVES) row_positions[half < HALVES ? half : 0] = used ? positions[token] : 0;
#pragma unroll
    for (int step = 0; step < STEPS; step++)
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const u32 column = step * 16 + i * 8 + lane % 4 * 2;
        queries[step][i * 2 + half] = used && column < DIM ? load_pair(query + column) : 0;
      }
  }
}

// The scale that turns powers of e into powers of two: log2(e).
static __device__ __forceinline__ float in_powers_of_two(float scale) { return __fmul_rn(scale, 1.44269504f); }

// Attention tile by tile, for prefill chunks and branches. Grid: (tiles, kv_heads).
template <int DIM, int GROUP, class Kv>
static __device__ __forceinline__ void attend_rows(bf16 *attended, const bf16 *queries, const Kv *keys,
                                                   const Kv *values, const u32 *positions, const PageRange *ranges,
                                                   const SeenPage *seen, const RowTile *tiles, float score_scale,
                                                   u32 window, const Heads &of) {
  constexpr int TOKENS = WARP_TOKENS<GROUP>;
  typedef Attention<DIM, GROUP, Kv, ROWS_WARPS, TOKENS, TurnsOfTile> Shape;
  __shared__ Stretch stretches[TILE_TOKENS<GROUP> + 2];
  __shared__ u32 turns;
  DYNAMIC_SHARED(shared);
  allow_next_kernel();
  wait_for_previous_kernel();
  const RowTile tile = tiles[blockIdx.x];
  if (threadIdx.x < WARP) turns = find_stretches(stretches, ranges, tile);
  const u32 kv_head = blockIdx.y, lane = threadIdx.x % WARP, before = threadIdx.x / WARP * TOKENS;
  const u32 first = tile.first + before, tokens = tile.rows > before ? min(tile.rows - before, (u32)TOKENS) : 0;
  Shape shape;
  shape.keys = keys + kv_head * Shape::PAGE;
  shape.values = values + kv_head * Shape::PAGE;
  shape.page_numbers = of.kv_heads * Shape::PAGE;
  shape.seen = seen;
  shape.window = window;
  shape.scale = in_powers_of_two(score_scale);
  shape.block = span_of(positions + tile.first, tile.rows);
  shape.warp = span_of(positions + first, tokens);
  shape.shared = (bf16 *)shared;
  u32 query[Shape::STEPS][4], row_positions[Shape::HALVES];
  load_queries<DIM, GROUP>(query, row_positions, queries + (size_t)first * of.heads * DIM, positions + first, tokens, of,
                           kv_head);

  PartSum sums[Shape::HALVES];
  float mixed[Shape::TILES][4];
#pragma unroll
  for (int half = 0; half < Shape::HALVES; half++) sums[half] = PartSum{-INFINITE, 0.0f};
#pragma unroll
  for (int column = 0; column < Shape::TILES; column++)
#pragma unroll
    for (int i = 0; i < 4; i++) mixed[column][i] = 0.0f;
  const auto take = [&](u32, const PartSum(&part)[Shape::HALVES], const float(&more)[Shape::TILES][4]) {
#pragma unroll
    for (int half = 0; half < Shape::HALVES; half++) {
      const Factors factors = join(sums[half], part[half]);
#pragma unroll
      for (int column = 0; column < Shape::TILES; column++)
#pragma unroll
        for (int i = 2 * half; i < 2 * half + 2; i++)
          mixed[column][i] = joined(mixed[column][i], more[column][i], factors);
    }
  };
  __syncthreads();
  shape.turns = TurnsOfTile{stretches, turns, before, tokens};
  shape.attend(query, row_positions, take, [](u32) {});

#pragma unroll
  for (int half = 0; half < Shape::HALVES; half++) {
    const u32 row = lane / 4 + half * 8;
    if (row >= tokens * GROUP) continue;
    const float share = share_of(sums[half]);
    bf16 *to = attended + ((size_t)(first + row / GROUP) * of.heads + kv_head * GROUP + row % GROUP) * DIM + lane % 4 * 2;
#pragma unroll
    for (int column = 0; column < DIM / 8; column++)
      store_pair(to + column * 8, pair_of(__fmul_rn(mixed[column][2 * half], share),
                                          __fmul_rn(mixed[column][2 * half + 1], share)));
  }
}

// Attention of single rows, part by part, for decoding (split-KV). Grid: (rows, kv_heads, blocks). Blocks take turns at the
// parts of a row, so any number of blocks fits any number of parts, up to `parts_max`. For a part that the row sees nothing
// of, only the sum is written.
template <int DIM, int GROUP, class Kv>
static __device__ __forceinline__ void attend_parts(float *parts, PartSum *sums, const bf16 *queries, const Kv *keys,
                                                    const Kv *values, const u32 *positions, const PageRange *ranges,
                                                    const SeenPage *seen, float score_scale, u32 window, u32 parts_max,
                                                    const Heads &of) {
  typedef Attention<DIM, GROUP, Kv, 1, 1, TurnsOfRow> Shape;
  DYNAMIC_SHARED(shared);
  allow_next_kernel();
  wait_for_previous_kernel();
  const u32 row = blockIdx.x, kv_head = blockIdx.y, count = parts_of(ranges, row), head = threadIdx.x / 4;
  Shape shape;
  shape.keys = keys + kv_head * Shape::PAGE;
  shape.values = values + kv_head * Shape::PAGE;
  shape.page_numbers = of.kv_heads * Shape::PAGE;
  shape.seen = seen;
  shape.turns.begin = ranges[row].begin + blockIdx.z * PAGES_A_PART;
  shape.turns.end = ranges[row].end;
  shape.turns.stride = gridDim.z;
  shape.turns.count = count > blockIdx.z ? (count - blockIdx.z + gridDim.z - 1) / gridDim.z : 0;
  if (shape.turns.count == 0) return;
  shape.window = window;
  shape.scale = in_powers_of_two(score_scale);
  shape.block = shape.warp = Span{positions[row], positions[row]};
  shape.shared = (bf16 *)shared;
  u32 query[Shape::STEPS][4], row_positions[Shape::HALVES];
  load_queries<DIM, GROUP>(query, row_positions, queries + (size_t)row * of.heads * DIM, positions + row, 1, of, kv_head);

  const size_t out = ((size_t)row * of.heads + kv_head * GROUP + head) * parts_max + blockIdx.z;
  const bool writes = head < GROUP;
  const u32 first = threadIdx.x % 4;
  const auto take = [&](u32 turn, const PartSum(&part)[Shape::HALVES], const float(&mixed)[Shape::TILES][4]) {
    if (!writes) return;
    const size_t at = out + turn * gridDim.z;
    if (first == 0) sums[at] = part[0];
#pragma unroll
    for (int column = 0; column < DIM / 8; column++)
      *reinterpret_cast<float2 *>(parts + at * DIM + column * 8 + first * 2) = float2{mixed[column][0], mixed[column][1]};
  };
  const auto pass = [&](u32 turn) {
    if (writes && first == 0) sums[out + turn * gridDim.z] = PartSum{-INFINITE, 0.0f};
  };
  shape.attend(query, row_positions, take, pass);
}

// Joins the parts of each row. Grid: (rows, heads).
extern "C" __global__ void attend_merge(bf16 *attended, const float *parts, const PartSum *sums, const PageRange *ranges,
                                        u32 parts_max, Heads heads) {
  allow_next_kernel();
  wait_for_previous_kernel();
  const size_t head = (size_t)blockIdx.x * heads.heads + blockIdx.y;
  const u32 count = parts_of(ranges, blockIdx.x);
  for (u32 column = threadIdx.x; column < heads.dim; column += blockDim.x) {
    PartSum sum = {-INFINITE, 0.0f};
    float value = 0.0f;
#pragma unroll 4
    for (u32 part = 0; part < count; part++) {
      const size_t at = head * parts_max + part;
      const PartSum next = sums[at];
      const float more = next.highest == -INFINITE ? 0.0f : parts[at * heads.dim + column];
      const Factors factors = join(sum, next);
      value = joined(value, more, factors);
    }
    attended[head * heads.dim + column] = __float2bfloat16(__fmul_rn(value, share_of(sum)));
  }
}

// Registers are limited so that two blocks of `attend_rows` fit a multiprocessor, and more of `attend_parts` than shared
// memory allows.
#define ATTEND_TO(ROWS, PARTS, KV, DIM, GROUP)                                                               \
  extern "C" __global__ void __launch_bounds__(ROWS_THREADS, 2) ROWS##_##DIM##_##GROUP(                      \
      bf16 *attended, const bf16 *queries, const KV *keys, const KV *values, const u32 *positions,           \
      const PageRange *ranges, const SeenPage *seen, const RowTile *tiles, float score_scale, u32 window,    \
      Heads heads) {                                                                                         \
    attend_rows<DIM, GROUP, KV>(attended, queries, keys, values, positions, ranges, seen, tiles,             \
                                score_scale, window, heads);                                                 \
  }                                                                                                          \
  extern "C" __global__ void __launch_bounds__(PARTS_THREADS, 8) PARTS##_##DIM##_##GROUP(                    \
      float *parts, PartSum *sums, const bf16 *queries, const KV *keys, const KV *values,                    \
      const u32 *positions, const PageRange *ranges, const SeenPage *seen, float score_scale, u32 window,    \
      u32 parts_max, Heads heads) {                                                                          \
    attend_parts<DIM, GROUP, KV>(parts, sums, queries, keys, values, positions, ranges, seen, score_scale,   \
                                 window, parts_max, heads);                                                  \
  }
#define ATTEND(DIM, GROUP)                              \
  ATTEND_TO(attend_rows, attend_parts, bf16, DIM, GROUP) \
  ATTEND_TO(attend_rows_float8, attend_parts_float8, float8, DIM, GROUP)
FOR_EACH_HEAD_SHAPE(ATTEND)
